"""Teacher and student: who is who, and who may change."""

import pytest
import torch
from diffusers import WanPipeline

from swd_video.core.grid import LatentSize
from swd_video.core.schedule import Stage
from swd_video.models.wan import WanModel
from swd_video.objectives.networks import Networks


def _randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_student_starts_as_the_teacher_and_alone_is_trainable(
    kind: str, tiny_wan_pipe: WanPipeline
) -> None:
    before = {name: weight.clone() for name, weight in tiny_wan_pipe.transformer.state_dict().items()}
    noisy, prompt_embeds = _randn(1, 4, 3, 4, 4), _randn(1, 48, 16, seed=2)
    model = WanModel.from_pipeline(tiny_wan_pipe)
    stage = Stage(0.7, LatentSize(3, 4, 4))
    expected = model.predict_velocity(noisy, 0.7, prompt_embeds)
    with_lora = kind == "lora"
    networks = Networks.with_lora(model, 4, ("to_q", "ffn.net.2")) if with_lora else Networks.with_copy(model)
    assert torch.equal(networks.predict_velocity(noisy, stage, prompt_embeds), expected)
    with torch.no_grad():
        for weight in networks.trainable_parameters().values():
            weight.add_(0.1)
    assert not torch.equal(networks.predict_velocity(noisy, stage, prompt_embeds), expected)
    with networks.teacher() as teacher:
        assert torch.equal(model.predict_velocity(noisy, 0.7, prompt_embeds, transformer=teacher), expected)
    # Outside the context the student is a student again.
    assert all(weight.requires_grad for weight in networks.trainable_parameters().values())
    after = {
        name.replace(".base_layer.", "."): w for name, w in networks.model.transformer.state_dict().items()
    }
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
