"""Which memory lies where, and what would make a training fit."""

from dataclasses import replace

import pytest

from swd_video.cost.step_cost import KeptBytes
from swd_video.cost.training_cost import PerClip, Trainable
from swd_video.cost.training_memory import (
    Cure,
    TrainingSetup,
    TrainingSizes,
    fits,
    latents_cache_bytes,
    memory_parts,
    what_would_fit,
)

SETUP = TrainingSetup("full", batch_size=8, num_gpus=1, bf16=True, micro_batch_size=4)
KEPT = KeptBytes(
    student=PerClip(100, 1000),
    teacher=PerClip(50, 300),
    student_checkpointed=PerClip(20, 200),
    teacher_checkpointed=PerClip(0, 50),
)


def sizes_of(setup: TrainingSetup) -> TrainingSizes:
    trainable = Trainable(100, 80) if setup.kind == "full" else Trainable(10, 10)
    factor = 1 if setup.bf16 else 2
    kept = replace(KEPT, student=PerClip(100 * factor, 1000 * factor))
    return TrainingSizes(num_parameters=100, trainable=trainable, kept=kept)


def needed(setup: TrainingSetup) -> int:
    return sum(memory_parts(setup, sizes_of(setup)).values())


def test_parts_of_full_and_of_lora_training() -> None:
    assert memory_parts(SETUP, sizes_of(SETUP)) == {
        "weights": 800,
        "gradients": 400,
        "gradient_buckets": 0,
        "optimizer": 800,
        "ema": 400,
        "learners": 0,
        "activations": 4100,
        "teacher_features": 1250,
        "critic_activations": 0,
    }
    setup = replace(SETUP, kind="lora")
    lora = memory_parts(setup, sizes_of(setup))
    assert (lora["weights"], lora["gradients"], lora["optimizer"]) == (440, 40, 80)
    # The teacher's weights take half, the additions what they took.
    assert memory_parts(replace(setup, half_teacher=True), sizes_of(setup))["weights"] == 240


def test_what_learns_beside_the_student_is_held_all_the_time_and_passes_backward_after_it() -> None:
    kept = replace(KEPT, critic=PerClip(0, 900), critic_checkpointed=PerClip(0, 300))
    sizes = replace(sizes_of(SETUP), kept=kept, critic=6, heads=5)
    parts = memory_parts(SETUP, sizes)
    # A weight, its gradient and two moments.
    assert parts["learners"] == 4 * 4 * 11
    assert (parts["activations"], parts["teacher_features"], parts["critic_activations"]) == (4100, 1250, 0)
    # With checkpointing the critic's pass is the larger one here.
    parts = memory_parts(replace(SETUP, checkpointing=True), sizes)
    assert (parts["activations"], parts["teacher_features"], parts["critic_activations"]) == (0, 0, 1200)
    # The critic's additions are divided with the teacher's weights, heads are not.
    assert memory_parts(replace(SETUP, num_gpus=2, sharded=True), sizes)["learners"] == 4 * 4 * (3 + 5)


def test_checkpointing_keeps_less_of_both_networks() -> None:
    setup = replace(SETUP, checkpointing=True)
    parts = memory_parts(setup, sizes_of(setup))
    assert (parts["activations"], parts["teacher_features"]) == (820, 200)


def test_several_gpus_copy_the_gradients_and_shards_divide_what_is_replicated() -> None:
    many = memory_parts(replace(SETUP, num_gpus=4, batch_size=32), sizes_of(SETUP))
    assert many["gradient_buckets"] == many["gradients"] == 400
    sharded = memory_parts(replace(SETUP, num_gpus=4, batch_size=32, sharded=True), sizes_of(SETUP))
    assert (sharded["weights"], sharded["optimizer"], sharded["gradient_buckets"]) == (200, 200, 0)
    assert sharded["activations"] == many["activations"]


def test_the_smallest_change_that_suffices_is_named() -> None:
    room = needed(replace(SETUP, micro_batch_size=1))
    assert not fits(SETUP, sizes_of(SETUP), room)
    cures = what_would_fit(SETUP, sizes_of, room)
    assert Cure(("train.micro_batch_size: 1",), True, room) in cures
    assert all(len(cure.changes) == 1 for cure in cures)
    assert ("train.kind: lora",) not in [cure.changes for cure in cures]
    # Not for a student of whole weights.
    assert not any("load.dtype: bfloat16" in cure.changes for cure in cures)


def test_a_cure_on_the_same_gpus_is_looked_for_beyond_one_on_more() -> None:
    setup = replace(SETUP, kind="lora", checkpointing=True, batch_size=64)
    best = replace(setup, micro_batch_size=1, half_teacher=True)
    on_more = replace(setup, micro_batch_size=1, sharded=True, num_gpus=8)
    assert needed(on_more) < needed(best)
    cures = what_would_fit(setup, sizes_of, needed(best))
    here = [cure for cure in cures if cure.same_gpus]
    assert [set(cure.changes) for cure in here] == [{"load.dtype: bfloat16", "train.micro_batch_size: 1"}]
    assert cures[0].same_gpus


def test_sharding_is_a_cure_where_nothing_else_is() -> None:
    best = replace(
        SETUP,
        kind="lora",
        micro_batch_size=1,
        checkpointing=True,
        half_teacher=True,
        sharded=True,
        num_gpus=8,
    )
    (cure,) = what_would_fit(SETUP, sizes_of, needed(best))
    assert not cure.same_gpus
    assert {"train.gradient_checkpointing: true", "configs/accelerate/fsdp2.yaml on 8 GPUs"} <= set(
        cure.changes
    )
    assert what_would_fit(SETUP, sizes_of, needed(best) - 1) == []
    # Muon needs whole matrices.
    assert what_would_fit(replace(SETUP, muon=True), sizes_of, needed(best)) == []


def test_half_precision_is_a_cure_where_training_is_in_float32() -> None:
    setup = replace(SETUP, bf16=False)
    cures = what_would_fit(setup, sizes_of, needed(SETUP))
    assert ("train.mixed_precision: bf16",) in [cure.changes for cure in cures]


def test_every_cure_fits() -> None:
    for room in range(500, needed(SETUP), 250):
        for cure in what_would_fit(SETUP, sizes_of, room):
            assert cure.needed_bytes <= room


def test_the_latent_cache_is_two_bytes_a_number() -> None:
    assert latents_cache_bytes(cells=10, channels=4, prompt_numbers=7) == {"clip": 80, "caption": 14}


@pytest.mark.parametrize(
    ("gpus", "stages", "micro", "group", "at_once"),
    [(1, 1, None, 1, 24), (8, 1, None, 1, 3), (8, 3, None, 1, 1), (2, 1, 4, 1, 4), (4, 1, 12, 2, 6)],
)
def test_clips_at_once(gpus: int, stages: int, micro: int | None, group: int, at_once: int) -> None:
    setup = replace(
        SETUP, batch_size=24, num_gpus=gpus, num_stages=stages, micro_batch_size=micro, group_size=group
    )
    assert setup.divides and setup.clips_at_once == at_once
    assert not replace(setup, num_gpus=5).divides
