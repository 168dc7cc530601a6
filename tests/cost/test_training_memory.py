"""Which memory lies where, and what would make a training fit."""

from dataclasses import replace
from typing import Any

import pytest

from swd_video.cost.memory import Cure, Setup, memory_parts, what_would_fit
from swd_video.cost.networks import Kept
from swd_video.cost.step import Sizes
from swd_video.training.config import DistillConfig

STAGE = {"sigma": 1, "frames": 1, "height": 2, "width": 2}


def setup_of(
    kind: str = "full", *, dtype: str = "float32", num_gpus: int = 1, group: int = 1, **train: Any
) -> Setup:
    keys = {"batch_size": 8, "mixed_precision": "bf16", "micro_batch_size": 4, **train}
    loss = {"group": group, "mmd": [{"join": "tokens"}]} if group > 1 else {}
    values = {
        "data": {"cache": ""},
        "load": {"dtype": dtype},
        "loss": loss,
        "schedule": [STAGE],
        "train": {"kind": kind, **keys},
    }
    return Setup(DistillConfig.model_validate(values), num_gpus)


SETUP = setup_of()


def sizes_of(setup: Setup) -> Sizes:
    train = setup.config.train
    trained = (100, 80) if setup.kind == "full" else (10, 10)
    factor = 1 if setup.bf16 else 2
    if train.gradient_checkpointing:
        return Sizes(100, *trained, stages=((Kept(20, 200), Kept(0, 50)),))
    return Sizes(100, *trained, stages=((Kept(100 * factor, 1000 * factor), Kept(50, 300)),))


def needed(setup: Setup) -> int:
    return sum(memory_parts(setup, sizes_of(setup)).values())


def test_parts_of_full_and_of_lora_training() -> None:
    assert memory_parts(SETUP, sizes_of(SETUP)) == {
        "weights": 800,
        "gradients": 400,
        "gradient_buckets": 0,
        "optimizer": 800,
        "ema": 400,
        "learners": 0,
        "frozen_networks": 0,
        "activations": 4100,
        "feature_activations": 1250,
        "learner_activations": 0,
    }
    setup = SETUP.of_kind("lora")
    lora = memory_parts(setup, sizes_of(setup))
    assert (lora["weights"], lora["gradients"], lora["optimizer"]) == (440, 40, 80)
    # The teacher's weights take half, the additions what they took.
    assert memory_parts(setup.with_dtype("bfloat16"), sizes_of(setup))["weights"] == 240


def test_what_learns_beside_the_student_is_held_all_the_time_and_passes_backward_after_it() -> None:
    sizes = replace(sizes_of(SETUP), learners=(Kept(0, 900), Kept(0, 10)), critic=6, heads=5)
    parts = memory_parts(SETUP, sizes)
    # A weight, its gradient and two moments.
    assert parts["learners"] == 4 * 4 * 11
    assert [parts[f"{name}activations"] for name in ("", "feature_", "learner_")] == [4100, 1250, 0]
    # Where the critic's pass is the larger one.
    parts = memory_parts(SETUP, replace(sizes, learners=(Kept(0, 10), Kept(0, 1400))))
    assert [parts[f"{name}activations"] for name in ("", "feature_", "learner_")] == [0, 0, 5600]
    # The critic's additions are divided with the teacher's weights, heads are not.
    sharded = replace(SETUP, num_gpus=2, sharded=True)
    assert memory_parts(sharded, sizes)["learners"] == 4 * 4 * (3 + 5)


def test_networks_that_decode_and_look_lie_there_too() -> None:
    sizes = replace(sizes_of(SETUP), vae=7, others=3)
    assert memory_parts(SETUP, sizes)["frozen_networks"] == 4 * 10
    # In float32 whatever the teacher is in.
    assert memory_parts(setup_of("lora", dtype="float16"), sizes)["frozen_networks"] == 4 * 10


def test_the_stage_that_keeps_most_counts() -> None:
    sizes = replace(sizes_of(SETUP), stages=((Kept(100, 1000), Kept(0, 0)), (Kept(90, 900), Kept(0, 200))))
    parts = memory_parts(SETUP, sizes)
    assert (parts["activations"], parts["feature_activations"]) == (3690, 800)


