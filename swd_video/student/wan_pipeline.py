"""Text to video with scale-wise students of Wan."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKLWan, SchedulerMixin, WanPipeline, WanTransformer3DModel
from diffusers.utils.torch_utils import get_module_execution_device
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

from swd_video.core.grid import Compression
from swd_video.core.sampling import Generators
from swd_video.models.wan import (
    WAN_FPS,
    check_one_transformer,
    denormalize_latents,
    timestep_per_token,
    tokenizer_length,
    wan_compression,
    wan_positions,
)
from swd_video.student.stages import (
    ScaleWisePipelineOutput,
    ScaleWiseSampling,
    StageCallback,
    check_inputs,
    check_positions,
    check_scheduler,
)


class WanScaleWisePipeline(ScaleWiseSampling, WanPipeline):
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
        if scheduler is not None:
            check_scheduler(scheduler)
        check_positions(positions)
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
        if scheduler is not None and vae is not None and transformer is not None:
            scheduler.schedule.tokens(self.compression)
        self.register_to_config(fps=float(fps), text_length=text_length, positions=positions)

    @property
    def compression(self) -> Compression:
        """How clips are divided into latents and tokens."""
        return wan_compression(self.vae, self.transformer)

    @property
    def fps(self) -> float:
        """Frames per second of the clips."""
        return float(self.config.fps)

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
        callback_on_step_end: StageCallback = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        preview: bool = False,
        max_sequence_length: int | None = None,
    ) -> ScaleWisePipelineOutput | tuple[Any, list[Any] | None, list[float]]:
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
        check_inputs(prompt, prompt_embeds, output_type)
        names = self._checked_callback_inputs(callback_on_step_end, callback_on_step_end_tensor_inputs)
        schedule = self.schedule_for(frames, height, width)
        self._attention_kwargs = attention_kwargs
        prompt_embeds = self._embed(prompt, prompt_embeds, num_videos_per_prompt, max_sequence_length)
        full_frames = schedule.target.frames if self.config.positions == "rescaled" else None
        with wan_positions(self.transformer.rope, full_frames):
            output = self._sample(
                schedule,
                prompt_embeds,
                generator=generator,
                latents=latents,
                output_type=output_type,
                callback=callback_on_step_end,
                callback_inputs=names,
                preview=preview,
            )
        return output if return_dict else (output.frames, output.previews, output.stage_seconds)

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

    def _sampling_device(self) -> torch.device:
        return self._execution_device

    def _latent_channels(self) -> int:
        return int(self.transformer.config.in_channels)

    def _predict_velocity(
        self, noisy_latents: Tensor, timestep: Tensor, sigma: float, prompt_embeds: Tensor
    ) -> Tensor:
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

    def _decode(self, latents: Tensor) -> Tensor:
        # Not vae.device: an offloaded VAE moves only when it is called.
        latents = latents.to(get_module_execution_device(self.vae), self.vae.dtype)
        return self.vae.decode(denormalize_latents(latents, self.vae), return_dict=False)[0]
