"""Models without weights: built from their config files on the meta device, where a tensor is only a shape.

The config files of some published models come with the package, in the layout of a diffusers folder, under
`architectures/`. They are facts about the models: no weights and no tokenizer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline, WanPipeline
from torch import nn
from transformers.utils import cached_file

from swd_video.models.base import ModelSpec, VideoModel
from swd_video.models.loading import read_video_spec, resolve_model_path, shipped_models
from swd_video.models.wan import WanModel, tokenizer_length

ARCHITECTURES = Path(__file__).parent / "architectures"

# Parts without weights: not needed to count.
_WEIGHTLESS = ("scheduler", "tokenizer", "tokenizer_2", "feature_extractor", "image_processor")


@dataclass(frozen=True)
class Architecture:
    """A text-to-video model that can be asked for shapes and for nothing else.

    Attributes:
        name: as it was asked for.
        model: the adapter that sampling and training use; its modules lie on the meta device.
        parts: all modules that have weights, by their names in the model's folder.
    """

    name: str
    model: VideoModel
    parts: Mapping[str, nn.Module]

    @property
    def spec(self) -> ModelSpec:
        """Facts about the model."""
        return self.model.spec

    @property
    def num_parameters(self) -> dict[str, int]:
        """Number of weights of every part."""
        return {
            name: sum(weight.numel() for weight in part.parameters()) for name, part in self.parts.items()
        }

    @property
    def text_encoders(self) -> list[nn.Module]:
        """The parts that read prompts."""
        return [part for name, part in self.parts.items() if name.startswith("text_encoder")]

    def transformer(self, num_blocks: int) -> nn.Module:
        """The same transformer with another number of blocks, on the meta device, frozen.

        All blocks of a transformer are alike, so two small ones tell what any number costs.
        """
        network = cast(Any, self.parts["transformer"])
        with torch.device("meta"):
            smaller = type(network).from_config({**network.config, "num_layers": num_blocks})
        return smaller.eval().requires_grad_(False)


def shipped_architectures() -> list[str]:
    """Hub names of the models whose config files come with the package."""
    return sorted(
        index.parent.relative_to(ARCHITECTURES).as_posix()
        for index in ARCHITECTURES.rglob("model_index.json")
    )


def load_architecture(name_or_path: str | Path) -> Architecture:
    """Build a model from its config files alone; no network access.

    Args:
        name_or_path: a shipped model ("pocket-wan"), a diffusers folder, one of `shipped_architectures()`, or a hub
            name whose config files are in the local cache.

    Raises:
        ValueError: if there are no config files for it, or its family is not supported.
    """
    name = str(name_or_path)
    path = _find(name)
    index = DiffusionPipeline.load_config(path)
    if index.get("_class_name") not in ("WanPipeline", "WanScaleWisePipeline"):
        raise ValueError(
            f"model {name!r}: got a {index.get('_class_name')}, expected a WanPipeline; other families cannot be "
            "planned yet."
        )
    try:
        parts = _build_parts(path, index)
    except OSError as error:
        raise ValueError(f"model {name!r}: a part has no readable config.json: {_one_line(error)}") from error
    video = read_video_spec(path)
    tokens = video.text_length or tokenizer_length(_tokenizer(path))
    options = {"expand_timesteps": bool(index.get("expand_timesteps", False))}
    pipe = WanPipeline(tokenizer=None, scheduler=None, **{"transformer_2": None, **parts}, **options)
    model = WanModel.from_pipeline(pipe, fps=video.fps, training_size=video.training_size, text_length=tokens)
    return Architecture(name, model, parts)


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
        with torch.device("meta"):
            parts[name] = _build_part(path, name, *entry).eval().requires_grad_(False)
    return parts


def _build_part(path: Path, name: str, library: str, class_name: str) -> nn.Module:
    if library == "diffusers":
        part = getattr(diffusers, class_name)
        config = part.load_config(path, subfolder=name)
        return cast(nn.Module, part.from_config(config))
    config = transformers.AutoConfig.from_pretrained(path, subfolder=name)
    return cast(nn.Module, getattr(transformers, class_name)(config))


def _tokenizer(path: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(path, subfolder="tokenizer")


def _one_line(error: OSError) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