def test_checkpointing_keeps_less_of_both_networks() -> None:
    setup = setup_of(gradient_checkpointing=True)
    parts = memory_parts(setup, sizes_of(setup))
    assert (parts["activations"], parts["feature_activations"]) == (820, 200)


def test_several_gpus_copy_the_gradients_and_shards_divide_what_is_replicated() -> None:
    many = memory_parts(setup_of(num_gpus=4, batch_size=32), sizes_of(SETUP))
    assert many["gradient_buckets"] == many["gradients"] == 400
    sharded = memory_parts(replace(setup_of(num_gpus=4, batch_size=32), sharded=True), sizes_of(SETUP))
    assert (sharded["weights"], sharded["optimizer"], sharded["gradient_buckets"]) == (200, 200, 0)
    assert sharded["activations"] == many["activations"]


def test_the_smallest_change_that_suffices_is_named() -> None:
    room = needed(SETUP.with_train(micro_batch_size=1))
    assert needed(SETUP) > room
    cures = what_would_fit(SETUP, sizes_of, room)
    assert Cure(("train.micro_batch_size: 1",), True, room) in cures
    assert all(len(cure.changes) == 1 for cure in cures)
    assert ("train.kind: lora",) not in [cure.changes for cure in cures]
    # Not for a student of whole weights.
    assert not any("load.dtype: bfloat16" in cure.changes for cure in cures)


def test_a_cure_on_the_same_gpus_is_looked_for_beyond_one_on_more() -> None:
    setup = setup_of("lora", gradient_checkpointing=True, batch_size=64)
    best = setup.with_train(micro_batch_size=1).with_dtype("bfloat16")
    on_more = replace(setup.with_train(micro_batch_size=1), sharded=True, num_gpus=8)
    assert needed(on_more) < needed(best)
    cures = what_would_fit(setup, sizes_of, needed(best))
    here = [cure for cure in cures if cure.same_gpus]
    assert [set(cure.changes) for cure in here] == [{"load.dtype: bfloat16", "train.micro_batch_size: 1"}]
    assert cures[0].same_gpus


def test_sharding_is_a_cure_where_nothing_else_is() -> None:
    best = SETUP.of_kind("lora").with_dtype("bfloat16")
    best = best.with_train(micro_batch_size=1, gradient_checkpointing=True)
    best = replace(best, sharded=True, num_gpus=8)
    (cure,) = what_would_fit(SETUP, sizes_of, needed(best))
    assert not cure.same_gpus
    assert {"train.gradient_checkpointing: true", "configs/accelerate/fsdp2.yaml on 8 GPUs"} <= set(
        cure.changes
    )
    assert what_would_fit(SETUP, sizes_of, needed(best) - 1) == []
    # Muon needs whole matrices.
    assert what_would_fit(setup_of(optimizer={"kind": "muon"}), sizes_of, needed(best)) == []


def test_half_precision_is_a_cure_where_training_is_in_float32() -> None:
    setup = setup_of(mixed_precision=None)
    cures = what_would_fit(setup, sizes_of, needed(SETUP))
    assert ("train.mixed_precision: bf16",) in [cure.changes for cure in cures]


def test_every_cure_fits() -> None:
    for room in range(500, needed(SETUP), 250):
        for cure in what_would_fit(SETUP, sizes_of, room):
            assert cure.needed_bytes <= room


def test_the_other_kind_of_training_shares_what_both_have() -> None:
    lora = setup_of("lora", dtype="bfloat16", batch_size=16, rank=4)
    full = lora.of_kind("full")
    assert (full.kind, full.config.train.batch_size, full.teacher_bytes) == ("full", 16, 4)
    assert full.of_kind("lora").config.train.batch_size == 16 and lora.of_kind("lora") == lora


@pytest.mark.parametrize(
    ("gpus", "stages", "micro", "group", "at_once"),
    [(1, 1, None, 1, 24), (8, 1, None, 1, 3), (8, 3, None, 1, 1), (2, 1, 4, 1, 4), (4, 1, 12, 2, 6)],
)
def test_clips_at_once(gpus: int, stages: int, micro: int | None, group: int, at_once: int) -> None:
    setup = setup_of(
        num_gpus=gpus, group=group, batch_size=24, stages_per_step=stages, micro_batch_size=micro
    )
    assert setup.divides and setup.clips_at_once == at_once
    assert not replace(setup, num_gpus=5).divides
