"""What the scale-wise pipelines of all families share: the way through the stages, previews and callbacks."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import BaseOutput
from diffusers.video_processor import VideoProcessor
from jaxtyping import Float
from torch import Tensor

from swd_video.core.grid import Compression, PixelSize
from swd_video.core.sampling import Generators, draw_noise
from swd_video.core.schedule import ScaleSchedule
from swd_video.schedulers import ScaleWiseFlowMatchScheduler

StageCallback: TypeAlias = Callable[..., Any] | PipelineCallback | MultiPipelineCallbacks | None
POSITIONS = ("native", "rescaled")
_OUTPUT_TYPES = ("np", "pt", "pil", "latent")


@dataclass
class ScaleWisePipelineOutput(BaseOutput):
    """What a scale-wise pipeline gives.

    Attributes:
        frames: the clips, in the form that `output_type` asked for: "np" floats in [0, 1] of shape
            (clips, frames, height, width, 3), "pt" a tensor of shape (clips, frames, 3, height, width), "pil"
            a list of pictures for each clip, "latent" normalised latents.
        previews: with `preview=True`, the clips as every stage saw them, in the same form, each of its own
            size; the last is `frames`. Else None.
        stage_seconds: time of every stage: transformer and scheduler, without text encoder, VAE and
            callbacks.
    """

    frames: Any
    previews: list[Any] | None
    stage_seconds: list[float]


class ScaleWiseSampling(ABC):
    """From embedded prompts to clips, for a pipeline that says how its networks are called.

    One call at a time: like diffusers' own, a pipeline keeps in itself and in its scheduler where a call is. Two that
    run at the same time need networks and a scheduler each.

    Attributes:
        scheduler: a `ScaleWiseFlowMatchScheduler`, with the stages that the student was distilled for.
    """

    scheduler: Any
    progress_bar: Callable[..., Any]
    maybe_free_model_hooks: Callable[[], None]
    _callback_tensor_inputs = ["latents", "prompt_embeds", "x0"]  # noqa: RUF012 - diffusers reads it
    _interrupt = False

    @property
    @abstractmethod
    def compression(self) -> Compression:
        """How clips are divided into latents and tokens."""

    @property
    @abstractmethod
    def fps(self) -> float:
        """Frames per second of the clips."""

    @abstractmethod
    def _sampling_device(self) -> torch.device:
        """Where the transformer runs."""

    @abstractmethod
    def _latent_channels(self) -> int:
        """Channels of the latents."""

    @abstractmethod
    def _predict_velocity(
        self, noisy_latents: Tensor, timestep: Tensor, sigma: float, prompt_embeds: Tensor
    ) -> Tensor:
        """The student's `noise - x0`."""

    @abstractmethod
    def _decode(self, latents: Tensor) -> Tensor:
        """Latents to pixels in [-1, 1]."""

    def schedule_for(
        self, frames: int | None = None, height: int | None = None, width: int | None = None
    ) -> ScaleSchedule:
        """The stages for a clip of some size; the schedule's own where nothing is asked for.

        Args:
            frames: of the clip; default the schedule's target.
            height: in pixels; default the schedule's target.
            width: in pixels; default the schedule's target.

        Raises:
            ValueError: if the size is not legal; the message offers the nearest one that is.
        """
        compression, schedule = self.compression, self.scheduler.schedule
        default = compression.pixel_size(schedule.target)
        size = PixelSize(
            default.frames if frames is None else frames,
            default.height if height is None else height,
            default.width if width is None else width,
        )
        return schedule.scaled_to(compression.latent_size(size), compression.patch)

    @torch.no_grad()
    def decode_latents(
        self,
        latents: Float[Tensor, "batch channels latent_frames latent_height latent_width"],
        output_type: str = "np",
    ) -> Any:
        """Turn clean latents of any stage into clips, in one of the forms of `output_type`."""
        if output_type == "latent":
            return latents
        return VideoProcessor().postprocess_video(self._decode(latents), output_type=output_type)

    def _sample(
        self,
        schedule: ScaleSchedule,
        prompt_embeds: Tensor,
        *,
        generator: Generators,
        latents: Tensor | None,
        output_type: str,
        callback: StageCallback,
        callback_inputs: Sequence[str],
        preview: bool,
    ) -> ScaleWisePipelineOutput:
        """One clip for each embedded prompt, of which the arguments of `__call__` say the rest."""
        latents = self._first_latents(schedule, len(prompt_embeds), generator, latents)
        self._interrupt = False
        clean, stage_seconds = self._run_stages(
            schedule, latents, prompt_embeds, generator, callback, callback_inputs
        )
        video = self.decode_latents(clean[-1], output_type)
        previews = [*(self.decode_latents(x0, output_type) for x0 in clean[:-1]), video] if preview else None
        self.maybe_free_model_hooks()
        return ScaleWisePipelineOutput(frames=video, previews=previews, stage_seconds=stage_seconds)

    def _first_latents(
        self, schedule: ScaleSchedule, batch_size: int, generator: Generators, latents: Tensor | None
    ) -> Tensor:
        shape = (batch_size, self._latent_channels(), *schedule[0].grid.as_tuple())
        if latents is None:
            return draw_noise(shape, generator=generator, device=self._sampling_device())
        if tuple(latents.shape) != shape:
            raise ValueError(
                f"latents: got shape {tuple(latents.shape)}, expected {shape}: clips, channels and the grid "
                "of the first stage."
            )
        return latents.to(self._sampling_device(), torch.float32)

    def _run_stages(
        self,
        schedule: ScaleSchedule,
        latents: Tensor,
        prompt_embeds: Tensor,
        generator: Generators,
        callback: StageCallback,
        callback_inputs: Sequence[str],
    ) -> tuple[list[Tensor], list[float]]:
        """Clean latents and seconds of every stage; stops early where a callback has interrupted."""
        self.scheduler.set_timesteps(device=self._sampling_device(), schedule=schedule)
        self.scheduler.set_begin_index(0)
        self._num_timesteps = len(schedule)
        clean: list[Tensor] = []
        stage_seconds: list[float] = []
        with self.progress_bar(total=len(schedule)) as progress_bar:
            for index, timestep in enumerate(self.scheduler.timesteps):
                self._current_timestep = timestep
                start = self._now()
                velocity = self._predict_velocity(latents, timestep, schedule[index].sigma, prompt_embeds)
                latents, x0 = self.scheduler.step(velocity, timestep, latents, generator, return_dict=False)
                stage_seconds.append(self._now() - start)
                clean.append(x0)
                if callback is not None:
                    tensors = {"latents": latents, "prompt_embeds": prompt_embeds, "x0": x0}
                    wanted = {name: tensors[name] for name in callback_inputs}
                    changed = callback(self, index, timestep, wanted) or {}
                    latents = changed.get("latents", latents)
                    prompt_embeds = changed.get("prompt_embeds", prompt_embeds)
                progress_bar.update()
                if self._interrupt:
                    break
        self._current_timestep = None
        if len(clean) == len(schedule):
            clean[-1] = latents  # the same, unless a callback changed it
        return clean, stage_seconds

    def _checked_callback_inputs(self, callback: StageCallback, names: Sequence[str]) -> Sequence[str]:
        if isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
            names = callback.tensor_inputs
        unknown = [name for name in names if name not in self._callback_tensor_inputs]
        if unknown:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs: got {', '.join(unknown)}, expected some of "
                f"{', '.join(self._callback_tensor_inputs)}."
            )
        return names

    def _now(self) -> float:
        device = self._sampling_device()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()


