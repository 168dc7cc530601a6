"""The scale-wise sampler in the form of a diffusers scheduler.

Saved pipelines record this module's path, and diffusers finds the class again only where `SchedulerMixin` is
a name in the same module: do not move the class, and keep the import.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from huggingface_hub import hf_hub_download
from jaxtyping import Float
from torch import Tensor, nn

from swd_video.core.flow import add_noise, x0_from_velocity
from swd_video.core.grid import LatentSize
from swd_video.core.resize import resize_latents, resize_latents_trilinearly
from swd_video.core.sampling import Generators, draw_noise
from swd_video.core.schedule import ScaleSchedule
from swd_video.core.upsampler import LatentUpsampler

UPSAMPLER_NAME = "upsampler.safetensors"
_LEARNED = "learned"
_UPSAMPLING = ("bicubic", "trilinear", _LEARNED)


@dataclass
class ScaleWiseFlowMatchSchedulerOutput(BaseOutput):
    """What `ScaleWiseFlowMatchScheduler.step` gives.

    Attributes:
        prev_sample: noisy latents on the grid and at the noise level of the next stage; after the last
            stage, the clean latents.
        pred_original_sample: clean latents predicted by this stage, on its own grid.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor


class ScaleWiseFlowMatchScheduler(SchedulerMixin, ConfigMixin):
    """Few-step sampling on grids that grow in space and time.

    Each step turns the predicted velocity into clean latents, upsamples these to the grid of the next stage
    and noises them afresh. On one grid, on pictures, and where all axes grow alike with `upsampling="trilinear"`, it
    is `diffusers.FlowMatchLCMScheduler`, number for number.

    Source: Scale-wise Distillation of Diffusion Models (arXiv 2503.16397), section 4.1.

    Args:
        stages: noise level and latent grid of every stage:
            `[{"sigma": 1.0, "frames": 3, "height": 8, "width": 8}, ...]`, see `ScaleSchedule`.
        num_train_timesteps: timestep that the transformer is given for sigma 1.
        upsampling: "bicubic" in space and linear between frames, ends aligned, as students are trained; "learned", by
            `upsampler`, for those trained with one; or "trilinear", for those trained elsewhere.

    Attributes:
        upsampler: the network of "learned", in `upsampler.safetensors` beside the config; else None.
        repeated_frames: of the model's `Compression`, for "bicubic"; a pipeline sets it.

    Raises:
        ValueError: if the stages break a rule of `ScaleSchedule`, or `upsampling` is none of these.
    """

    # Other schedulers for the same networks: velocity of the same flow, timestep 1000 sigma.
    _compatibles = ["FlowMatchEulerDiscreteScheduler", "FlowMatchLCMScheduler"]  # noqa: RUF012 - diffusers reads it
    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self, stages: list[dict[str, Any]], num_train_timesteps: int = 1000, upsampling: str = "bicubic"
    ) -> None:
        if upsampling not in _UPSAMPLING:
            known = ", ".join(_UPSAMPLING)
            raise ValueError(f"upsampling: got {upsampling!r}, expected one of {known}.")
        self.upsampler: LatentUpsampler | None = None
        self.repeated_frames = 0
        self._schedule = ScaleSchedule.from_dict(stages)
        self._step_index: int | None = None
        self._begin_index: int | None = None
        self._kept_generator: Generators = None
        self._start(self._schedule)

    @classmethod
    def from_schedule(
        cls,
        schedule: ScaleSchedule,
        upsampler: LatentUpsampler | None = None,
    ) -> "ScaleWiseFlowMatchScheduler":
        """Make a scheduler from a checked schedule, and from what takes its clips from grid to grid."""
        scheduler = cls(
            stages=schedule.as_dict(),
            upsampling="bicubic" if upsampler is None else _LEARNED,
        )
        scheduler.upsampler = upsampler
        return scheduler

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None = None,
        subfolder: str | None = None,
        return_unused_kwargs: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Read what `save_pretrained` wrote; the arguments are diffusers'.

        Raises:
            ValueError: if the file of a learned upsampler is missing or broken.
        """
        loaded = super().from_pretrained(
            pretrained_model_name_or_path, subfolder, return_unused_kwargs, **kwargs
        )
        scheduler = loaded[0] if return_unused_kwargs else loaded
        if scheduler.config.upsampling == _LEARNED:
            path = Path(pretrained_model_name_or_path or "", subfolder or "", UPSAMPLER_NAME)
            if not path.parent.is_dir():
                where: Any = {
                    key: kwargs.get(key) for key in ("cache_dir", "revision", "token", "local_files_only")
                }
                name = str(pretrained_model_name_or_path)
                path = Path(hf_hub_download(name, UPSAMPLER_NAME, subfolder=subfolder, **where))
            scheduler.upsampler = LatentUpsampler.load(path)
        return loaded

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Write the config, and the upsampler where there is one."""
        # First, so that what is pushed to a hub has both.
        if self.upsampler is not None:
            self.upsampler.save(Path(save_directory) / UPSAMPLER_NAME)
        super().save_pretrained(save_directory, push_to_hub, **kwargs)

    def upsample(
        self, latents: Float[Tensor, "batch channels _ _ _"], size: LatentSize
    ) -> Float[Tensor, "batch channels _ _ _"]:
        """Clean latents on the grid of a later stage.

        Raises:
            ValueError: if upsampling is learned and the network is not there.
        """
        if self.config.upsampling == "bicubic":
            return resize_latents(latents, size, self.repeated_frames)
        if self.config.upsampling == "trilinear":
            return resize_latents_trilinearly(latents, size)
        if self.upsampler is None:
            raise ValueError(
                f"upsampling: is learned, and the scheduler was made of its config alone; load it with "
                f"from_pretrained from a folder that holds {UPSAMPLER_NAME}."
            )
        upsampled: Tensor = self.upsampler.to(latents.device)(latents, size)
        return upsampled

    @property
    def networks(self) -> dict[str, nn.Module]:
        """What takes clean latents to the next grid, by name, where it is learned."""
        return {} if self.upsampler is None else {"upsampler": self.upsampler}

    @property
    def schedule(self) -> ScaleSchedule:
        """The stages from the config."""
        return self._schedule

    @property
    def active_schedule(self) -> ScaleSchedule:
        """The stages in use since `set_timesteps`: the config's, or those for another clip size."""
        return self._active

    @property
    def step_index(self) -> int | None:
        """Index of the next stage; None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Index of the stage to begin with, where a pipeline has said so."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Say which stage comes first, so that `step` need not look its timestep up."""
        self._begin_index = begin_index

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        schedule: ScaleSchedule | None = None,
    ) -> None:
        """Start over from the first stage.

        Args:
            num_inference_steps: may be left out; the number of stages is fixed when a student is distilled.
            device: where `timesteps` go.
            schedule: use these stages instead of the config's, for a clip of another size. Whoever gives them says
                to the transformer in which windows it attends, which stock pipelines cannot.

        Raises:
            ValueError: if `num_inference_steps` is not the number of stages, or no schedule is given and stages have
                windows.
        """
        if schedule is None:
            schedule = self._schedule
            check_global(schedule)
        if num_inference_steps not in (None, len(schedule)):
            raise ValueError(
                f"num_inference_steps: got {num_inference_steps}, expected {len(schedule)}, the number of stages "
                "that the student was distilled for. Leave it out."
            )
        self._start(schedule, device)

    def _start(self, schedule: ScaleSchedule, device: torch.device | str | None = None) -> None:
        self._active = schedule
        sigmas = torch.tensor(self._active.sigmas, dtype=torch.float32)
        self.num_inference_steps = len(schedule)
        self.sigmas = torch.cat([sigmas, torch.zeros(1)])
        self.timesteps = (sigmas * self.config.num_train_timesteps).to(device)
        self._step_index = None
        self._begin_index = None

    def draw_first_noise(
        self,
        batch_size: int,
        channels: int,
        generator: Generators = None,
        device: torch.device | str = "cpu",
    ) -> Float[Tensor, "batch channels frames height width"]:
        """Noise on the grid of the first stage, to be given to a stock pipeline as its `latents`.

        Left alone, such a pipeline draws noise on the last grid, and it hands no generator to `step`. So the scheduler
        keeps this one, and stages that are given none draw their noise from it, up to the last. `set_timesteps` comes
        in between and does not change that.

        Args:
            batch_size: clips.
            channels: of the latents.
            generator: one for all clips or one for each; None draws from torch's global state all along.
            device: where the noise goes.
        """
        self._kept_generator = generator
        shape = (batch_size, channels, *self._schedule[0].grid.as_tuple())
        return draw_noise(shape, generator=generator, device=device)

    def scale_model_input(self, sample: Tensor, timestep: Tensor | float | int | None = None) -> Tensor:
        """Latents as the transformer takes them: unchanged."""
        return sample

    def step(
        self,
        model_output: Float[Tensor, "batch channels frames height width"],
        timestep: Tensor | float | int,
        sample: Float[Tensor, "batch channels frames height width"],
        generator: Generators = None,
        return_dict: bool = True,
    ) -> ScaleWiseFlowMatchSchedulerOutput | tuple[Tensor, Tensor]:
        """Finish a stage and prepare the next one. Computed in float32.

        Args:
            model_output: predicted velocity.
            timestep: the one of `timesteps` that belongs to this stage.
            sample: noisy latents of this stage.
            generator: source of the fresh noise; one for all clips or one for each. Default: what
                `draw_first_noise` was given.
            return_dict: give an object instead of a tuple of `prev_sample` and `pred_original_sample`.

        Returns:
            `prev_sample` and `pred_original_sample`, both in the dtype of `sample`.

        Raises:
            ValueError: if the timestep is not one of this schedule's, all stages are done, or `sample` is not
                on the grid of its stage.
        """
        if self._step_index is None:
            begin = self._begin_index
            self._step_index = self.index_for_timestep(timestep) if begin is None else begin
        index = self._step_index
        self._check_sample(index, sample)

        x0 = x0_from_velocity(sample.float(), model_output, self._active[index].sigma)
        prev_sample = x0
        if index + 1 < len(self._active):
            prev_sample = self.renoise(x0, index + 1, generator)
        else:
            self._kept_generator = None

        self._step_index += 1
        prev_sample, x0 = prev_sample.to(sample.dtype), x0.to(sample.dtype)
        if not return_dict:
            return prev_sample, x0
        return ScaleWiseFlowMatchSchedulerOutput(prev_sample=prev_sample, pred_original_sample=x0)

    def renoise(
        self, x0: Float[Tensor, "batch channels _ _ _"], index: int, generator: Generators = None
    ) -> Float[Tensor, "batch channels frames height width"]:
        """Noisy latents of a stage: the clean ones of the stage before on its grid, with fresh noise.

        Args:
            x0: float32 latents, clean, on the grid of the stage before.
            index: of the stage, at least 1.
            generator: source of the noise, as for `step`.
        """
        stage = self._active[index]
        upsampled = self.upsample(x0, stage.grid)
        source = self._kept_generator if generator is None else generator
        noise = draw_noise(tuple(upsampled.shape), generator=source, device=upsampled.device)
        return add_noise(upsampled, noise, stage.sigma)

    def index_for_timestep(self, timestep: Tensor | float | int) -> int:
        """Which stage a timestep belongs to.

        Raises:
            ValueError: if it belongs to none.
        """
        value = torch.as_tensor(timestep)
        matches = (self.timesteps.cpu() == value.cpu()).nonzero()
        if not value.is_floating_point() or len(matches) != 1:
            known = ", ".join(f"{known:g}" for known in self.timesteps.tolist())
            raise ValueError(f"timestep: got {timestep}, expected one of scheduler.timesteps ({known}).")
        return int(matches.item())

    def scale_noise(
        self,
        sample: Float[Tensor, "batch *rest"],
        timestep: Tensor | float | int,
        noise: Float[Tensor, "batch *rest"],
    ) -> Float[Tensor, "batch *rest"]:
        """Noise clean latents to a timestep, one for all clips or one for each, in the dtype of `sample`."""
        timesteps = torch.as_tensor(timestep, dtype=torch.float32, device=sample.device).reshape(-1)
        return add_noise(sample, noise, timesteps / self.config.num_train_timesteps).to(sample.dtype)

    def add_noise(
        self,
        original_samples: Float[Tensor, "batch *rest"],
        noise: Float[Tensor, "batch *rest"],
        timesteps: Tensor,
    ) -> Float[Tensor, "batch *rest"]:
        """`scale_noise` under the name and argument order of older schedulers."""
        return self.scale_noise(original_samples, timesteps, noise)

    def _check_sample(self, index: int, sample: Tensor) -> None:
        if index >= len(self._active):
            raise ValueError(f"all {len(self._active)} stages are done; call set_timesteps to start over.")
        expected = self._active[index].grid
        if tuple(sample.shape[2:]) != expected.as_tuple():
            got = "x".join(map(str, sample.shape[2:]))
            raise ValueError(f"sample: got a {got} grid, expected {expected} for stage {index + 1}.")

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)


def check_global(schedule: ScaleSchedule) -> None:
    """Refuse stages whose tokens attend in windows, of which stock pipelines know nothing.

    Raises:
        ValueError: naming the first.
    """
    for index, stage in enumerate(schedule):
        if stage.attention is not None:
            raise ValueError(
                f"schedule[{index}].attention: got windows of {stage.attention.window} latents, which stock diffusers "
                "pipelines do not have; sample the student with swd_video (load_student, `swd-video render`)."
            )
