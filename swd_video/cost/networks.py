"""What one run of a network costs, counted on shapes: operations for a clip, and what autograd keeps of it.

The counted calls are those of sampling and of the trainer; `Pass` says which of them a step makes.
"""

import copy
import sys
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import astuple, dataclass, replace
from functools import cached_property, partial
from operator import mul
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from swd_video.core.decoder import StreamingDecoder
from swd_video.core.flow import x0_from_velocity
from swd_video.core.grid import LatentSize
from swd_video.core.local_attention import LocalAttention, Windows
from swd_video.cost.architecture import Architecture, Counts, by_frames
from swd_video.cost.counting import (
    Flops,
    KernelAttention,
    count_flops,
    count_graph,
    count_kept,
    shapes_only,
    without_memory,
)
from swd_video.models.base import VideoModel
from swd_video.models.lora import add_lora
from swd_video.models.pixel_encoders import PixelEncoder
from swd_video.models.published_decoders import load_decoder_file, published_layout
from swd_video.objectives.encoders import Encoder
from swd_video.objectives.gan import head_logits
from swd_video.objectives.passes import Pass
from swd_video.training.optimizers import is_block_matrix

_SIGMA = 0.5  # costs the same as any other
Run = Callable[[Any, int], Tensor]
"""Runs a network on so many clips."""


@dataclass(frozen=True)
class Kept:
    """Bytes that autograd keeps for a backward pass.

    Attributes:
        fixed: whatever the batch is; casts of weights, mostly.
        clip: for every clip in it.
        passing: while the backward pass computes one clip again; of several networks the largest counts.
    """

    fixed: int = 0
    clip: int = 0
    passing: int = 0

    def at(self, batch_size: int) -> int:
        """Bytes of a batch."""
        return self.fixed + self.clip * batch_size + self.passing

    def __add__(self, other: "Kept") -> "Kept":
        """Both together."""
        return Kept(self.fixed + other.fixed, self.clip + other.clip, max(self.passing, other.passing))


class Network(ABC):
    """A network whose runs are counted for one clip, each kind of run once.

    Args:
        counted: what is known of it already, to which the next counts are added; nothing if it is not given.

    Attributes:
        autocasts: whether it obeys autocast.
        recomputed: whether each clip is computed again in the backward pass, always.
        weights: number of those that train, or of all where none do.
        block_matrices: of those that train, how many are in matrices of blocks.
    """

    autocasts, recomputed = True, False
    weights, block_matrices = 0, 0

    def __init__(self, counted: dict[object, Any] | None = None) -> None:
        self._counted = {} if counted is None else counted

    @abstractmethod
    def put_together(self, one: Pass, count: Callable[[nn.Module, Run], Counts]) -> Counts:
        """What a pass costs, from what runs of parts of the network cost."""

    def flops(self, one: Pass) -> Flops:
        """Operations for one clip."""
        key = _run_of(one)
        if key not in self._counted:
            with self._shapes(), torch.set_grad_enabled(one.gradient != "none"):
                self._counted[key] = self.put_together(
                    one, lambda network, run: count_graph(partial(run, network, 1))
                )
        return cast(Flops, self._counted[key])

    def kept(self, one: Pass, *, bf16: bool, checkpointing: bool = False) -> Kept:
        """What autograd keeps."""
        bf16 = bf16 and self.autocasts
        key = _run_of(one), bf16, checkpointing
        if key not in self._counted:
            autocast = torch.autocast("cpu", torch.bfloat16, enabled=bf16)
            with shapes_only(), autocast, warnings.catch_warnings():
                # Normalising bfloat16 by float32 weights is slower than need be, and no news here.
                warnings.filterwarnings("ignore", message="Mismatch dtype")
                self._counted[key] = (
                    Kept() if one.gradient == "none" else self._count_kept(one, checkpointing)
                )
        return cast(Kept, self._counted[key])

    def _shapes(self) -> AbstractContextManager[object]:
        """The context in which operations are counted."""
        return shapes_only()

    def _count_kept(self, one: Pass, checkpointing: bool) -> Kept:
        return self.put_together(one, _kept_of_one_clip if self.recomputed else _kept_of_clips)


