"""Text to video with scale-wise students of any family."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from diffusers import SchedulerMixin
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import BaseOutput
from diffusers.video_processor import VideoProcessor
from jaxtyping import Float, Float32
from torch import Tensor

from swd_video.core.grid import Compression, LatentSize, PixelSize
from swd_video.core.resize import resize_pixels
from swd_video.core.sampling import Generators, draw_noise
from swd_video.core.schedule import ScaleSchedule
from swd_video.models.base import VideoModel
from swd_video.models.decoding import decode_stream, decode_whole
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.stage_state import StageState, copy_generators

StageCallback: TypeAlias = Callable[..., Any] | PipelineCallback | MultiPipelineCallbacks | None
_Tell: TypeAlias = Callable[[int, Tensor, dict[str, Tensor]], dict[str, Tensor]]
POSITIONS = ("native", "rescaled")
_OUTPUT_TYPES = ("np", "pt", "pil", "latent")
_CALLBACK_TENSORS = ("latents", "prompt_embeds", "x0")


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
        state: the clips after the last stage that ran, to be given to another call as `start`.
    """

    frames: Any
    previews: list[Any] | None
    stage_seconds: list[float]
    state: StageState


class ScaleWisePipeline:
    """Text to video in a few stages that grow in space and time, with whatever model has an adapter.

    It is no `DiffusionPipeline`: what diffusers offers beside sampling, such as loading another LoRA, is found at
    `model.pipe`. Students are distilled from a guided teacher: there is no guidance scale and no negative prompt.

    One call at a time: like diffusers' own, a pipeline keeps in itself and in its scheduler where a call is. Two that
    run at the same time need networks and a scheduler each.

    Args:
        model: the adapter, with the student as its transformer.
        scheduler: a `ScaleWiseFlowMatchScheduler`, with the stages that the student was distilled for.
        positions: "native", or "rescaled": frames of short stages get temporal positions over the whole range of
            the last stage's. As the student was distilled.

    Raises:
        ValueError: if the scheduler has no stages or ones that the model cannot take, or positions are neither or
            cannot be rescaled.
    """

    _interrupt = False

    def __init__(self, model: VideoModel, scheduler: SchedulerMixin, positions: str = "native") -> None:
        if not isinstance(scheduler, ScaleWiseFlowMatchScheduler):
            raise ValueError(
                f"scheduler: got a {type(scheduler).__name__}, expected a ScaleWiseFlowMatchScheduler with "
                "the student's stages; make one with from_schedule."
            )
        if positions not in POSITIONS:
            raise ValueError(f"positions: got {positions!r}, expected {' or '.join(POSITIONS)}.")
        model.tokens(scheduler.schedule)
        self.model = model
        self.scheduler = scheduler
        scheduler.repeated_frames = model.spec.compression.repeated_frames
        self.positions = positions
        with model.positions_over(self._full_frames(scheduler.schedule)):
            pass  # refused here, not in the first clip, where the model cannot
        self.progress_bar = model.pipe.progress_bar
        self.set_progress_bar_config = model.pipe.set_progress_bar_config

    @property
    def compression(self) -> Compression:
        """How clips are divided into latents and tokens."""
        return self.model.spec.compression

    @property
    def fps(self) -> float:
        """Frames per second of the clips."""
        return self.model.spec.fps

    def schedule_for(
        self, frames: int | None = None, height: int | None = None, width: int | None = None
    ) -> ScaleSchedule:
        """The stages for a clip of some size; the schedule's own where nothing is asked for.

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
        return schedule.scaled_to(compression.latent_size(size), compression)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        *,
        pictures: Float[Tensor, "prompts 3 picture_height picture_width"] | None = None,
        frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_videos_per_prompt: int = 1,
        generator: Generators = None,
        latents: Float[Tensor, "batch channels latent_frames latent_height latent_width"] | None = None,
        prompt_embeds: Float[Tensor, "prompts text_length text_dim"] | None = None,
        output_type: str = "np",
        callback_on_step_end: StageCallback = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        preview: bool = False,
        start: StageState | None = None,
        stop: int | None = None,
        on_stage: Callable[[StageState, float], object] | None = None,
    ) -> ScaleWisePipelineOutput:
        """Make clips.

        Args:
            prompt: what to show, one text or several.
            pictures: in [-1, 1], of the height and width of the clips: what each starts with, for models whose
                adapter `takes_first_frame`.
            frames: of a clip; default the size that the student was distilled for.
            height: in pixels, likewise.
            width: in pixels, likewise.
            num_videos_per_prompt: clips for each prompt; they follow each other in the batch.
            generator: one for everything, or one for each clip.
            latents: noise on the grid of the first stage, instead of drawing it.
            prompt_embeds: what the model's `encode_prompt` gave, instead of `prompt`.
            output_type: "np", "pt", "pil" or "latent".
            callback_on_step_end: called after every stage as `callback(pipe, index, timestep, tensors)`;
                returns a dict, whose "latents" and "prompt_embeds" replace what the next stage gets. Setting
                `pipe._interrupt` stops there, with the clean latents of the stage just done.
            callback_on_step_end_tensor_inputs: tensors to hand to the callback: "latents" (of the next
                stage, noisy), "prompt_embeds", "x0" (clean, of the stage just done).
            preview: decode what every stage saw, too.
            start: where an earlier call of the same prompts and size stopped: goes on with the stage after it, and
                gives what that call would have given, to the bit. Brings its generators along.
            stop: how many stages have run, those before `start` included, when this call ends; default all.
            on_stage: called after every stage with the clips as they are then and with the stage's seconds.

        Raises:
            ValueError: if the inputs do not fit together or the size is not legal.
        """
        _check_inputs(prompt, prompt_embeds, output_type)
        tell = self._teller(callback_on_step_end, callback_on_step_end_tensor_inputs)
        schedule = self.schedule_for(frames, height, width)
        prompt_embeds, pictures = self._conditions(
            schedule, prompt, prompt_embeds, pictures, num_videos_per_prompt
        )
        begin, generator = self._begin(schedule, len(prompt_embeds), generator, latents, start)
        until = _check_stop(stop, start, schedule)
        with self.model.positions_over(self._full_frames(schedule)):
            clean, seconds, state = self._run_stages(
                schedule.until(until), begin, prompt_embeds, pictures, generator, tell, on_stage
            )
        video = self.decode_latents(clean[-1], output_type)
        previews = [*(self.decode_latents(x0, output_type) for x0 in clean[:-1]), video] if preview else None
        self.model.pipe.maybe_free_model_hooks()
        return ScaleWisePipelineOutput(frames=video, previews=previews, stage_seconds=seconds, state=state)

    @torch.no_grad()
    def decode_latents(
        self,
        latents: Float[Tensor, "batch channels latent_frames latent_height latent_width"],
        output_type: str = "np",
    ) -> Any:
        """Turn clean latents of any stage into clips, in one of the forms of `output_type`."""
        if output_type == "latent":
            return latents
        return VideoProcessor().postprocess_video(decode_whole(self.model, latents), output_type=output_type)

    @torch.no_grad()
    def stream(
        self, latents: Float[Tensor, "batch channels latent_frames latent_height latent_width"]
    ) -> Iterator[Float32[np.ndarray, "batch frames height width 3"]]:
        """Clean latents as clips in the form "np", the next frames each time; memory does not grow with them."""
        for pixels in decode_stream(self.model, latents):
            yield VideoProcessor().postprocess_video(pixels, output_type="np")
        self.model.pipe.maybe_free_model_hooks()

    def _conditions(
        self,
        schedule: ScaleSchedule,
        prompt: str | list[str] | None,
        prompt_embeds: Tensor | None,
        pictures: Tensor | None,
        num_videos_per_prompt: int,
    ) -> tuple[Tensor, Tensor | None]:
        """What each clip is of: embedded prompts, and the pictures that clips start with."""
        if prompt_embeds is None:
            assert prompt is not None
            prompt_embeds = self.model.encode_prompt([prompt] if isinstance(prompt, str) else list(prompt))
        if pictures is not None:
            check_pictures(self.model, schedule, pictures)
            if len(pictures) != len(prompt_embeds):
                raise ValueError(
                    f"pictures: got {len(pictures)} for {len(prompt_embeds)} prompts, expected one for each."
                )
            pictures = pictures.repeat_interleave(num_videos_per_prompt, dim=0)
        return prompt_embeds.repeat_interleave(num_videos_per_prompt, dim=0), pictures

    def _begin(
        self,
        schedule: ScaleSchedule,
        clips: int,
        generator: Generators,
        latents: Tensor | None,
        start: StageState | None,
    ) -> tuple[StageState | Tensor, Generators]:
        """Where the first stage that runs begins, the state of an earlier call or noise, and what later noise is of."""
        if start is not None:
            _check_start(start, schedule, clips, generator, latents)
            return start, copy_generators(start.generator)
        shape = (clips, self.model.spec.latent_channels, *schedule[0].grid.as_tuple())
        if latents is None:
            return draw_noise(shape, generator=generator, device=self.model.device), generator
        if tuple(latents.shape) != shape:
            raise ValueError(
                f"latents: got shape {tuple(latents.shape)}, expected {shape}: clips, channels and the grid "
                "of the first stage."
            )
        return latents.to(self.model.device, torch.float32), generator

    def _teller(self, callback: StageCallback, names: Sequence[str]) -> _Tell:
        """What hands the named tensors of a stage to a callback, and gives those that take their place."""
        names = _callback_names(callback, names)

        def tell(index: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            if callback is None:
                return {}
            return callback(self, index, timestep, {name: tensors[name] for name in names}) or {}

        return tell

    def _run_stages(
        self,
        schedule: ScaleSchedule,
        start: StageState | Tensor,
        prompt_embeds: Tensor,
        pictures: Tensor | None,
        generator: Generators,
        tell: _Tell,
        on_stage: Callable[[StageState, float], object] | None,
    ) -> tuple[list[Tensor], list[float], StageState]:
        """Clean latents and seconds of every stage that ran, and the state after them; a callback may stop early."""
        device = self.model.device  # asked once: it is looked for in every module
        self.scheduler.set_timesteps(device=device, schedule=schedule)
        begin = start.stages if isinstance(start, StageState) else 0
        latents: Any = None if isinstance(start, StageState) else start
        self.scheduler.set_begin_index(begin)
        self._interrupt, self._num_timesteps = False, len(schedule)  # callbacks of diffusers read both
        clean: list[Tensor] = []
        stage_seconds: list[float] = []
        with self.progress_bar(total=len(schedule) - begin) as progress_bar:
            for index, timestep in enumerate(self.scheduler.timesteps[begin:], begin):
                began = _now(device)
                if latents is None:
                    assert isinstance(start, StageState)
                    x0 = start.latents.to(device, torch.float32)
                    latents = self.scheduler.renoise(x0, index, generator)
                first_frame = None
                if pictures is not None:
                    first_frame = encode_first_frame(self.model, pictures, LatentSize(*latents.shape[2:]))
                stage = schedule[index]
                velocity = self.model.predict_velocity(
                    latents, stage.sigma, prompt_embeds, first_frame=first_frame, attention=stage.attention
                )
                before_noise = copy_generators(generator)
                latents, x0 = self.scheduler.step(velocity, timestep, latents, generator, return_dict=False)
                stage_seconds.append(_now(device) - began)
                clean.append(x0)
                state = StageState(x0, index + 1, before_noise)
                if on_stage is not None:
                    on_stage(state, stage_seconds[-1])
                tensors = {"latents": latents, "prompt_embeds": prompt_embeds, "x0": x0}
                tensors |= tell(index, timestep, tensors)
                latents, prompt_embeds = tensors["latents"], tensors["prompt_embeds"]
                progress_bar.update()
                if self._interrupt:
                    break
        if begin + len(clean) == len(schedule):
            clean[-1] = latents  # the same, unless a callback changed it
        return clean, stage_seconds, state

    def _full_frames(self, schedule: ScaleSchedule) -> int | None:
        return schedule.target.frames if self.positions == "rescaled" else None


def encode_first_frame(
    model: VideoModel, pictures: Float[Tensor, "batch 3 _ _"], grid: LatentSize
) -> Float[Tensor, "batch channels 1 height width"]:
    """Clean latents of the pictures that clips on a grid start with, shrunk to its size.

    Pictures lie in [-1, 1] and have the size of the last stage.
    """
    size = model.spec.compression.pixel_size(LatentSize(1, grid.height, grid.width))
    return model.encode_video(resize_pixels(pictures.unsqueeze(2), size))


def check_pictures(
    model: VideoModel, schedule: ScaleSchedule, pictures: Float[Tensor, "batch 3 _ _"]
) -> None:
    """Refuse pictures of another size than the last stage's.

    Raises:
        ValueError: with both sizes in pixels.
    """
    target = model.spec.compression.pixel_size(schedule.target)
    height, width = pictures.shape[2:]
    if (height, width) != (target.height, target.width):
        raise ValueError(
            f"pictures: got {height}x{width} (height x width), expected the {target.height}x{target.width} of the "
            "last stage; crop and resize them first."
        )


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _check_inputs(prompt: str | list[str] | None, prompt_embeds: Tensor | None, output_type: str) -> None:
    if (prompt is None) == (prompt_embeds is None):
        got = "neither" if prompt is None else "both"
        raise ValueError(f"prompt and prompt_embeds: got {got}, expected exactly one of them.")
    if prompt is not None and len(prompt) == 0 and not isinstance(prompt, str):
        raise ValueError("prompt: got an empty list, expected at least one prompt.")
    if output_type not in _OUTPUT_TYPES:
        raise ValueError(f"output_type: got {output_type!r}, expected one of {', '.join(_OUTPUT_TYPES)}.")


def _check_start(
    start: StageState, schedule: ScaleSchedule, clips: int, generator: Generators, latents: Tensor | None
) -> None:
    start.check_fits(schedule)
    if len(start.latents) != clips:
        raise ValueError(f"start: got {len(start.latents)} clips for {clips} prompts, expected one for each.")
    if generator is not None or latents is not None:
        raise ValueError("start: brings its noise along; leave generator and latents out.")


def _check_stop(stop: int | None, start: StageState | None, schedule: ScaleSchedule) -> int:
    least, most = 1 if start is None else start.stages + 1, len(schedule)
    if stop is not None and not least <= stop <= most:
        raise ValueError(f"stop: got {stop} stages, expected {least} to {most}.")
    return most if stop is None else stop


def _callback_names(callback: StageCallback, names: Sequence[str]) -> Sequence[str]:
    if isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
        names = callback.tensor_inputs
    unknown = [name for name in names if name not in _CALLBACK_TENSORS]
    if unknown:
        raise ValueError(
            f"callback_on_step_end_tensor_inputs: got {', '.join(unknown)}, expected some of "
            f"{', '.join(_CALLBACK_TENSORS)}."
        )
    return names
