"""What the rest of the package asks of a text-to-video model, whatever its family."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, Literal, TypeVar

import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.utils.torch_utils import get_module_execution_device
from jaxtyping import Float
from torch import Tensor, nn

from swd_video.core.flow import Sigma, velocity_from_x0
from swd_video.core.grid import Compression, LatentSize, PixelSize
from swd_video.core.local_attention import WindowsOfBlocks
from swd_video.core.resize import resize_latents
from swd_video.core.schedule import ScaleSchedule
from swd_video.models.capture import capture_blocks, left_out
from swd_video.models.codec import Codec
from swd_video.models.local_attention import attending, windowed_processors
from swd_video.models.spec import ModelSpec

MaskKind = Literal["none", "additive", "boolean"]
"""How a family tells attention which tokens of a prompt are padding."""

ATTENTION_LAYERS = ("to_q", "to_k", "to_v", "to_out.0")
"""What diffusers calls the linear layers of an attention."""

# Not typing.Self: beartype, which checks signatures in tests, refuses it outside decorated classes.
_ModelT = TypeVar("_ModelT", bound="VideoModel")


class VideoModel(Codec, ABC):
    """A text-to-video model seen as four functions: text encoder, VAE both ways, and velocity.

    Everything outside speaks `latents`: normalised, as the transformer sees them. An embedded prompt is one
    tensor for every family, so that it can be cached, stacked and sliced without knowing the family: a row for
    each token, rows of zeros for padding. Masks and pooled embeddings are read back out of it by the adapter
    that wrote it.

    Not for several threads at a time: while a network runs, hooks that belong to the call hang on its modules.

    An adapter gives the methods that raise here; `docs/adapters.md` says how to write one. The text encoder and
    the VAE are frozen and put in evaluation mode; the transformer is left as it is.

    Args:
        pipe: a pipeline of `pipeline_class`.
        fps: frames per second of the clips it was trained on; default the family's.
        training_size: size of the clips it was trained on, where known.
        text_length: tokens of a prompt; default what the family was trained with.

    Raises:
        ValueError: if the pipeline is of a kind that the adapter does not cover.

    Attributes:
        family: its name, for example "wan".
        parts: what a pipeline of the family must have.
        pipeline_class: diffusers' pipeline of the family.
        attention_mask: the mask that the family's attention gets, which not every backend takes.
        stock_samples: whether diffusers' pipeline of the family, with our scheduler in it, samples a student too.
        block_counts: keys of the transformer's config that say how many blocks it has of each kind, in running order.
        guidance_scale: default of the family's pipeline.
        settings: what of `LoadOptions` the constructor takes.
        lora_targets: ends of the names of the linear layers of its blocks, attention and MLP, which a LoRA changes.
        pipe: the pipeline whose parts these are; its modules are shared, not copied.
        transformer: the network that predicts velocities. Methods that run it take another of the same
            architecture as `transformer=`, so that teacher and student share one adapter.
        self_attention: name of the attention of a block's video tokens to each other alone, which can be kept to
            windows; None where they attend to the text's in the same.
        takes_first_frame: whether the transformer takes a timestep for every token, and so a picture to start from.
        can_rescale_positions: whether `rescale_positions` works for the model.
        full_frames: what `rescale_positions` was given last.
    """

    family: ClassVar[str]
    parts: ClassVar[tuple[str, ...]] = ("transformer", "vae", "text_encoder", "tokenizer")
    pipeline_class: ClassVar[type[DiffusionPipeline]]
    attention_mask: ClassVar[MaskKind] = "none"
    stock_samples: ClassVar[bool] = False
    block_counts: ClassVar[tuple[str, ...]] = ("num_layers",)
    guidance_scale: ClassVar[float]
    settings: ClassVar[tuple[str, ...]] = ()
    lora_targets: ClassVar[tuple[str, ...]] = (*ATTENTION_LAYERS, "ff.net.0.proj", "ff.net.2")
    self_attention: ClassVar[str | None] = None
    takes_first_frame: bool = False
    can_rescale_positions: bool = False
    full_frames: int | None = None

    def __init__(
        self,
        pipe: Any,
        *,
        fps: float | int | None = None,
        training_size: PixelSize | None = None,
        text_length: int | None = None,
    ) -> None:
        _check_parts(pipe, self.parts)
        self.pipe = pipe
        self.transformer: nn.Module = pipe.transformer
        _require_text_to_video(pipe, self._latent_channels())
        for name in self.parts:
            if name == "vae" or name.startswith("text_encoder"):
                getattr(pipe, name).requires_grad_(False).eval()
        config = pipe.transformer.config
        self.spec = ModelSpec(
            family=self.family,
            compression=self._compression(),
            latent_channels=self._latent_channels(),
            hidden_size=config.num_attention_heads * config.attention_head_dim,
            num_blocks=len(self._blocks(pipe.transformer)[0]),
            text_length=text_length or self._text_length(),
            text_dim=self._text_dim(config),
            fps=float(fps or self._fps()),
            training_size=training_size,
            guidance_scale=self.guidance_scale,
            embedded_guidance=self._embedded_guidance(config),
        )

    @classmethod
    def from_pipeline(cls: type[_ModelT], pipe: Any, **facts: Any) -> _ModelT:
        """Wrap a loaded pipeline; see the constructor."""
        return cls(pipe, **facts)

    @property
    def text_tokens(self) -> dict[str, int]:
        """Tokens that each text encoder, by its name in the pipeline, reads for a prompt, padding included."""
        return {"text_encoder": self.spec.text_length}

    def transformer_at(self, sigma: float) -> str:
        """Name in the pipeline of the transformer that predicts at a noise level."""
        return "transformer"

    @property
    def device(self) -> torch.device:
        """Where the transformer runs, which under CPU offload is not where its weights wait."""
        return get_module_execution_device(self.transformer)

    def tokens(self, schedule: ScaleSchedule) -> list[int]:
        """Tokens of every stage.

        Raises:
            ValueError: naming the first stage that is not for the model.
        """
        for index, stage in enumerate(schedule):
            if stage.attention is not None and self.self_attention is None:
                raise ValueError(
                    f"schedule[{index}].attention: got windows for a {self.family} model, whose tokens attend to each "
                    "other and to the text in one; leave it out."
                )
        return schedule.tokens(self.spec.compression)

    def rescale_positions(self, full_frames: int | None) -> None:
        """Give the frames of short grids temporal positions over the whole range of the full one, from now on.

        Args:
            full_frames: latent frames of the full grid; None for the positions that the model was trained with.

        Raises:
            ValueError: if the model's positions cannot be spread.

        Source: TPDiff: Temporal Pyramid Video Diffusion Model (arXiv 2503.09566).
        """
        if full_frames is not None and not self.can_rescale_positions:
            raise ValueError(
                f"positions: got rescaled for a {self.spec.family} model, which has only native ones; "
                "set positions to native."
            )
        self.full_frames = full_frames

    @contextmanager
    def positions_over(self, full_frames: int | None) -> Iterator[None]:
        """A context in which `rescale_positions` holds; what was set before holds again after it."""
        before = self.full_frames
        self.rescale_positions(full_frames)
        try:
            yield
        finally:
            self.full_frames = before

    @property
    def max_tokens(self) -> int:
        """Tokens of a prompt that the model reads; what is longer is cut."""
        return self.spec.text_length

    def count_tokens(self, prompt: str) -> int:
        """How many of `max_tokens` a prompt would take, if nothing were cut."""
        return len(self.pipe.tokenizer(prompt, truncation=False, verbose=False).input_ids)

    @abstractmethod
    def encode_prompt(self, prompts: list[str]) -> Float[Tensor, "batch text_length text_dim"]:
        """Embed prompts, padded or cut to `spec.text_length` rows; rows of padding are zeros."""

    def predict_velocity(
        self,
        noisy_latents: Float[Tensor, "batch channels frames height width"],
        sigma: Sigma,
        prompt_embeds: Float[Tensor, "batch text_length text_dim"],
        transformer: nn.Module | None = None,
        first_frame: Float[Tensor, "batch channels 1 height width"] | None = None,
        attention: WindowsOfBlocks | None = None,
    ) -> Float[Tensor, "batch channels frames height width"]:
        """Predict `noise - x0`, without guidance, in the dtype of `noisy_latents`.

        Args:
            noisy_latents: latents at noise level `sigma`.
            sigma: noise level, one number or one for each clip.
            prompt_embeds: what `encode_prompt` gave.
            transformer: run this network instead of `self.transformer`.
            first_frame: clean latents of the picture that the clip starts with. The network sees them without
                noise in place of the first noisy ones, and the velocity leads there.
            attention: `Stage.attention`: the windows in which tokens attend to each other; None: each to all.

        Raises:
            ValueError: if the latents do not fit the model, or it cannot start from a picture.
        """
        network = self.transformer if transformer is None else transformer
        self._check_latents(noisy_latents)
        shown = noisy_latents
        if first_frame is not None:
            if not self.takes_first_frame:
                raise ValueError(
                    f"first_frame: this {self.spec.family} model makes clips from text alone; use LTX-Video or "
                    "Wan 2.2 TI2V-5B to start from a picture."
                )
            shown = torch.cat([first_frame.to(noisy_latents), noisy_latents[:, :, 1:]], dim=2)
        inputs = self._transformer_inputs(network, shown, sigma, prompt_embeds)
        if first_frame is not None:
            patch = self.spec.compression.patch
            inputs["timestep"] = timestep_without_noise_at_first(inputs["timestep"], shown, patch)
        with self._positions(unwrap(network)), self._attention(unwrap(network), attention, shown):
            output = network(**inputs, return_dict=False)[0]
        velocity = self._to_velocity(output, noisy_latents, sigma)
        if first_frame is not None:
            known = velocity_from_x0(noisy_latents[:, :, :1], shown[:, :, :1], sigma)
            velocity = torch.cat([known.to(velocity), velocity[:, :, 1:]], dim=2)
        return velocity.to(noisy_latents.dtype)

    def features(
        self,
        noisy_latents: Float[Tensor, "batch channels frames height width"],
        sigma: Sigma,
        prompt_embeds: Float[Tensor, "batch text_length text_dim"],
        blocks: Sequence[int],
        transformer: nn.Module | None = None,
    ) -> list[Float[Tensor, "batch tokens hidden_size"]]:
        """The video's tokens after each of the asked transformer blocks, in the order asked.

        Nothing after the last asked block is computed, and gradients reach `noisy_latents`. `blocks` are counted from
        0; the other arguments are those of `predict_velocity`.

        Raises:
            ValueError: if a block does not exist, none is asked for, or the latents do not fit the model.
        """
        network = self.transformer if transformer is None else transformer
        self._check_latents(noisy_latents)
        return self._capture(network, noisy_latents, sigma, prompt_embeds, blocks)

    def resize_latents(
        self, latents: Float[Tensor, "batch channels _ _ _"], size: LatentSize
    ) -> Float[Tensor, "batch channels _ _ _"]:
        """Clean latents on another grid, in the way of students without a network for it."""
        return resize_latents(latents, size, self.spec.compression.repeated_frames)

    def teacher_scheduler(self, steps: int, grid: LatentSize, generator: Any = None) -> Any:
        """A copy of the model's own scheduler, its steps set for a clip as the family's pipeline sets them.

        Its `timesteps` are 1000 sigma, and its `step` takes velocities and noisy latents as they are here.

        Some pipelines shift noise levels by the grid's number of tokens.

        Raises:
            ValueError: if the scheduler is not one that the family's pipeline can use.
        """
        scheduler = copy.deepcopy(self.pipe.scheduler)
        config, name = scheduler.config, type(scheduler).__name__
        is_flow = isinstance(scheduler, FlowMatchEulerDiscreteScheduler) or (
            config.get("prediction_type") == "flow_prediction"
        )
        try:
            if not is_flow:
                raise ValueError(f"{name} is not one of flow matching")
            self._set_timesteps(scheduler, steps, grid)
        except (TypeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"shift: not set, and the model's own {name} cannot be used as its pipeline does: {reason}; load the "
                "model with its own scheduler_config.json, or set shift to sample with Euler steps."
            ) from error
        return scheduler

    def noise_shift(self, grid: LatentSize) -> float | None:
        """By how much the noise schedule is shifted for clips on a grid; None where it is not known.

        Where it has another form, it is the shift that comes closest.
        """
        config = getattr(self.pipe.scheduler, "config", {})
        shift = config.get("flow_shift", config.get("shift"))
        return None if shift is None or config.get("use_dynamic_shifting") else float(shift)

    def _set_timesteps(self, scheduler: Any, steps: int, grid: LatentSize) -> None:
        """In the very words of the family's pipeline."""
        scheduler.set_timesteps(steps, device=self.device)

    def transformer_blocks(self, transformer: nn.Module) -> Sequence[nn.Module]:
        """All blocks of a transformer of this family, in the order in which `features` counts them."""
        return self._blocks(unwrap(transformer))[0]

    def without_blocks(
        self, blocks: Sequence[int], transformer: nn.Module | None = None
    ) -> AbstractContextManager[None]:
        """A context in which blocks of a transformer hand on what they are given; both of a model that has two."""
        network = unwrap(self.transformer if transformer is None else transformer)
        owners = (self._blocks(single)[0] for single in self._transformers(network))
        return left_out([owner[index] for owner in owners for index in blocks])

    def _capture(
        self,
        network: nn.Module,
        noisy_latents: Tensor,
        sigma: Sigma,
        prompt_embeds: Tensor,
        blocks: Sequence[int],
    ) -> list[Tensor]:
        inputs = self._transformer_inputs(network, noisy_latents, sigma, prompt_embeds)
        modules, after = self._blocks(unwrap(network))
        with self._positions(unwrap(network)):
            return capture_blocks(modules, after, blocks, lambda: network(**inputs, return_dict=False))

    def _compression(self) -> Compression:
        """How clips are divided, read from the configs of VAE and transformer."""
        vae, config = self.vae, self.pipe.transformer.config
        return Compression(
            temporal=int(vae.temporal_compression_ratio),
            spatial=vae.spatial_compression_ratio,
            patch=(config.patch_size_t, config.patch_size, config.patch_size),
        )

    @abstractmethod
    def _text_length(self) -> int:
        """Rows of an embedded prompt, where nothing else is asked for."""

    @abstractmethod
    def _text_dim(self, config: Any) -> int:
        """Channels of an embedded prompt, from the transformer's config."""

    def _embedded_guidance(self, config: Any) -> float | None:
        """The guidance scale that the transformer is told, from its config."""
        return None

    @abstractmethod
    def _fps(self) -> float:
        """Frames per second of the clips that the family's models were trained on."""

    @abstractmethod
    def _transformer_inputs(
        self, network: nn.Module, noisy_latents: Tensor, sigma: Sigma, prompt_embeds: Tensor
    ) -> dict[str, Any]:
        """The keyword arguments of the family's transformer."""

    def _to_velocity(self, output: Tensor, noisy_latents: Tensor, sigma: Sigma) -> Tensor:
        """What the transformer puts out to `noise - x0` in the shape of `noisy_latents`."""
        return output

    @abstractmethod
    def _blocks(self, inner: Any) -> tuple[Sequence[nn.Module], nn.Module]:
        """All blocks of an unwrapped transformer in running order, and the module that runs after them."""

    def _transformers(self, inner: Any) -> Iterable[Any]:
        """The transformers in an unwrapped network."""
        return (inner,)

    def _positions(self, inner: Any) -> AbstractContextManager[None]:
        """A context in which an unwrapped transformer counts frames as `rescale_positions` said."""
        return nullcontext()

    def _attention(
        self, inner: Any, windows_of: WindowsOfBlocks | None, latents: Tensor
    ) -> AbstractContextManager[None]:
        """A context in which blocks of an unwrapped transformer attend in windows."""
        if windows_of is None:
            return nullcontext()
        assert self.self_attention is not None, self.family
        attentions = [getattr(block, self.self_attention) for block in self._blocks(inner)[0]]
        grid, patch = LatentSize(*latents.shape[2:]), self.spec.compression.patch
        return attending(windowed_processors(attentions, windows_of, grid, patch, latents.device))

    def _check_latents(self, noisy_latents: Tensor) -> None:
        channels = noisy_latents.shape[1]
        if channels != self.spec.latent_channels:
            raise ValueError(
                f"latents: got {channels} channels, expected the {self.spec.latent_channels} of this "
                f"{self.spec.family} model. Encode the clips with its own VAE."
            )
        self.spec.compression.tokens(LatentSize(*noisy_latents.shape[2:]))