class Transformer(Network):
    """A transformer of any number of blocks, from small ones.

    Args:
        architecture: whose.
        lora: rank, layers and name of what is added to its weights; None where all of them train, or none.

    Raises:
        ValueError: if no layer is called as `lora` says.
    """

    def __init__(
        self,
        architecture: Architecture,
        lora: tuple[int, Sequence[str], str] | tuple[int, Sequence[str]] | None = None,
    ) -> None:
        super().__init__(architecture.counted.setdefault(("transformer", lora and (lora[0], *lora[1])), {}))
        self._architecture, self._lora = architecture, lora
        if "trained" not in self._counted:
            trained = [_trained(network) for network in self._small]
            self._counted["trained"] = architecture.of_all_blocks(trained)
        trained = self._counted["trained"]
        self.weights, self.block_matrices = trained.weights, trained.block_matrices

    @cached_property
    def _small(self) -> list[nn.Module]:
        return [
            self._with_additions(network.requires_grad_(True))
            for network in self._architecture.small_transformers()
        ]

    @cached_property
    def _two_of_each(self) -> nn.Module:
        counts = [2] * len(self._architecture.block_counts)
        return self._with_additions(self._architecture.transformer(*counts))

    @cached_property
    def _fake(self) -> dict[nn.Module, nn.Module]:
        with unset_fake_temporarily():
            networks = *self._small, self._two_of_each
            return {network: without_memory(copy.deepcopy(network)) for network in networks}

    def _with_additions(self, network: nn.Module) -> nn.Module:
        if self._lora is not None:
            with torch.device("meta"):
                add_lora(network, *self._lora)
        return network

    def evaluation(self, grid: LatentSize, attention: LocalAttention | None = None) -> Flops:
        """One evaluation for one clip, without gradients."""
        return self.flops(Pass("teacher", grid, attention=attention))

    def flops(self, one: Pass) -> Flops:
        """Operations for one clip."""
        if one.gradient != "none":
            return super().flops(one)
        # A graph that is counted anyway says what its forward pass costs.
        graph = super().flops(replace(one, gradient="weights" if one.depth is None else "input"))
        return replace(graph, backward=0)

    def put_together(self, one: Pass, count: Callable[[nn.Module, Run], Counts]) -> Counts:
        """See `Network`."""
        if one.depth is None:
            numbers = Counter(self._windows(one))
            wholes = []
            for windows in numbers:
                run = partial(self._predict, one.grid, windows)
                counted = [count(part, run) for part in self._small]
                wholes.append(self._architecture.of_all_blocks(counted, one.left_out))
            # Each block adds what one of its kind costs: the mean over blocks of what all of a kind cost.
            return _mean(wholes, list(numbers.values()))
        blocks = range(2 * len(self._architecture.block_counts))
        shallow = [count(self._two_of_each, partial(self._tokens, one.grid, block)) for block in blocks]
        return self._architecture.up_to_block(shallow, one.depth - 1)

    def _shapes(self) -> AbstractContextManager[object]:
        return KernelAttention()

    def _count_kept(self, one: Pass, checkpointing: bool) -> Kept:
        fake = self._fake  # made first: networks that are built among fake tensors are neither fake nor real

        def count(network: nn.Module, run: Run) -> Kept:
            return _kept_of_clips(fake[network], run)

        if not checkpointing:
            return self.put_together(one, count)
        with torch.no_grad():
            between = _num_bytes(self._tokens(one.grid, 0, fake[self._two_of_each], 1))
        if one.depth is not None:
            # By the time that the student's blocks are computed again, no more may be left of the teacher.
            return Kept(clip=one.depth * between)
        # Of every kind one block is, although only one at all is there at a time.
        others = self._architecture.spec.num_blocks - len(self._architecture.block_counts)
        run = partial(self._predict, one.grid, self._windows(one)[0])
        return count(self._small[0], run) + Kept(clip=others * between)

    def _windows(self, one: Pass) -> list[Windows | None]:
        blocks = range(self._architecture.spec.num_blocks)
        return [None if one.attention is None else one.attention(block) for block in blocks]

    def _predict(self, grid: LatentSize, windows: Windows | None, network: nn.Module, batch: int) -> Tensor:
        latents, prompt_embeds = self._inputs(grid, network, batch)
        velocity = self._architecture.model.predict_velocity(
            latents,
            _SIGMA,
            prompt_embeds,
            transformer=network,
            attention=None if windows is None else lambda block: windows,
        )
        return x0_from_velocity(latents, velocity, _SIGMA)

    def _tokens(self, grid: LatentSize, block: int, network: nn.Module, batch: int) -> Tensor:
        latents, prompt_embeds = self._inputs(grid, network, batch)
        (tokens,) = self._architecture.model.features(
            latents.requires_grad_(), _SIGMA, prompt_embeds, blocks=(block,), transformer=network
        )
        return tokens

    def _inputs(self, grid: LatentSize, network: nn.Module, batch: int) -> tuple[Tensor, Tensor]:
        spec, device = self._architecture.spec, next(network.parameters()).device
        latents = torch.empty(batch, spec.latent_channels, *grid.as_tuple(), device=device)
        return latents, torch.empty(batch, spec.text_length, spec.text_dim, device=device)


