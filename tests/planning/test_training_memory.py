"""Which memory lies where, and what would make a training fit."""

from dataclasses import replace

import pytest

from swd_video.planning.training_cost import KeptBytes, PerClip, Trainable
from swd_video.planning.training_memory import (
    Cure,
    Kind,
    TrainingSetup,
    TrainingSizes,
    fits,
    latents_cache_bytes,
    memory_parts,
    what_would_fit,
)

SETUP = TrainingSetup("full", batch_size=4, grad_accum=2, num_gpus=1, bf16=True)
KEPT = KeptBytes(
    student=PerClip(100, 1000),
    teacher=PerClip(50, 300),
    student_checkpointed=PerClip(20, 200),
    teacher_checkpointed=PerClip(0, 50),
)


def sizes_of(kind: Kind, bf16: bool) -> TrainingSizes:
    trainable = Trainable(100, 80) if kind == "full" else Trainable(10, 10)
    factor = 1 if bf16 else 2
    kept = replace(KEPT, student=PerClip(100 * factor, 1000 * factor))
    return TrainingSizes(num_parameters=100, num_encoder_parameters=500, trainable=trainable, kept=kept)


def needed(setup: TrainingSetup) -> int:
    return sum(memory_parts(setup, sizes_of(setup.kind, setup.bf16)).values())


def test_parts_of_full_and_of_lora_training() -> None:
    assert memory_parts(SETUP, sizes_of("full", True)) == {
        "weights": 800,
        "gradients": 400,
        "gradient_buckets": 0,
        "optimizer": 800,
        "ema": 400,
        "activations": 4100,
        "teacher_features": 1250,
        "text_encoder_and_vae": 2000,
    }
    lora = memory_parts(replace(SETUP, kind="lora"), sizes_of("lora", True))
    assert (lora["weights"], lora["gradients"], lora["optimizer"]) == (440, 40, 80)


def test_several_gpus_copy_the_gradients_and_shards_divide_what_is_replicated() -> None:
    many = memory_parts(replace(SETUP, num_gpus=4), sizes_of("full", True))
    assert many["gradient_buckets"] == many["gradients"] == 400
    sharded = memory_parts(replace(SETUP, num_gpus=4, sharded=True), sizes_of("full", True))
    assert (sharded["weights"], sharded["optimizer"], sharded["gradient_buckets"]) == (200, 200, 0)
    assert sharded["activations"] == many["activations"]


def test_the_smallest_change_that_suffices_is_named() -> None:
    room = needed(replace(SETUP, batch_size=1))
    assert not fits(SETUP, sizes_of("full", True), room)
    cures = what_would_fit(SETUP, sizes_of, room)
    assert cures[0] == Cure(("train.batch_size: 1, train.grad_accum: 8",), True, room)
    assert all(len(cure.changes) == 1 for cure in cures)
    assert ("train.kind: lora",) not in [cure.changes for cure in cures]


def test_a_cure_the_trainer_can_make_is_looked_for_beyond_one_it_cannot() -> None:
    best = replace(SETUP, kind="lora", batch_size=1)
    cures = what_would_fit(SETUP, sizes_of, needed(best))
    supported = [cure for cure in cures if cure.supported]
    assert [set(cure.changes) for cure in supported] == [
        {"train.kind: lora", "train.batch_size: 1, train.grad_accum: 8"}
    ]
    assert cures[0].supported


def test_changes_the_trainer_cannot_make_are_named_as_such() -> None:
    best = replace(
        SETUP, kind="lora", batch_size=1, checkpointing=True, encoders=False, sharded=True, num_gpus=8
    )
    (cure,) = what_would_fit(SETUP, sizes_of, needed(best))
    assert not cure.supported
    assert {
        "gradient checkpointing",
        "text encoder and VAE off the GPU",
        "weights sharded over 8 GPUs",
    } <= set(cure.changes)
    assert what_would_fit(SETUP, sizes_of, needed(best) - 1) == []


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


@pytest.mark.parametrize(("batch", "accum", "gpus"), [(4, 2, 8)])
def test_clips_of_a_step(batch: int, accum: int, gpus: int) -> None:
    setup = replace(SETUP, batch_size=batch, grad_accum=accum, num_gpus=gpus)
    assert setup.clips_per_step == 64