def check_inputs(prompt: str | list[str] | None, prompt_embeds: Tensor | None, output_type: str) -> None:
    """Refuse calls of a pipeline that ask for nothing, for two things, or for a form that there is not.

    Raises:
        ValueError: naming the argument.
    """
    if (prompt is None) == (prompt_embeds is None):
        got = "neither" if prompt is None else "both"
        raise ValueError(f"prompt and prompt_embeds: got {got}, expected exactly one of them.")
    if prompt is not None and len(prompt) == 0 and not isinstance(prompt, str):
        raise ValueError("prompt: got an empty list, expected at least one prompt.")
    if output_type not in _OUTPUT_TYPES:
        raise ValueError(f"output_type: got {output_type!r}, expected one of {', '.join(_OUTPUT_TYPES)}.")


def check_scheduler(scheduler: object) -> None:
    """Refuse schedulers without stages.

    Raises:
        ValueError: if it is none of ours.
    """
    if not isinstance(scheduler, ScaleWiseFlowMatchScheduler):
        raise ValueError(
            f"scheduler: got a {type(scheduler).__name__}, expected a ScaleWiseFlowMatchScheduler with "
            "the student's stages; make one with from_schedule."
        )


def check_positions(positions: str) -> None:
    """Refuse ways of counting positions that there are not.

    Raises:
        ValueError: naming those that there are.
    """
    if positions not in POSITIONS:
        raise ValueError(f"positions: got {positions!r}, expected {' or '.join(POSITIONS)}.")
