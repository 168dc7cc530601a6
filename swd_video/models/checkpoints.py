"""Reading a model's files: whole, safe, what they claim to be, and every weight of them where it belongs.

Weights are read from safetensors only. Pickled checkpoints run whatever code is in them when opened, so they are
refused by name and never opened. A network none of whose weights are random, and a file none of whose weights are left
over: where that does not hold, libraries warn at most.

Whatever is missing, broken, pickled or of another kind than its owner takes is, in every function here, a `ValueError`
of one line that names the file.
"""

import inspect
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import diffusers
import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from swd_video.plain_text import first_line

INDEX_NAME = "model_index.json"
CONFIG_NAME = "config.json"
SCHEDULER_CONFIG_NAME = "scheduler_config.json"
WEIGHTS_SUFFIX = ".safetensors"
# What every family has.
_NEEDED = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
PICKLED_SUFFIXES = {".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle"}
# Old files hold tables that networks now compute themselves, and text encoders the head that predicts words.
_NOT_NEEDED = re.compile(r"(position_ids|inv_freq|num_batches_tracked)$|^lm_head\.")
_LIBRARIES = {"diffusers": diffusers, "transformers": transformers}
# The last one speaks, of what does not concern anybody here, where a level is set for the second.
_REPORTERS = (
    "diffusers.models.modeling_utils",
    "transformers.modeling_utils",
    "transformers.distributed.tensor_parallel",
)
_CURE = "give the weights of the very model that is named"
_LIST = "a list of such values as the default has"
_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: _LIST,
    tuple: _LIST,
}
_DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
_ERRORS = (
    OSError,
    ImportError,
    ValueError,
    RuntimeError,
    KeyError,
    TypeError,
    AttributeError,
    SafetensorError,
)


def read_pipeline_name(folder: Path) -> str:
    """Which pipeline a model folder holds."""
    name = read_json(folder / INDEX_NAME).get("_class_name")
    if not isinstance(name, str):
        raise ValueError(
            f"{folder / INDEX_NAME}: got _class_name {name!r}, expected the name of a pipeline; save the model anew."
        )
    return name


def check_weights_file(path: Path) -> None:
    """Look at one file of weights, without reading the weights."""
    if not path.is_file():
        raise ValueError(f"{path}: does not exist; give a file that ends in {WEIGHTS_SUFFIX}.")
    if path.suffix in PICKLED_SUFFIXES:
        raise ValueError(
            f"{path}: is a pickled checkpoint, which could run any code when opened and is not; give a "
            f"{WEIGHTS_SUFFIX} file: whoever trusts it makes one by loading it and save_pretrained."
        )
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path}: is no whole safetensors file ({error}); download or copy it again."
        ) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of one file of weights."""
    check_weights_file(path)
    with safe_open(path, framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    if not weights:
        raise ValueError(f"{path}: holds no weights; download or copy it again.")
    check_finite(path, weights)
    return weights


def read_shapes(path: Path) -> dict[str, Tensor]:
    """Names and shapes of the tensors of one file of weights, which are not read."""
    check_weights_file(path)
    with safe_open(path, framework="pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no mapping
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def holds_lora(path: Path) -> bool:
    """Whether a file of weights holds low-rank additions, which are no weights by themselves."""
    return any(".lora_" in name or ".lora." in name for name in read_shapes(path))


def check_finite(where: str | Path, weights: Mapping[str, Tensor]) -> None:
    """Refuse weights that a training which diverged has left."""
    for name, weight in weights.items():
        if weight.is_floating_point() and not torch.isfinite(weight.sum(dtype=torch.float32)):
            raise ValueError(f"{where}: {name} holds values that are no finite numbers; train it again.")


def check_fit(where: str | Path, got: Mapping[str, Any], expected: Mapping[str, Any], network: str) -> None:
    """Refuse weights of which one goes nowhere, is missing or has another shape."""
    unknown = [name for name in got if name not in expected]
    missing = [name for name in expected if name not in got]
    _refuse(where, unknown, missing, network)
    for name, weight in got.items():
        shapes = [tuple(one.shape) for one in (weight, expected[name])]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{where}: {name} has shape {shapes[0]}, in {network} it has {shapes[1]}; {_CURE}."
            )


def load_networks(
    folder: Path, dtype: torch.dtype, pipeline_class: Any, skip: Collection[str]
) -> dict[str, Any]:
    """The networks of a pipeline's folder, by their names there; see `load_network`."""
    index = read_index(folder / INDEX_NAME)
    parts = {name: entry for name, entry in index.items() if isinstance(entry, list) and name not in skip}
    for name, (_, class_name) in parts.items():
        if class_name is not None:
            _check_part(folder / name, class_name)
        elif name in _NEEDED:
            raise ValueError(_lacks(folder / INDEX_NAME, name))
    networks: dict[str, Any] = {}
    taken = inspect.signature(pipeline_class.__init__).parameters
    for name, (library, class_name) in parts.items():
        network_class = getattr(_LIBRARIES.get(library), str(class_name), None)
        if name in taken and isinstance(network_class, type) and issubclass(network_class, nn.Module):
            networks[name] = load_network(network_class, folder / name, dtype)
    return networks


