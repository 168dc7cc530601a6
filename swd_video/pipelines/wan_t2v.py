"""Text to video with scale-wise students of Wan."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKLWan, SchedulerMixin, WanPipeline, WanTransformer3DModel
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import get_module_execution_device
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

from swd_video.core.grid import Compression, PixelSize
from swd_video.core.sampling import Generators, draw_noise
from swd_video.core.schedule import ScaleSchedule
from swd_video.models.positions import rescaled_positions
from swd_video.models.wan import (
    WAN_FPS,
    check_one_transformer,
    denormalize_latents,
    timestep_per_token,
    tokenizer_length,
    wan_compression,
)
from swd_video.schedulers import ScaleWiseFlowMatchScheduler

_OUTPUT_TYPES = ("np", "pt", "pil", "latent")


@dataclass
class WanScaleWisePipelineOutput(BaseOutput):
    """What `WanScaleWisePipeline` gives.

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


class WanScaleWisePipeline(WanPipeline):
    """Text to video in a few stages that grow in space and time.

    A `WanPipeline` whose scheduler carries a schedule of noise levels and grids, so LoRA loading, offloading
    and saving are its own. Students are distilled from a guided teacher: there is no guidance scale and no
    negative prompt. Parts may be None where only the others are used: tokenizer and text encoder alone embed
    prompts, and without them `prompt_embeds` is sampled.

    Args:
        tokenizer: of the text encoder.
        text_encoder: UMT5.
        vae: between pixels and latents.
        scheduler: a `ScaleWiseFlowMatchScheduler`, with the stages that the student was distilled for.
        transformer: the student.
        transformer_2: must be None; there so that saved Wan folders load.
        boundary_ratio: unused, as `transformer_2`.
        expand_timesteps: give the transformer a timestep for every token (Wan 2.2 TI2V).
        fps: frames per second of the clips.
        text_length: tokens of a prompt; default what the tokenizer says, at most 512.
        positions: "native", or "rescaled": frames of short stages get temporal positions over the whole range of
            the last stage's. As the student was distilled.

    Raises:
        ValueError: if there are two transformers, the scheduler has no stages, or positions are neither.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _callback_tensor_inputs = ["latents", "prompt_embeds", "x0"]  # noqa: RUF012 - diffusers reads it
    _optional_components = ["transformer_2"]  # noqa: RUF012 - diffusers reads it

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        text_encoder: UMT5EncoderModel | None,
        vae: AutoencoderKLWan | None,
        scheduler: SchedulerMixin | None,
        transformer: WanTransformer3DModel | None,
        transformer_2: WanTransformer3DModel | None = None,
        boundary_ratio: float | None = None,
        expand_timesteps: bool = False,
        fps: float | int = WAN_FPS,
        text_length: int | None = None,
        positions: str = "native",
    ) -> None:
        if not isinstance(scheduler, ScaleWiseFlowMatchScheduler | None):
            raise ValueError(
                f"scheduler: got a {type(scheduler).__name__}, expected a ScaleWiseFlowMatchScheduler with "
                "the student's stages; make one with from_schedule."
            )
        if positions not in ("native", "rescaled"):
            raise ValueError(f"positions: got {positions!r}, expected native or rescaled.")
        super().__init__(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            vae=vae,
            scheduler=scheduler,
            transformer=transformer,
            transformer_2=transformer_2,
            boundary_ratio=boundary_ratio,
            expand_timesteps=expand_timesteps,
        )
        if transformer is not None or transformer_2 is not None:
            check_one_transformer(self)
        self.register_to_config(fps=float(fps), text_length=text_length, positions=positions)

    @property
    def compression(self) -> Compression:
        """How clips are divided into latents and tokens."""
        return wan_compression(self.vae, self.transformer)

    @property
    def fps(self) -> float:
        """Frames per second of the clips."""
        return float(self.config.fps)

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
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        *,
        frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_videos_per_prompt: int = 1,
        generator: Generators = None,
        latents: Float[Tensor, "batch channels latent_frames latent_height latent_width"] | None = None,
        prompt_embeds: Float[Tensor, "prompts text_length text_dim"] | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: Callable[..., Any] | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        preview: bool = False,
        max_sequence_length: int | None = None,
    ) -> WanScaleWisePipelineOutput | tuple[Any, list[Any] | None, list[float]]:
        """Make clips.

        Args:
            prompt: what to show, one text or several.
            frames: of a clip; default the size that the student was distilled for.
            height: in pixels, likewise.
            width: in pixels, likewise.
            num_videos_per_prompt: clips for each prompt; they follow each other in the batch.
            generator: one for everything, or one for each clip.
            latents: noise on the grid of the first stage, instead of drawing it.
            prompt_embeds: embedded prompts, instead of `prompt`.
            output_type: "np", "pt", "pil" or "latent".
            return_dict: give an object instead of a tuple of `frames`, `previews` and `stage_seconds`.
            attention_kwargs: for the transformer, such as a LoRA `scale`.
            callback_on_step_end: called after every stage as `callback(pipe, index, timestep, tensors)`;
                returns a dict, whose "latents" and "prompt_embeds" replace what the next stage gets. Setting
                `pipe._interrupt` stops there, with the clean latents of the stage just done.
            callback_on_step_end_tensor_inputs: tensors to hand to the callback: "latents" (of the next
                stage, noisy), "prompt_embeds", "x0" (clean, of the stage just done).
            preview: decode what every stage saw, too.
            max_sequence_length: tokens of a prompt; default the length that the model was trained with.

        Raises:
            ValueError: if the inputs do not fit together or the size is not legal.
        """
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        _check_inputs(prompt, prompt_embeds, output_type)
        self._check_callback_inputs(callback_on_step_end_tensor_inputs)
        schedule = self.schedule_for(frames, height, width)
        self._attention_kwargs, self._interrupt = attention_kwargs, False

        prompt_embeds = self._embed(prompt, prompt_embeds, num_videos_per_prompt, max_sequence_length)
        latents = self._first_latents(schedule, len(prompt_embeds), generator, latents)
        self.scheduler.set_timesteps(device=self._execution_device, schedule=schedule)
        self.scheduler.set_begin_index(0)
        self._num_timesteps = len(schedule)
        full_frames = schedule.target.frames if self.config.positions == "rescaled" else None
        with rescaled_positions(self.transformer.rope, full_frames):
            clean, stage_seconds = self._run_stages(
                latents, prompt_embeds, generator, callback_on_step_end, callback_on_step_end_tensor_inputs
            )
        video = self.decode_latents(clean[-1], output_type)
        previews = [*(self.decode_latents(x0, output_type) for x0 in clean[:-1]), video] if preview else None
        self.maybe_free_model_hooks()
        if not return_dict:
            return video, previews, stage_seconds
        return WanScaleWisePipelineOutput(frames=video, previews=previews, stage_seconds=stage_seconds)

    @torch.no_grad()
    def decode_latents(
        self,
        latents: Float[Tensor, "batch channels latent_frames latent_height latent_width"],
        output_type: str = "np",
    ) -> Any:
        """Turn clean latents of any stage into clips, in one of the forms of `output_type`."""
        if output_type == "latent":
            return latents
        # Not vae.device: an offloaded VAE moves only when it is called.
        latents = latents.to(get_module_execution_device(self.vae), self.vae.dtype)
        raw_latents = denormalize_latents(latents, self.vae)
        pixels = self.vae.decode(raw_latents, return_dict=False)[0]
        return self.video_processor.postprocess_video(pixels, output_type=output_type)

    def _embed(
        self,
        prompt: str | list[str] | None,
        prompt_embeds: Tensor | None,
        num_videos_per_prompt: int,
        max_sequence_length: int | None,
    ) -> Tensor:
        device, dtype = self._execution_device, self.transformer.dtype
        if prompt_embeds is not None:
            return prompt_embeds.to(device, dtype).repeat_interleave(num_videos_per_prompt, dim=0)
        length = max_sequence_length or self.config.text_length or tokenizer_length(self.tokenizer)
        embeds, _ = self.encode_prompt(
            prompt,
            do_classifier_free_guidance=False,
            num_videos_per_prompt=num_videos_per_prompt,
            max_sequence_length=length,
            device=device,
        )
        return embeds.to(dtype)

    def _first_latents(
        self, schedule: ScaleSchedule, batch_size: int, generator: Generators, latents: Tensor | None
    ) -> Tensor:
        shape = (batch_size, self.transformer.config.in_channels, *schedule[0].grid.as_tuple())
        if latents is None:
            return draw_noise(shape, generator=generator, device=self._execution_device)
        if tuple(latents.shape) != shape:
            raise ValueError(
                f"latents: got shape {tuple(latents.shape)}, expected {shape}: clips, channels and the grid "
                "of the first stage."
            )
        return latents.to(self._execution_device, torch.float32)

    def _run_stages(
        self,
        latents: Tensor,
        prompt_embeds: Tensor,
        generator: Generators,
        callback: Callable[..., Any] | PipelineCallback | MultiPipelineCallbacks | None,
        callback_inputs: Sequence[str],
    ) -> tuple[list[Tensor], list[float]]:
        """Clean latents and seconds of every stage; stops early where a callback has interrupted."""
        clean: list[Tensor] = []
        stage_seconds: list[float] = []
        with self.progress_bar(total=self._num_timesteps) as progress_bar:
            for index, timestep in enumerate(self.scheduler.timesteps):
                self._current_timestep = timestep
                start = self._now()
                velocity = self._predict_velocity(latents, timestep, prompt_embeds)
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
                if self.interrupt:
                    break
        self._current_timestep = None
        if len(clean) == self._num_timesteps:
            clean[-1] = latents  # the same, unless a callback changed it
        return clean, stage_seconds

    def _predict_velocity(self, noisy_latents: Tensor, timestep: Tensor, prompt_embeds: Tensor) -> Tensor:
        timesteps = timestep.expand(noisy_latents.shape[0])
        if self.config.expand_timesteps:
            timesteps = timestep_per_token(timesteps, noisy_latents, self.transformer.config.patch_size)
        return self.transformer(
            hidden_states=noisy_latents.to(self.transformer.dtype),
            timestep=timesteps,
            encoder_hidden_states=prompt_embeds,
            attention_kwargs=self._attention_kwargs,
            return_dict=False,
        )[0]

    def _check_callback_inputs(self, names: Sequence[str]) -> None:
        unknown = [name for name in names if name not in self._callback_tensor_inputs]
        if unknown:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs: got {', '.join(unknown)}, expected some of "
                f"{', '.join(self._callback_tensor_inputs)}."
            )

    def _now(self) -> float:
        if self._execution_device.type == "cuda":
            torch.cuda.synchronize(self._execution_device)
        return time.perf_counter()


def _check_inputs(prompt: str | list[str] | None, prompt_embeds: Tensor | None, output_type: str) -> None:
    if (prompt is None) == (prompt_embeds is None):
        got = "neither" if prompt is None else "both"
        raise ValueError(f"prompt and prompt_embeds: got {got}, expected exactly one of them.")
    if prompt is not None and len(prompt) == 0 and not isinstance(prompt, str):
        raise ValueError("prompt: got an empty list, expected at least one prompt.")
    if output_type not in _OUTPUT_TYPES:
        raise ValueError(f"output_type: got {output_type!r}, expected one of {', '.join(_OUTPUT_TYPES)}.")
