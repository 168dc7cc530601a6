"""Models without weights: built from their config files on the meta device, where a tensor is only a shape.

The config files of some published models come with the package, in the layout of a diffusers folder, under
`architectures/`. They are facts about the models: no weights and no tokenizer.
"""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, cast

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from tokenizers import Tokenizer
from tokenizers.models import BPE
from torch import nn
from transformers import PreTrainedTokenizerFast
from transformers.initialization import no_init_weights
from transformers.utils import cached_file

from swd_video.cost.counting import without_memory
from swd_video.models.base import VideoModel
from swd_video.models.loading import (
    ARCHITECTURES,
    VideoSpec,
    read_video_spec,
    resolve_model_path,
    shipped_models,
)
from swd_video.models.registry import adapter_for, pipeline_class_for
from swd_video.models.spec import ModelSpec
from swd_video.plain_text import first_line

# Parts without weights: not needed to count.
_WEIGHTLESS = ("scheduler", "tokenizer", "tokenizer_2", "feature_extractor", "image_processor")

# Where no two of them cost alike, a clip is counted in full, as is one that is too short to show it.
_FRAMES_TRIED = 4

Counts = TypeVar("Counts")
"""A dataclass of whole numbers."""


@dataclass(frozen=True)
class Architecture:
    """A text-to-video model that can be asked for shapes and for nothing else.

    All blocks of a kind are alike, so two small transformers for each kind tell what any number of blocks costs.

    Attributes:
        name: as it was asked for.
        model: the adapter that sampling and training use. Its modules lie on the meta device, but for the VAE, which
            runs on tensors of `counting.shapes_only`.
        parts: all modules that have weights, by their names in the model's folder.
    """

    name: str
    model: VideoModel
    parts: Mapping[str, nn.Module]

    @property
    def spec(self) -> ModelSpec:
        """Facts about the model."""
        return self.model.spec

    @cached_property
    def num_parameters(self) -> dict[str, int]:
        """Number of weights of every part."""
        return {
            name: sum(weight.numel() for weight in part.parameters()) for name, part in self.parts.items()
        }

    @cached_property
    def counted(self) -> dict[object, Any]:
        """What was counted in this process of the model, or of another that is built as it is."""
        parts = [(name, type(part), _settings(cast(Any, part).config)) for name, part in self.parts.items()]
        built = type(self.model), self.model.spec, _settings(self.model.pipe.config), tuple(parts)
        return _counted_of(built)

    @property
    def transformers(self) -> list[str]:
        """Names of the networks of which the noise level picks one; they are alike."""
        return [name for name in self.parts if name.startswith("transformer")]

    @property
    def block_counts(self) -> tuple[int, ...]:
        """Blocks of each kind in a transformer, in running order."""
        config = cast(Any, self.parts["transformer"]).config
        return tuple(config[key] for key in self.model.block_counts)

    def transformer(self, *counts: int) -> nn.Module:
        """The same transformer with other numbers of blocks, on the meta device, frozen."""
        network = cast(Any, self.parts["transformer"])
        blocks = dict(zip(self.model.block_counts, counts, strict=True))
        with torch.device("meta"), no_init_weights():
            smaller = type(network).from_config({**network.config, **blocks})
        return cast(nn.Module, smaller.eval().requires_grad_(False))

    def small_transformers(self) -> list[nn.Module]:
        """One with a block of every kind; then, for each kind in turn, one with a second block of that kind."""
        kinds = range(len(self.block_counts))
        more = [[1 + (kind == grown) for kind in kinds] for grown in kinds]
        return [self.transformer(*counts) for counts in ([1 for _ in kinds], *more)]

    def of_all_blocks(self, counted: Sequence[Counts], left_out: Sequence[int] = ()) -> Counts:
        """What the whole transformer costs, or all but some blocks, from what each of `small_transformers` does."""
        first, *grown = (_numbers(one) for one in counted)
        total, end = first, 0
        for number, more in zip(self.block_counts, grown, strict=True):
            start, end = end, end + number
            number -= sum(start <= block < end for block in left_out)
            total = tuple(
                so_far + (number - 1) * (b - a) for so_far, a, b in zip(total, first, more, strict=True)
            )
        return type(counted[0])(*total)

    def up_to_block(self, counted: Sequence[Counts], block: int) -> Counts:
        """What the transformer costs up to a block, from what one with two blocks of every kind costs up to each."""
        numbers = [_numbers(one) for one in counted]
        before = total = (0,) * len(numbers[0])
        left = block + 1
        for number, first, second in zip(self.block_counts, numbers[::2], numbers[1::2], strict=True):
            more = min(left, number) - 1
            total = tuple(
                so_far + b - a + more * (c - b)
                for so_far, a, b, c in zip(total, before, first, second, strict=True)
            )
            before, left = second, left - number
            if left <= 0:
                break
        return type(counted[0])(*total)


def by_frames(count: Callable[[int], Counts], frames: int, unit: int) -> Counts:
    """Count for growing numbers of frames until two more cost alike; all later ones then cost the same.

    So it is for causal VAEs that work frame by frame and remember the last ones. Others are counted in full.
    """
    units = frames // unit
    if units < _FRAMES_TRIED:
        return count(frames)
    counted: list[Counts] = []
    for number in range(1, _FRAMES_TRIED + 1):
        counted.append(count(number * unit))
        rows = [_numbers(counts) for counts in counted]
        steps = [tuple(b - a for a, b in zip(*pair, strict=True)) for pair in pairwise(rows)]
        if len(steps) >= 2 and steps[-1] == steps[-2]:
            left = units - number
            return type(counted[0])(
                *(so_far + left * more for so_far, more in zip(rows[-1], steps[-1], strict=True))
            )
    return counted[-1] if units <= _FRAMES_TRIED else count(frames)