class Decoder(Network):
    """The VAE on its way to pixels; in training in float32, and each clip twice."""

    autocasts, recomputed = False, True

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture.counted.setdefault("vae_decoder", {}))
        self._architecture = architecture
        self.weights = architecture.num_parameters["vae"]

    def put_together(self, one: Pass, count: Callable[[nn.Module, Run], Counts]) -> Counts:
        """See `Network`."""
        model, spec, grid = self._architecture.model, self._architecture.spec, one.grid

        def decode(frames: int, vae: nn.Module, batch: int) -> Tensor:
            latents = torch.empty(batch, spec.latent_channels, frames, grid.height, grid.width)
            return model.decode(latents.requires_grad_(one.gradient == "input"))

        return by_frames(
            lambda frames: count(model.vae, partial(decode, frames)), grid.frames, spec.compression.patch[0]
        )


class NoSuchBlockError(ValueError):
    """A block that a pass wants and its network lacks; who knows the config's key puts it in front."""


class EncoderOfPixels(Network):
    """A network that sees a window of each clip, and computes each twice."""

    recomputed = True

    def __init__(self, encoder: PixelEncoder, architecture: Architecture) -> None:
        super().__init__()
        self._encoder, self._compression = encoder, architecture.spec.compression
        self.weights = _num_weights(without_memory(encoder.network).parameters())

    def put_together(self, one: Pass, count: Callable[[nn.Module, Run], Counts]) -> Counts:
        """See `Network`."""
        encoder = self._encoder
        last = encoder.num_blocks // 2 if one.depth is None else one.depth - 1
        if last >= encoder.num_blocks:
            raise NoSuchBlockError(
                f"{last} does not exist; {encoder.name} has blocks 0 to {encoder.num_blocks - 1}."
            )
        size = self._compression.pixel_size(one.grid).as_tuple()

        def tokens(network: nn.Module, batch: int) -> Tensor:
            pixels = torch.empty(batch, 3, *size, requires_grad=one.gradient == "input")
            return encoder.tokens(pixels, [last])[0]

        return count(encoder.network, tokens)


class Heads(Network):
    """A discriminator's heads on the tokens of clips, always in float32."""

    autocasts = False

    def __init__(self, heads: nn.ModuleList, encoder: Encoder, blocks: Sequence[int]) -> None:
        super().__init__()
        self._heads, self._encoder, self._blocks = heads, encoder, blocks
        self.weights = _num_weights(without_memory(self._heads).parameters())

    def put_together(self, one: Pass, count: Callable[[nn.Module, Run], Counts]) -> Counts:
        """See `Network`."""
        encoder = self._encoder
        with unset_fake_temporarily():
            shapes = [(*encoder.grid(one.grid, block), encoder.channels(block)) for block in self._blocks]

        def logits(network: nn.Module, batch: int) -> Tensor:
            tokens = [torch.empty(batch, *shape, requires_grad=one.gradient == "input") for shape in shapes]
            return torch.stack([one.sum() for one in head_logits(self._heads, tokens)]).sum()

        return count(self._heads, logits)


