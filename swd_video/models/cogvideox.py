"""CogVideoX text-to-video models, through the components of diffusers' `CogVideoXPipeline`.

They were trained as diffusion models, not by flow matching: `x_t = a x0 + b noise` with `a^2 + b^2 = 1` and
`a^2 = alphas_cumprod[t]`, predicting `v = a noise - b x0`. The same network seen as a flow model:

    y = (1 - s) x0 + s noise                      our noisy latents at sigma s
    c = sqrt((1 - s)^2 + s^2)                     so that ((1 - s) / c)^2 + (s / c)^2 = 1
    y / c = a x0 + b noise                        with a = (1 - s) / c and b = s / c

so `y / c` is an `x_t`, at the t whose ratio of noise to data is ours: `b / a = s / (1 - s)`. From v and x_t follow
`x0 = a x_t - b v` and `noise = b x_t + a v`, and our velocity is their difference:

    noise - x0 = (b - a) x_t + (a + b) v = (2 s - 1) / c^2 y + v / c

At s = 1 it is `y + v`: the network, trained down to no signal at all, then gives `v = -x0`.

To find t, write a noise level as an angle, `phi = arctan(b / a)`, which is finite also where a = 0. Between the
entries of the table, t is interpolated linearly in phi; the timestep embedding takes fractions, although training
saw whole numbers only. Two limits are the model's own:

- The table does not begin at phi = 0. For less noise than that of t = 0 (sigma 0.05 for CogVideoX-2b), t = 0 is the
  closest that the network knows.
- Where the scheduler's table was not rescaled to end without signal (`rescale_betas_zero_snr`, set for all published
  models), the last t stands for sigma 1 although a little signal is left there.

Source: CogVideoX: Text-to-Video Diffusion Models with An Expert Transformer (arXiv 2408.06072); v-prediction:
Progressive Distillation for Fast Sampling of Diffusion Models (arXiv 2202.00512), appendix D; tables that end without
signal: Common Diffusion Noise Schedules and Sample Steps are Flawed (arXiv 2305.08891), Algorithm 1.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import CogVideoXDPMScheduler, CogVideoXPipeline
from einops import rearrange
from jaxtyping import Float, Float64
from torch import Tensor, nn

from swd_video.core.flow import Sigma, fit_shift
from swd_video.core.grid import Compression, LatentSize
from swd_video.models.base import VideoModel, unwrap
from swd_video.models.positions import spread_rotations

_FPS = 8.0
_FPS_1_5 = 16.0


class CogVideoXModel(VideoModel):
    """The components of a `CogVideoXPipeline`, with its noise levels converted to ours.

    CogVideoX 1.5 joins two latent frames in a token and was trained on `[z0, z0, z1, ...]`: `Compression` says how
    such clips are counted. The VAE decodes odd numbers of latent frames (clips of 8k + 1 frames, the models' own
    rule; of 1.5 every clip). For even ones the first is repeated in front and the frames of that copy are dropped.
    """

    family = "cogvideox"
    pipeline_class = CogVideoXPipeline
    guidance_scale = 6.0

    def __init__(self, pipe: CogVideoXPipeline, **facts: Any) -> None:
        if pipe.transformer.config.use_learned_positional_embeddings:
            raise ValueError(
                "this CogVideoX learned a position for every place of one picture size, and a student's stages have "
                "several; use CogVideoX-2b, CogVideoX-5b or CogVideoX 1.5 for text to video."
            )
        super().__init__(pipe, **facts)
        # 5b and 1.5, not 2b.
        self.can_rescale_positions = bool(pipe.transformer.config.use_rotary_positional_embeddings)
        self._angles = noise_angles(pipe.scheduler)

    @property
    def published_decoder(self) -> str:
        """One for all, as all have the same VAE."""
        return "taecvx"

    @property
    def published_decoder_scale(self) -> float:
        """It takes latents as the VAE gives them, in which models of other scaling factors agree."""
        return 1 / float(self.vae.config.scaling_factor)

    def noise_shift(self, grid: LatentSize) -> float | None:
        """What fits its scheduler's table best."""
        angles = torch.from_numpy(noise_angles(self.pipe.scheduler))
        return fit_shift(angles.sin() / (angles.sin() + angles.cos()))

    def teacher_scheduler(self, steps: int, grid: LatentSize, generator: Any = None) -> Any:
        """The model's own scheduler, seen as one of a flow; see the base class."""
        return _FlowSteps(copy.deepcopy(self.pipe.scheduler), steps, self.device, generator)

    @torch.no_grad()
    def encode_prompt(self, prompts: list[str]) -> Float[Tensor, "batch text_length text_dim"]:
        """Embed prompts as `CogVideoXPipeline` does: padding counts like any other token."""
        prompt_embeds, _ = self.pipe.encode_prompt(
            prompts, do_classifier_free_guidance=False, max_sequence_length=self.spec.text_length
        )
        return prompt_embeds

    def _compression(self) -> Compression:
        config = self.pipe.transformer.config
        # 1.5 cuts its rotary embedding out of one of the published size; 5b stretches its own, and 2b computes waves.
        is_cut = config.use_rotary_positional_embeddings and config.patch_size_t is not None
        cells = (config.sample_height, config.sample_width) if is_cut else (None, None)
        return Compression(
            temporal=int(self.pipe.vae_scale_factor_temporal),
            spatial=self.pipe.vae_scale_factor_spatial,
            patch=(config.patch_size_t or 1, config.patch_size, config.patch_size),
            limits=(None, *cells),
        )

    def _text_length(self) -> int:
        return int(self.pipe.transformer.config.max_text_seq_length)

    def _text_dim(self, config: Any) -> int:
        return int(config.text_embed_dim)

    def _fps(self) -> float:
        return _FPS if self.pipe.transformer.config.patch_size_t is None else _FPS_1_5

    def _denormalize(self, latents: Tensor) -> Tensor:
        return 1 / self.vae.config.scaling_factor * latents

    def _decode_raw(self, raw_latents: Tensor) -> Tensor:
        if raw_latents.shape[2] % 2 == 1:
            return super()._decode_raw(raw_latents)
        padded = torch.cat([raw_latents[:, :, :1], raw_latents], dim=2)
        return super()._decode_raw(padded)[:, :, self.spec.compression.temporal :]

    def _decode_raw_in_parts(self, raw_latents: Tensor) -> Iterator[Tensor]:
        # As its `decode` does, which would keep all frames: pairs, of which the first has a third where one is left.
        vae, surplus = self.vae, 0
        if raw_latents.shape[2] % 2 == 0:
            raw_latents = torch.cat([raw_latents[:, :, :1], raw_latents], dim=2)
            surplus = self.spec.compression.temporal
        size, frames, memory = vae.num_latent_frames_batch_size, raw_latents.shape[2], None
        ends = range(frames % size + size, frames + 1, size) if frames >= size else [frames]
        start = 0
        for end in ends:
            part = raw_latents[:, :, start:end]
            part = part if vae.post_quant_conv is None else vae.post_quant_conv(part)
            pixels, memory = vae.decoder(part, conv_cache=memory)
            yield pixels[:, :, 0 if start else surplus :]
            start = end

    def _transformer_inputs(
        self, network: nn.Module, noisy_latents: Tensor, sigma: Sigma, prompt_embeds: Tensor
    ) -> dict[str, Any]:
        inner = unwrap(network)
        levels = _levels(sigma, noisy_latents)
        timestep = self._timestep(sigma, noisy_latents)
        frames = rearrange(noisy_latents / _norm(levels, noisy_latents), "b c f h w -> b f c h w")
        return {
            "hidden_states": frames.to(inner.dtype),
            "encoder_hidden_states": prompt_embeds.to(noisy_latents.device, inner.dtype),
            "timestep": timestep,
            "image_rotary_emb": self._rotations(inner.config, noisy_latents),
        }

    def _rotations(self, config: Any, noisy_latents: Tensor) -> tuple[Tensor, Tensor] | None:
        if not config.use_rotary_positional_embeddings:
            return None
        compression, (frames, *cells) = self.spec.compression, noisy_latents.shape[2:]
        height, width = (compression.spatial * size for size in cells)
        rotations = self.pipe._prepare_rotary_positional_embeddings(
            height, width, frames, noisy_latents.device
        )
        patch, full_frames = compression.patch[0], self.full_frames
        return spread_rotations(
            rotations,
            frames // patch,
            None if full_frames is None else full_frames // patch,
            # As `get_3d_rotary_pos_embed` of diffusers divides a head.
            channels=config.attention_head_dim // 4,
        )

    def _timestep(self, sigma: Sigma, like: Tensor) -> Float[Tensor, " batch"]:
        if isinstance(sigma, Tensor):
            return timestep_at(_levels(sigma, like).cpu(), self._angles).float().to(like.device)
        # A number stays one: tensors that have a shape only (`planning`) could not be looked up.
        return torch.full((len(like),), _look_up(sigma, self._angles).item(), device=like.device)

    def _to_velocity(self, output: Tensor, noisy_latents: Tensor, sigma: Sigma) -> Tensor:
        levels = _levels(sigma, noisy_latents)
        norm = _norm(levels, noisy_latents)
        slope = (2 * levels - 1).to(norm.dtype).view_as(norm) / norm.square()
        return slope * noisy_latents + rearrange(output, "b f c h w -> b c f h w") / norm

    def _blocks(self, inner: Any) -> tuple[Sequence[nn.Module], nn.Module]:
        return list(inner.transformer_blocks), inner.norm_final


