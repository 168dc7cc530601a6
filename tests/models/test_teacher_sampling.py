"""Guided sampling through the shared interface is what diffusers' own pipeline computes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanPipeline

from swd_video.core.grid import LatentSize, PixelSize
from swd_video.models.registry import adapter_for
from swd_video.models.teacher_sampling import chosen_guidance, sample_teacher
from swd_video.models.wan import WanModel

SIZE = PixelSize(5, 32, 48)
PROMPTS = ["a red fox", "a blue bird at night"]


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in (3, 4)]


@pytest.mark.parametrize("scheduler", ["euler", "unipc"])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.5])
def test_latents_are_those_of_the_pipeline(
    scheduler: str, guidance_scale: float, tiny_wan_pipe: WanPipeline
) -> None:
    if scheduler == "unipc":  # what Wan is published with
        tiny_wan_pipe.scheduler = UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        )
    expected = tiny_wan_pipe(
        prompt=PROMPTS,
        negative_prompt=["blurry"] * 2,
        num_inference_steps=3,
        guidance_scale=guidance_scale,
        num_frames=SIZE.frames,
        height=SIZE.height,
        width=SIZE.width,
        max_sequence_length=48,
        generator=generators(),
        output_type="latent",
    ).frames
    model = WanModel.from_pipeline(tiny_wan_pipe)
    before = dict(tiny_wan_pipe.scheduler.config)
    for _ in range(2):  # the scheduler keeps no state of an earlier call
        latents = sample_teacher(
            model,
            PROMPTS,
            SIZE,
            steps=3,
            guidance_scale=guidance_scale,
            negative_prompt="blurry",
            generator=generators(),
        )
        torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-5)
    assert dict(tiny_wan_pipe.scheduler.config) == before
    assert expected.std() > 0.1


def test_a_shift_replaces_the_scheduler(tiny_pipe: Callable[[str], Any]) -> None:
    """Over even levels, so that HunyuanVideo's own shift gives HunyuanVideo's own steps: the last of 50 is 0.125."""
    pipe = tiny_pipe("hunyuan")
    model = adapter_for("HunyuanVideoPipeline").from_pipeline(pipe)
    embeds = model.encode_prompt(PROMPTS)
    assert model.teacher_scheduler(50, LatentSize(2, 4, 4)).sigmas[-2] == pytest.approx(0.125)

    def sample(shift: float | None) -> torch.Tensor:
        return sample_teacher(
            model,
            embeds,
            LatentSize(2, 4, 4),
            steps=3,
            guidance_scale=1,
            shift=shift,
            generator=generators(),
        )

    assert torch.equal(sample(None), sample(7.0))
    assert not torch.allclose(sample(None), sample(3.0), atol=1e-3)


def test_guidance_on_top_of_embedded_guidance_is_said(
    tiny_pipe: Callable[[str], Any], tiny_wan_pipe: WanPipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    wan = WanModel.from_pipeline(tiny_wan_pipe).spec
    hunyuan = (
        adapter_for("HunyuanVideoPipeline").from_pipeline(tiny_pipe("hunyuan"), embedded_guidance=4).spec
    )
    assert [chosen_guidance(wan, None), chosen_guidance(wan, 3), chosen_guidance(hunyuan, None)] == [5, 3, 1]
    assert chosen_guidance(hunyuan, 1) == 1 and capsys.readouterr().err == ""
    assert chosen_guidance(hunyuan, 5, section="loss.dmd.") == 5
    warning = capsys.readouterr().err
    assert warning.startswith("warning: loss.dmd.guidance_scale: 5 comes on top of the guidance 4")
    assert warning.count("\n") == 1


def test_schedulers_of_other_kinds_ask_for_a_shift(tiny_wan_pipe: WanPipeline) -> None:
    tiny_wan_pipe.scheduler = UniPCMultistepScheduler()
    model = WanModel.from_pipeline(tiny_wan_pipe)
    with pytest.raises(ValueError, match=r"shift: not set.*UniPCMultistepScheduler is not one of flow"):
        sample_teacher(model, PROMPTS, SIZE, steps=2)
    with pytest.raises(ValueError, match="Nearest legal size: 5x32x48"):
        sample_teacher(model, PROMPTS, PixelSize(5, 32, 49), steps=2, shift=3.0)