def load_network(
    network_class: Any, folder: str | Path, dtype: torch.dtype, *, trunk: bool = False, **options: Any
) -> Any:
    """A network of diffusers or transformers, each weight from its files.

    Args:
        network_class: with a `from_pretrained`.
        folder: of its config and weights, or a hub name.
        dtype: of its weights.
        trunk: only its tokens are wanted: heads that the files have besides are left, and it may lack a pooler.
        options: further ones of `from_pretrained`.
    """
    if Path(folder).is_dir():
        find_weights(Path(folder))
    with errors_in_one_line(folder), _without_reports():
        network, report = network_class.from_pretrained(
            str(folder), dtype=dtype, use_safetensors=True, output_loading_info=True, **options
        )
    unknown = [] if trunk else [name for name in report["unexpected_keys"] if not _NOT_NEEDED.search(name)]
    missing = [name for name in report["missing_keys"] if not (trunk and "pooler." in name)]
    _refuse(folder, sorted(unknown), sorted(missing), type(network).__name__)
    return network


def cast_network(network: nn.Module, dtype: torch.dtype) -> None:
    """Give a network the dtype in which `load_network` would have read it: some networks keep parts in float32."""
    kept = set(getattr(network, "_keep_in_fp32_modules", None) or ())
    for name, weight in network.state_dict(keep_vars=True).items():
        if weight.is_floating_point():
            weight.data = weight.data.to(torch.float32 if kept.intersection(name.split(".")) else dtype)


def stored_dtype(files: Sequence[Path]) -> torch.dtype:
    """The dtype of most values in files of weights."""
    counts: Counter[str] = Counter()
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                weight = file.get_slice(name)
                counts[weight.get_dtype()] += math.prod(weight.get_shape())
    (name, _), *_ = counts.most_common(1)
    return _DTYPES.get(name, torch.float32)


@contextmanager
def errors_in_one_line(subject: object, kinds: tuple[type[Exception], ...] = _ERRORS) -> Iterator[None]:
    """Turn what diffusers, transformers and the hub's client raise into a `ValueError` of one line."""
    try:
        yield
    except kinds as error:
        reason = first_line(error)
        # Nobody sees a stacktrace, and weights of another form are not to be forced into a network.
        reason = re.sub(r"\s*[^.]*\bstacktrace above\b\.?| If you want to instead overwrite .*", "", reason)
        raise ValueError(f"{subject} cannot be loaded: {reason}") from error


@contextmanager
def _without_reports() -> Iterator[None]:
    """What they would warn of in tables is refused in one line."""
    loggers = [logging.getLogger(name) for name in _REPORTERS]
    # No level is set: that makes every logger of the process forget what it knows.
    for logger in loggers:
        logger.addFilter(_is_error)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(_is_error)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _refuse(where: str | Path, unknown: Sequence[str], missing: Sequence[str], network: str) -> None:
    if unknown:
        first = f"{len(unknown)} weights have no place in {network}, the first is {unknown[0]}"
    elif missing:
        first = f"lacks {len(missing)} weights of {network}, the first is {missing[0]}"
    else:
        return
    raise ValueError(f"{where}: {first}; {_CURE}.")