class Carried(Network):
    """What a student carries beside its transformer, given latents; always in float32."""

    autocasts = False

    def __init__(self, network: nn.Module, channels: int) -> None:
        super().__init__()
        self._network, self._channels = without_memory(network), channels
        self.weights = _num_weights(network.parameters())

    def put_together(self, one: Pass, count: Callable[[nn.Module, Run], Counts]) -> Counts:
        """See `Network`."""
        shape, to = (self._channels, *one.grid.as_tuple()), () if one.to is None else (one.to,)
        leads_back = one.gradient == "input"
        return count(
            self._network,
            lambda network, batch: network(torch.empty(batch, *shape, requires_grad=leads_back), *to),
        )


def planned_decoder(path: Path, model: VideoModel) -> Carried:
    """What clips are shown through in the VAE's place; TAEHV's file for the model need not be there.

    Raises:
        ValueError: if the file is no decoder of the model's latents, or is missing and not TAEHV's.
    """
    if path.stem == model.published_decoder and not path.exists():
        print(
            f"note: load.decoder {path} is not there; counted as what TAEHV publishes by that name.",
            file=sys.stderr,
        )
        layout = published_layout(model)
    else:
        layout = load_decoder_file(path, model).layout
    with torch.device("meta"):
        return Carried(StreamingDecoder(layout), layout.channels)


def count_encoding(architecture: Architecture, grid: LatentSize) -> int:
    """Operations of the VAE from pixels to latents on a grid, one clip."""
    model, compression = architecture.model, architecture.spec.compression
    counted: dict[LatentSize, Flops] = architecture.counted.setdefault("vae_encoder", {})

    def encode(frames: int) -> Flops:
        latents = LatentSize(frames, grid.height, grid.width)
        if latents not in counted:
            pixels = compression.pixel_size(latents).as_tuple()
            counted[latents] = count_graph(lambda: model.encode_video(torch.empty(1, 3, *pixels)))
        return counted[latents]

    with shapes_only(), torch.no_grad():
        return by_frames(encode, grid.frames, compression.patch[0]).forward


def count_text(architecture: Architecture) -> int:
    """Operations of the text encoders for one prompt; the padding is computed too."""
    counted: dict[tuple[str, int], int] = architecture.counted.setdefault("text", {})
    for name, length in architecture.model.text_tokens.items():
        if (name, length) not in counted:
            tokens = torch.zeros(1, length, dtype=torch.long, device="meta")
            counted[name, length] = count_flops(partial(architecture.parts[name], input_ids=tokens))
    return sum(counted[part] for part in architecture.model.text_tokens.items())


def _run_of(one: Pass) -> Pass:
    """What a run costs depends on neither the name by which its network is asked for nor the number of clips."""
    return replace(one, network="", clips=1)


def _kept_of_clips(network: nn.Module, run: Run) -> Kept:
    one, two = (count_kept(partial(run, network, batch), network) for batch in (1, 2))
    return Kept(fixed=2 * one - two, clip=two - one)


def _kept_of_one_clip(network: nn.Module, run: Run) -> Kept:
    with torch.no_grad():
        put_out = _num_bytes(run(network, 1))
    return Kept(clip=put_out, passing=count_kept(partial(run, network, 1), network))


def _mean(counts: Sequence[Counts], numbers: Sequence[int]) -> Counts:
    columns = zip(*map(astuple, counts), strict=True)  # type: ignore[arg-type]
    sums = [sum(map(mul, numbers, column)) for column in columns]
    return type(counts[0])(*(total // sum(numbers) for total in sums))


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


@dataclass(frozen=True)
class _Trained:
    weights: int
    block_matrices: int


def _trained(network: nn.Module) -> _Trained:
    trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    matrices = [weight for name, weight in trained.items() if is_block_matrix(name, weight)]
    return _Trained(_num_weights(trained.values()), _num_weights(matrices))


def _num_weights(weights: Iterable[Tensor]) -> int:
    return sum(weight.numel() for weight in weights)