def unwrap(network: nn.Module) -> Any:
    """The network inside `DistributedDataParallel`, which hides attributes; peft and torch.compile do not."""
    return network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network


def timestep_without_noise_at_first(
    timestep: Float[Tensor, "batch *tokens"], latents: Tensor, patch: tuple[int, int, int]
) -> Float[Tensor, "batch _"]:
    """A timestep for every token, 0 for those of the first latent frame."""
    grid = LatentSize(*latents.shape[2:])
    tokens = Compression(patch=patch).tokens(grid)
    timestep = timestep.reshape(len(timestep), -1).expand(-1, tokens).clone()
    timestep[:, : tokens * patch[0] // grid.frames] = 0
    return timestep


def _check_parts(pipe: Any, names: Sequence[str]) -> None:
    for name in names:
        if getattr(pipe, name) is None:
            raise ValueError(
                f"this {type(pipe).__name__} has no {name}, expected all of {', '.join(names)}; load the whole model."
            )


def _require_text_to_video(pipe: Any, latent_channels: int) -> None:
    """Refuse transformers that take more than noisy latents."""
    channels = pipe.transformer.config.in_channels
    if channels != latent_channels:
        raise ValueError(
            f"this {type(pipe).__name__}'s transformer takes {channels} channels and its VAE makes {latent_channels}, "
            "expected as many; use a text-to-video model, not one for images or control signals."
        )
