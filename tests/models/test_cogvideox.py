"""CogVideoX's noise levels in our convention, against its own definitions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CogVideoXDDIMScheduler
from safetensors.torch import save_file
from torch import Tensor, nn

from swd_video.cli.main import main
from swd_video.core.flow import add_noise
from swd_video.models.cogvideox import CogVideoXModel, noise_angles, timestep_at


@pytest.fixture
def model(tiny_pipe: Callable[[str], Any]) -> CogVideoXModel:
    return CogVideoXModel.from_pipeline(tiny_pipe("cogvideox"))


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Oracle(nn.Module):
    """Knows x0 and noise: gives the v that its scheduler defines, and checks that it is shown the right x_t."""

    def __init__(self, x0: Tensor, noise: Tensor, scheduler: CogVideoXDDIMScheduler, config: Any) -> None:
        super().__init__()
        self.x0, self.noise = x0.transpose(1, 2), noise.transpose(1, 2)
        self.scheduler, self.config, self.dtype = scheduler, config, torch.float32
        self.timesteps: list[float] = []

    def forward(self, hidden_states: Tensor, timestep: Tensor, **_: Any) -> tuple[Tensor]:
        self.timesteps += timestep.tolist()
        whole = timestep.round().long()
        expected = self.scheduler.add_noise(self.x0, self.noise, whole)
        torch.testing.assert_close(hidden_states, expected, rtol=1e-4, atol=1e-4)
        return (self.scheduler.get_velocity(self.x0, self.noise, whole),)


def test_a_perfect_v_is_a_perfect_velocity_at_every_timestep(model: CogVideoXModel) -> None:
    scheduler = model.pipe.scheduler
    chosen = [999, 998, 750, 400, 30, 0]
    signal = scheduler.alphas_cumprod[chosen].double()
    a, b = signal.sqrt(), (1 - signal).sqrt()
    sigma = b / (a + b)
    assert sigma[0] == 1, "the last timestep is pure noise, exactly"
    x0, noise = _random(6, 4, 3, 4, 6), _random(6, 4, 3, 4, 6, seed=1)
    oracle = Oracle(x0, noise, scheduler, model.pipe.transformer.config)
    noisy_latents = add_noise(x0, noise, sigma.float())
    velocity = model.predict_velocity(
        noisy_latents, sigma.float(), torch.zeros(6, 20, 16), transformer=oracle
    )
    torch.testing.assert_close(velocity, noise - x0, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(oracle.timesteps, chosen, atol=0.01)


def test_pure_noise_is_the_last_timestep_and_stays_itself(model: CogVideoXModel) -> None:
    noise = _random(1, 4, 3, 4, 6)
    seen: dict[str, Tensor] = {}
    network = model.pipe.transformer
    network.register_forward_pre_hook(lambda _m, _a, inputs: seen.update(inputs), with_kwargs=True)
    with torch.no_grad():
        velocity = model.predict_velocity(noise, 1.0, model.encode_prompt(["a cat"]))
    assert seen["timestep"].tolist() == [999.0]
    assert torch.equal(seen["hidden_states"], noise.transpose(1, 2))
    assert velocity.shape == noise.shape


def test_timesteps_rise_with_sigma_and_end_where_the_table_ends(model: CogVideoXModel) -> None:
    angles = noise_angles(model.pipe.scheduler)
    assert (np.diff(angles) > 0).all() and angles[-1] == np.pi / 2
    sigma = torch.linspace(0, 1, 501, dtype=torch.float64)
    timesteps = timestep_at(sigma, angles)
    assert (timesteps.diff() >= 0).all()
    assert (timesteps[0], timesteps[-1]) == (0, 999)
    # Less noise than the cleanest entry of the table has: the docstring's figure for CogVideoX-2b.
    cleanest = float(np.sin(angles[0]) / (np.sin(angles[0]) + np.cos(angles[0])))
    assert cleanest == pytest.approx(0.05, abs=0.005)
    assert ((timesteps == 0) == (sigma <= cleanest)).all()


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5])
def test_every_number_of_latent_frames_decodes_to_its_clip(model: CogVideoXModel, frames: int) -> None:
    with torch.no_grad():
        pixels = model.decode(_random(1, 4, frames, 4, 4))
    assert pixels.shape == (1, 3, 4 * (frames - 1) + 1, 32, 32)


def test_positions_that_were_learned_for_one_picture_size_are_refused(
    tiny_pipe: Callable[[str], Any],
) -> None:
    pipe = tiny_pipe("cogvideox")
    pipe.transformer.register_to_config(use_learned_positional_embeddings=True)
    with pytest.raises(ValueError, match="learned a position for every place of one picture size"):
        CogVideoXModel.from_pipeline(pipe)


def test_spectra_of_latents_that_begin_with_a_copy_are_refused(
    save_tiny: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"latents": torch.randn(3, 4, 4, 4, 6)}, tmp_path / "latents")
    assert main(["spectrum", str(tmp_path / "latents"), "--model", str(save_tiny("cogvideox-1.5"))]) == 2
    assert "takes 2 latent frames at a time and repeats the first" in capsys.readouterr().err