class _FlowSteps:
    """A scheduler of CogVideoX (DDIM, or DPM as 5b's) that takes and gives what a flow's does.

    With the module's letters: its `x_t` is `y / c`, `c = 1 / (a + b)`, and its v is `c velocity - (b - a) y`.
    """

    def __init__(self, scheduler: Any, steps: int, device: torch.device, generator: Any) -> None:
        scheduler.set_timesteps(steps, device=device)
        self._scheduler, self._generator = scheduler, generator
        self._timesteps = scheduler.timesteps
        signal = scheduler.alphas_cumprod.double().cpu()[self._timesteps.cpu()].clamp(0, 1)
        self._a, self._b = signal.sqrt().tolist(), (1 - signal).sqrt().tolist()
        self._index, self._last_x0 = 0, None
        # float64, as `timestep_at` wants it.
        self.timesteps = torch.tensor(
            [1000 * b / (a + b) for a, b in zip(self._a, self._b, strict=True)], dtype=torch.float64
        )

    def step(
        self, velocity: Tensor, timestep: Tensor, noisy_latents: Tensor, return_dict: bool = False
    ) -> tuple[Tensor]:
        assert not return_dict and timestep == self.timesteps[self._index]
        index, a, b = self._index, self._a[self._index], self._b[self._index]
        v = velocity / (a + b) - (b - a) * noisy_latents
        own = self._timesteps[index]
        common = {"generator": self._generator, "return_dict": False}
        # Laid out as the pipeline's, so that steps that draw noise draw the same.
        v, sample = (rearrange(x, "b c f h w -> b f c h w") for x in (v, noisy_latents * (a + b)))
        if isinstance(self._scheduler, CogVideoXDPMScheduler):
            before = self._timesteps[index - 1] if index else None
            sample, self._last_x0 = self._scheduler.step(v, self._last_x0, own, before, sample, **common)
        else:
            sample = self._scheduler.step(v, own, sample, **common)[0]
        self._index += 1
        if self._index < len(self._timesteps):
            sample = sample / (self._a[self._index] + self._b[self._index])
        return (rearrange(sample, "b f c h w -> b c f h w"),)


