"""Flow matching: its exact answer, and how often it sees which noise."""

import pytest
import torch
from diffusers import WanPipeline

from swd_video.core.randomness import SampleDraws
from swd_video.models.wan import WanModel
from swd_video.objectives.flow_matching import AdaptConfig, FlowMatching
from swd_video.objectives.networks import Networks
from swd_video.objectives.objective import ClipPair


def test_a_network_that_knows_the_velocity_has_no_loss(
    tiny_wan_pipe: WanPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = Networks.with_copy(WanModel.from_pipeline(tiny_wan_pipe))
    x0 = torch.randn(64, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    texts, seen = torch.zeros(64, 48, 16), []

    def oracle(
        noisy: torch.Tensor, sigma: torch.Tensor, prompt_embeds: torch.Tensor, **_: object
    ) -> torch.Tensor:
        seen.append((sigma, prompt_embeds[:, 0, 0]))
        return (noisy - x0) / sigma.view(-1, 1, 1, 1, 1)

    monkeypatch.setattr(networks.model, "predict_velocity", oracle)
    objective = FlowMatching(AdaptConfig(sigma_shift=3.0, empty_prompts=0.25), torch.ones(1, 48, 16))
    loss = objective(networks, ClipPair(x0, x0, texts), SampleDraws(range(64), 0, "flow", 0))
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    ((sigma, is_empty),) = seen
    assert sigma.min() > 0 and sigma.max() < 1 and sigma.median() > 0.6  # even draws would have 0.5
    assert 0.1 < is_empty.mean() < 0.4
