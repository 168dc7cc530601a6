"""Text to video with scale-wise students of any family."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import SchedulerMixin
from jaxtyping import Float
from torch import Tensor

from swd_video.core.grid import Compression, LatentSize
from swd_video.core.sampling import Generators
from swd_video.core.schedule import ScaleSchedule
from swd_video.models.base import VideoModel
from swd_video.models.sampling import check_pictures, encode_first_frame
from swd_video.student.stages import (
    ScaleWisePipelineOutput,
    ScaleWiseSampling,
    StageCallback,
    check_inputs,
    check_positions,
    check_scheduler,
)


class ScaleWisePipeline(ScaleWiseSampling):
    """Text to video in a few stages that grow in space and time, with whatever model has an adapter.

    It is called as `WanScaleWisePipeline` is. It is no `DiffusionPipeline`: what diffusers offers beside sampling is
    found at `model.pipe`. There is no guidance.

    Args:
        model: the adapter, with the student as its transformer.
        scheduler: a `ScaleWiseFlowMatchScheduler`, with the stages that the student was distilled for.
        positions: "native", or "rescaled": frames of short stages get temporal positions over the whole range of
            the last stage's. As the student was distilled.

    Raises:
        ValueError: if the scheduler has no stages or ones that the model cannot take, or positions are neither or
            cannot be rescaled.
    """

    def __init__(self, model: VideoModel, scheduler: SchedulerMixin, positions: str = "native") -> None:
        check_scheduler(scheduler)
        check_positions(positions)
        scheduler.schedule.tokens(model.spec.compression)
        self.model = model
        self.scheduler = scheduler
        scheduler.repeated_frames = model.spec.compression.repeated_frames
        self.positions = positions
        with model.positions_over(self._full_frames(scheduler.schedule)):
            pass  # refused here, not in the first clip, where the model cannot
        self._pictures: Tensor | None = None
        self.progress_bar = model.pipe.progress_bar
        self.set_progress_bar_config = model.pipe.set_progress_bar_config
        self.maybe_free_model_hooks = model.pipe.maybe_free_model_hooks

    @property
    def compression(self) -> Compression:
        """How clips are divided into latents and tokens."""
        return self.model.spec.compression

    @property
    def fps(self) -> float:
        """Frames per second of the clips."""
        return self.model.spec.fps

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

        Raises:
            ValueError: if the inputs do not fit together or the size is not legal.
        """
        check_inputs(prompt, prompt_embeds, output_type)
        names = self._checked_callback_inputs(callback_on_step_end, callback_on_step_end_tensor_inputs)
        schedule = self.schedule_for(frames, height, width)
        if prompt_embeds is None:
            assert prompt is not None
            prompt_embeds = self.model.encode_prompt([prompt] if isinstance(prompt, str) else list(prompt))
        if pictures is not None:
            check_pictures(self.model, schedule, pictures)
            if len(pictures) != len(prompt_embeds):
                raise ValueError(
                    f"pictures: got {len(pictures)} for {len(prompt_embeds)} prompts, expected one for each."
                )
            self._pictures = pictures.repeat_interleave(num_videos_per_prompt, dim=0)
        try:
            with self.model.positions_over(self._full_frames(schedule)):
                return self._sample(
                    schedule,
                    prompt_embeds.repeat_interleave(num_videos_per_prompt, dim=0),
                    generator=generator,
                    latents=latents,
                    output_type=output_type,
                    callback=callback_on_step_end,
                    callback_inputs=names,
                    preview=preview,
                )
        finally:
            self._pictures = None

    def _full_frames(self, schedule: ScaleSchedule) -> int | None:
        return schedule.target.frames if self.positions == "rescaled" else None

    def _sampling_device(self) -> torch.device:
        return self.model.device

    def _latent_channels(self) -> int:
        return self.model.spec.latent_channels

    def _predict_velocity(
        self, noisy_latents: Tensor, timestep: Any, sigma: float, prompt_embeds: Tensor
    ) -> Tensor:
        first_frame = None
        if self._pictures is not None:
            first_frame = encode_first_frame(self.model, self._pictures, LatentSize(*noisy_latents.shape[2:]))
        return self.model.predict_velocity(noisy_latents, sigma, prompt_embeds, first_frame=first_frame)

    def _decode(self, latents: Tensor) -> Tensor:
        return self.model.decode(latents)