def noise_angles(scheduler: Any) -> Float64[np.ndarray, " timesteps"]:
    """The noise level of every timestep as an angle from 0 (data) to pi / 2 (noise), rising.

    Raises:
        ValueError: if it is not one of a model that predicts v.
    """
    prediction = scheduler.config.get("prediction_type")
    if prediction != "v_prediction":
        raise ValueError(
            f"this CogVideoX scheduler says prediction_type {prediction!r}, expected 'v_prediction'; "
            "load the model with its own scheduler_config.json."
        )
    signal = scheduler.alphas_cumprod.double().clamp(0, 1).numpy()
    return np.arctan2(np.sqrt(1 - signal), np.sqrt(signal))


def timestep_at(
    sigma: Float64[Tensor, " batch"], angles: Float64[np.ndarray, " timesteps"]
) -> Float64[Tensor, " batch"]:
    """The timestep, with its fraction, at which a model sees the same ratio of noise to data as at `sigma`."""
    return torch.from_numpy(_look_up(sigma.numpy(), angles))


def _look_up(sigma: Any, angles: Float64[np.ndarray, " timesteps"]) -> Any:
    wanted = np.arctan2(sigma, 1 - sigma)
    return np.interp(wanted, angles, np.arange(len(angles), dtype=np.float64))


def _levels(sigma: Sigma, like: Tensor) -> Float64[Tensor, " batch"]:
    # float64: neighbouring timesteps of the table are closer than float32 sigmas tell apart near the ends.
    device = "cpu" if like.device.type == "mps" else like.device
    return torch.as_tensor(sigma, dtype=torch.float64, device=device).reshape(-1).expand(len(like))


def _norm(levels: Float64[Tensor, " batch"], like: Tensor) -> Tensor:
    norm = ((1 - levels).square() + levels.square()).sqrt()
    dtype = torch.promote_types(like.dtype, torch.float32)
    return norm.to(like.device, dtype).reshape(-1, *([1] * (like.ndim - 1)))