def shipped_architectures() -> list[str]:
    """Hub names of the models whose config files come with the package."""
    return sorted(
        index.parent.relative_to(ARCHITECTURES).as_posix()
        for index in ARCHITECTURES.rglob("model_index.json")
    )


def load_architecture(name_or_path: str | Path, adapter: str | None = None) -> Architecture:
    """Build a model from its config files alone; no network access.

    Args:
        name_or_path: a shipped model ("pocket-wan"), a diffusers folder, one of `shipped_architectures()`, or a hub
            name whose config files are in the local cache.
        adapter: one from outside of the package, see `LoadOptions`.

    Raises:
        ValueError: if there are no config files for it, or its family is not supported.
    """
    name = str(name_or_path)
    path = _find(name)
    index = DiffusionPipeline.load_config(path)
    try:
        name_of_class = str(index.get("_class_name"))
        found, video = adapter_for(name_of_class, adapter), read_video_spec(path)
        pipe, parts = _build_pipe(pipeline_class_for(name_of_class, found), path, index, video)
        model = found.from_pipeline(
            pipe, fps=video.fps, training_size=video.training_size, text_length=video.text_length
        )
    except OSError as error:
        raise ValueError(
            f"model {name!r}: a part has no readable config.json: {first_line(error)}"
        ) from error
    except ValueError as error:
        raise ValueError(f"model {name!r}: {error}") from error
    without_memory(parts["vae"])
    architecture = Architecture(name, model, parts)
    shapes = [
        {key: weight.shape for key, weight in parts[part].named_parameters()}
        for part in architecture.transformers
    ]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(
            f"model {name!r}: its {len(shapes)} transformers are not alike, which no cost was written for."
        )
    return architecture


def _find(name: str) -> Path:
    if name in shipped_architectures():
        return ARCHITECTURES / name
    path = Path(resolve_model_path(name))
    if not path.is_dir():
        path = _find_in_hub_cache(name)
    if not (path / "model_index.json").is_file():
        raise ValueError(f"model {name!r} is a distilled student, expected a teacher; give its base model.")
    return path


def _find_in_hub_cache(name: str) -> Path:
    try:
        return Path(cached_file(name, "model_index.json", local_files_only=True)).parent
    except OSError:
        raise ValueError(
            f"model {name!r}: its config files are not on this machine; give a shipped model "
            f"({', '.join(shipped_models())}), one whose config files come with the package "
            f"({', '.join(shipped_architectures())}), or a diffusers folder."
        ) from None


def _build_parts(path: Path, index: Mapping[str, Any]) -> dict[str, nn.Module]:
    parts: dict[str, nn.Module] = {}
    for name, entry in index.items():
        if name.startswith("_") or name in _WEIGHTLESS or not isinstance(entry, list | tuple) or not entry[0]:
            continue
        with torch.device("meta"), no_init_weights():
            parts[name] = _build_part(path, name, *entry).eval().requires_grad_(False)
    return parts


def _build_part(path: Path, name: str, library: str, class_name: str) -> nn.Module:
    if library == "diffusers":
        part = getattr(diffusers, class_name)
        config = part.load_config(path, subfolder=name)
        return cast(nn.Module, part.from_config(config))
    config = transformers.AutoConfig.from_pretrained(path, subfolder=name)
    network = getattr(transformers, class_name)(config)
    network.tie_weights()  # which comes with their initial values
    return cast(nn.Module, network)


def _weightless(path: Path, index: Mapping[str, Any], video: VideoSpec) -> dict[str, Any]:
    """The other parts: a scheduler where the folder has one, and tokenizers, of which only the length matters."""
    others: dict[str, Any] = {}
    for name in _WEIGHTLESS:
        folder, (_, class_name) = path / name, index.get(name) or (None, None)
        if not class_name:
            continue
        if name == "scheduler":
            found = (folder / "scheduler_config.json").is_file() and hasattr(diffusers, class_name)
            others[name] = getattr(diffusers, class_name).from_pretrained(folder) if found else None
        elif name.startswith("tokenizer") and folder.is_dir() and video.text_length is None:
            others[name] = transformers.AutoTokenizer.from_pretrained(folder)
        else:
            others[name] = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE()))
    return others


def _build_pipe(
    pipeline_class: Any, path: Path, index: Mapping[str, Any], video: VideoSpec
) -> tuple[Any, dict[str, nn.Module]]:
    """The pipeline around the parts, with the settings of its own that stand in its index."""
    parts = _build_parts(path, index)
    settings = {name: value for name, value in index.items() if not isinstance(value, list | tuple)}
    given = settings | parts | _weightless(path, index, video)
    wanted = inspect.signature(pipeline_class.__init__).parameters
    missing = [name for name in wanted if wanted[name].default is inspect.Parameter.empty and name != "self"]
    chosen = {name: value for name, value in given.items() if name in wanted}
    return pipeline_class(**dict.fromkeys(missing) | chosen), parts


@cache
def _counted_of(built: object) -> dict[object, Any]:
    return {}


def _settings(config: Any) -> str:
    return json.dumps(config if isinstance(config, Mapping) else config.to_dict(), default=str)


def _numbers(counts: Any) -> tuple[int, ...]:
    return cast(tuple[int, ...], astuple(counts))