def _check_part(folder: Path, class_name: str) -> None:
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: is missing, {INDEX_NAME} expects a {class_name} there; load or copy the whole model."
        )
    config = folder / CONFIG_NAME
    if not config.is_file():
        scheduler = folder / SCHEDULER_CONFIG_NAME
        if scheduler.is_file() and hasattr(diffusers, class_name):
            said = read_json(scheduler)
            name = said.get("_class_name", class_name)
            require(isinstance(name, str), scheduler, "_class_name", name, class_name)
            check_kinds(scheduler, getattr(diffusers, class_name), said)
        return  # a scheduler or a tokenizer: no weights
    found = read_json(config).get("_class_name", class_name)
    if found != class_name:
        raise ValueError(
            f"{config}: holds a {found}, and {INDEX_NAME} expects a {class_name} (_class_name); these are weights of "
            "another family."
        )
    if hasattr(diffusers, class_name):
        _read_config(folder)
    find_weights(folder)


def find_weights(folder: Path) -> list[Path]:
    """The files of a network's weights in its folder, each looked at as by `check_weights_file`."""
    weights = sorted(folder.glob(f"*{WEIGHTS_SUFFIX}")) if folder.is_dir() else []
    if not weights:
        pickled = sorted(path for path in folder.glob("*") if path.suffix in PICKLED_SUFFIXES)
        if pickled:
            check_weights_file(pickled[0])
        raise ValueError(f"{folder}: holds no {WEIGHTS_SUFFIX} file; load or copy the whole model.")
    for path in weights:
        check_weights_file(path)
    return weights


def _read_config(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The class and the configuration of a network of diffusers, with values of the kinds that it takes."""
    path = folder / CONFIG_NAME
    config = read_json(path)
    name = config.get("_class_name")
    network_class = getattr(diffusers, name, None) if isinstance(name, str) else None
    require(network_class is not None, path, "_class_name", name, "a network of diffusers")
    check_kinds(path, network_class, config)
    return network_class, config


def check_kinds(path: Path, owner: Any, values: Mapping[str, Any]) -> None:
    """Refuse values in a model's JSON of another kind than their owner takes, by its defaults and annotations."""
    for key, parameter in inspect.signature(owner.__init__).parameters.items():
        value, default = values.get(key), parameter.default
        kinds = [kind for kind in get_args(parameter.annotation) if kind is not NoneType] or [
            parameter.annotation
        ]
        if default is not None and default is not inspect.Parameter.empty:
            kinds = [type(default)]
        if value is not None and all(kind in _KINDS for kind in kinds):
            example = default[0] if isinstance(default, list | tuple) and default else None
            alike = any(_is_a(kind, value) for kind in kinds)
            alike = alike and (example is None or all(_is_a(type(example), one) for one in value))
            require(alike, path, key, value, " or ".join(_KINDS[kind] for kind in kinds))


def _is_a(kind: Any, value: Any) -> bool:
    """As JSON has it: lists for tuples, whole numbers for any."""
    if isinstance(value, bool):
        return kind is bool
    alike: dict[Any, Any] = {float: (int, float), tuple: list}
    return isinstance(value, alike.get(kind, kind))


def empty_network(folder: Path) -> Any:
    """A network of diffusers as its configuration says, with names and shapes but no weights."""
    network_class, config = _read_config(folder)
    with errors_in_one_line(folder / CONFIG_NAME), torch.device("meta"):
        return network_class.from_config(config)


def read_index(path: Path) -> dict[str, Any]:
    """What a pipeline's `model_index.json` says."""
    index = read_json(path)
    for name in _NEEDED:
        if name not in index:
            raise ValueError(_lacks(path, name))
    for key, entry in index.items():
        if isinstance(entry, list) or key in (*_NEEDED, "transformer_2"):
            pair = entry if isinstance(entry, list) else []
            is_pair = len(pair) == 2 and all(isinstance(one, str | None) for one in pair)
            require(is_pair, path, key, entry, "a library and a class")
    return index


def _lacks(path: Path, name: str) -> str:
    return f"{path}: lists no {name}, expected all of {', '.join(_NEEDED)}; load or copy the whole model."


def require(holds: bool, path: Path, key: str, value: object, expected: str) -> None:
    """Refuse a value in a model's JSON."""
    if not holds:
        shown = repr(value)
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        raise ValueError(f"{path}: {key}: got {shown}, expected {expected}.")


def read_json(path: Path) -> dict[str, Any]:
    """Read a file of a model's folder that holds one JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); load or copy the whole model.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: got {type(content).__name__}, expected an object; save the model anew.")
    return content
