"""What a plan counts for a step is what a real step runs, whatever it is trained on."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swd_video.core.schedule import ScaleSchedule
from swd_video.cost.architecture import load_architecture
from swd_video.cost.counting import FlopCounter
from swd_video.cost.step import StepCost
from swd_video.training.build import build_run
from swd_video.training.config import DistillConfig, UpsamplerConfig

MakeConfig = Callable[..., DistillConfig]
DMD = {"critic_rank": 2, "scale_adapted": True}
TRANSNET = {"kind": "transnetv2", "weights": "trunk"}
PIXELS: dict[str, Any] = {
    "mmd": [
        {"encoder": {"kind": "transformers", "name": "videomae"}, "block": 0},
        {"encoder": TRANSNET, "block": [0, 2]},
        {},
    ],
    "window": {"frames": 2, "crop": [4, 6]},
}
TWICE = [{"block": 0}, {"sigma_max": 0.3, "block": 2}, {"tokens": "frame", "block": 1}]
STEPS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "mmd": ("full", {"mmd": [{"block": [0, 1]}]}, {}),
    "mmd at two ranges of noise": ("lora", {"mmd": TWICE}, {}),
    "dmd": ("full", {"mmd": [], "dmd": {**DMD, "guidance_scale": 1}}, {}),
    "guided dmd": ("lora", {"mmd": [], "dmd": {**DMD, "critic_updates": 3}}, {"backward_simulation": 1}),
    "mmd through the critic": (
        "lora",
        {"mmd": [{"encoder": {"kind": "critic"}, "block": 1}], "dmd": DMD},
        {},
    ),
    "gan": ("full", {"mmd": [], "gan": {"block": [0, 1], "updates": 2}}, {}),
    "gan of mean tokens": ("lora", {"mmd": [], "gan": {"head": "mlp"}, "dmd": DMD}, {}),
    "dmd beside a gan that has no say there": (
        "full",
        {"mmd": [], "dmd": {**DMD, "guidance_scale": 1}, "gan": {"stages": [1, 2], "updates": 2}},
        {},
    ),
    "mmd of pixels": ("full", {"mmd": [{"encoder": TRANSNET}]}, {}),
    "mmd of pixels and latents": ("lora", PIXELS, {}),
}


def _with_paths(loss: dict[str, Any], encoders: Path) -> dict[str, Any]:
    if "mmd" not in loss:
        return loss
    files = {"videomae": str(encoders / "videomae"), "trunk": str(encoders / "trunk.safetensors")}
    terms = [
        term | ({"encoder": {key: files.get(value, value) for key, value in term["encoder"].items()}})
        if "encoder" in term
        else term
        for term in loss["mmd"]
    ]
    return loss | {"mmd": terms}


def real_and_planned(config: DistillConfig, folder: Path) -> tuple[float, float]:
    """Operations of a step on the last stage: of one that is taken, and as they are planned."""
    stepper = build_run(config, folder).stepper
    with FlopCounter() as counter:
        stepper.take_step(0)
    step = StepCost(config, load_architecture(config.model))
    counted = [row for rows in step.counted(2, config.train.kind).values() for row in rows]
    planned = sum(one.clips * (flops.forward + flops.backward) for one, flops in counted)
    return counter.flops.total(), config.train.batch_size * planned


@pytest.mark.parametrize("name", STEPS)
def test_a_step_costs_what_is_planned(
    name: str, encoders: Path, make_config: MakeConfig, tmp_path: Path
) -> None:
    kind, loss, train = STEPS[name]
    train = {"stage_weights": [1e-9, 1e-9, 1], **train}
    config = make_config(kind, parts=_with_paths(loss, encoders), **train)
    real, planned = real_and_planned(config, tmp_path / "run")
    assert planned == real


def test_a_step_with_an_upsampler_costs_what_is_planned(make_config: MakeConfig, tmp_path: Path) -> None:
    # One clip: for several at once the network finds places once.
    train = {"stage_weights": [1e-9, 1e-9, 1], "backward_simulation": 1, "batch_size": 1}
    config = make_config("lora", parts={"mmd": [], "gan": {"head": "mlp", "updates": 2}}, **train)
    config = config.model_copy(update={"upsampler": UpsamplerConfig(width=8, steps=1)})
    step = StepCost(config, load_architecture(config.model))
    passes = [one for part in step.passes(2).values() for one in part if one.network == config.upsampler]
    # Between both pairs of grids, for the student's clips and for those that the heads see alone.
    assert len(passes) == 4 and {str(one.grid) for one in passes} == {"2x4x4", "3x4x4"}
    real, planned = real_and_planned(config, tmp_path / "run")
    assert planned == real


def test_a_step_in_windows_costs_what_is_planned(
    local_schedule: ScaleSchedule, make_config: MakeConfig, tmp_path: Path
) -> None:
    """The student has them in all its passes, teacher and critic have none."""
    train = {"stage_weights": [1e-9, 1e-9, 1], "backward_simulation": 1}
    parts = {"mmd": [], "dmd": {**DMD, "critic_updates": 2}}
    real, planned = real_and_planned(
        make_config("lora", parts=parts, schedule=local_schedule, **train), tmp_path / "local"
    )
    assert planned == real
    everywhere, _ = real_and_planned(make_config("lora", parts=parts, **train), tmp_path / "everywhere")
    assert real < everywhere


def test_what_backward_simulation_runs_is_counted_by_its_share(make_config: MakeConfig) -> None:
    config = make_config(parts={"dmd": DMD}, backward_simulation=0.25)
    step = StepCost(config, load_architecture(config.model))
    first, last = (step.passes(index) for index in (0, 2))
    assert first["backward_simulation"] == []
    assert [(str(one.grid), one.clips) for one in last["backward_simulation"]] == [
        ("2x4x4", 0.25),
        ("3x4x4", 0.25),
    ]


def test_what_has_a_say_in_early_stages_alone_is_held_in_memory(make_config: MakeConfig) -> None:
    """Its weights are there in the last stage, too; what it keeps of clips is kept in its own."""
    early, everywhere, without = (
        StepCost(config, load_architecture(config.model)).sizes("full", False, False)
        for config in (
            make_config(parts={"gan": {"stages": [1]}}),
            make_config(parts={"gan": {}}),
            make_config(parts={}),
        )
    )
    assert early.heads == everywhere.heads > without.heads == 0
    (last,), (alone,) = everywhere.stages, without.stages
    # The discriminator looks through the block that the MMD looks through, and each of them for itself.
    assert last[0] == alone[0] and last[1].at(2) > 2 * alone[1].at(2) > 0
    assert early.stages[0] == alone and len(early.stages) == 2
    assert early.stages[1][0].at(2) < alone[0].at(2), "on a smaller grid"


def test_two_comparisons_at_different_noise_keep_their_passes_apart(make_config: MakeConfig) -> None:
    term = {"block": 1, "sigma_min": 0.0}
    kept = []
    for levels in ((0.6,), (0.6, 0.6), (0.6, 0.9)):
        config = make_config(parts={"mmd": [term | {"sigma_max": level} for level in levels]})
        sizes = StepCost(config, load_architecture(config.model)).sizes("full", False, False)
        kept.append(sizes.stages[0][1].at(2))
    one, shared, apart = kept
    assert shared == one and apart == 2 * one > 0


def test_blocks_that_are_not_there_are_named(make_config: MakeConfig) -> None:
    pixels = {"encoder": TRANSNET, "block": 3}
    for key, parts, message in (
        ("mmd", {"mmd": [{"block": 3}]}, "3 does not exist; "),
        ("mmd", {"mmd": [pixels]}, "3 does not exist; transnetv2 has blocks 0 to 2."),
        ("gan", {"mmd": [], "gan": pixels}, "3 does not exist; transnetv2 has blocks 0 to 2."),
    ):
        config = make_config(parts=parts)
        for ask in ("counted", "sizes"):
            step = StepCost(config, load_architecture(config.model))
            with pytest.raises(ValueError, match=re.escape(f"loss.{key}.block: {message}")):
                step.counted(2, "full") if ask == "counted" else step.sizes("full", False, False)


def test_an_encoder_that_is_not_on_this_machine_is_left_out_with_a_warning(
    make_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(mmd=[{"encoder": {"kind": "transformers", "name": "./nowhere"}}])
    step = StepCost(config, load_architecture(config.model))
    flops = {one.network: flops for one, flops in step.counted(0, "full")["mmd"]}
    assert flops["vae_decoder"].forward > 0 and flops[config.loss.mmd[0].encoder].forward == 0
    assert capsys.readouterr().err.startswith(
        "warning: loss: not counted: encoder './nowhere': no such folder"
    )
