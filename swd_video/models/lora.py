"""Low-rank additions to a transformer (LoRA, arXiv 2106.09685) through peft, saved under diffusers' keys.

One copy of the weights serves as student, as critic (each with its own additions on) and as teacher (all off).
"""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.utils import get_peft_kwargs
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from swd_video.models.checkpoints import check_fit, read_weights

_STATE_DICT_PREFIX = "transformer."
_KEY = re.compile(r"transformer\.(?P<layer>.+)\.lora_(?P<half>[AB])\.weight")
STUDENT, CRITIC = "default", "critic"
"""Names of additions; peft's own name for the only ones keeps the student's keys as every tool knows them."""
_TARGETS_KEYS = {STUDENT: "train.targets", CRITIC: "loss.dmd.critic_targets"}


def add_lora(transformer: nn.Module, rank: int, targets: Sequence[str], name: str = STUDENT) -> None:
    """Freeze the weights of a diffusers transformer and add trainable low-rank layers, in place; they are on then.

    The additions start at zero, so the network computes what it did before, and are float32 whatever its weights are.
    Their scale (alpha / rank) is 1: loaders that are told no alpha assume just that, so the saved file has the same
    strength everywhere.

    Targets are ends of the names of the linear layers that get one, for example "to_q" or "ffn.net.2".

    Raises:
        ValueError: if a target matches no linear layer, or the model takes no adapters.
    """
    if not isinstance(transformer, PeftAdapterMixin):
        raise ValueError(
            f"train.kind: {type(transformer).__name__} takes no LoRA adapters; set train.kind to full"
        )
    linear = [
        name.removesuffix(".base_layer")
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear) and "lora_" not in name
    ]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in linear):
            raise ValueError(
                f"{_TARGETS_KEYS[name]}: no linear layer of {type(transformer).__name__} is called {target!r}; "
                f"its blocks have {', '.join(_short_names(linear))}"
            )
    transformer.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets), lora_dropout=0.0)
    with warnings.catch_warnings():
        # Several additions are what is wanted.
        warnings.filterwarnings("ignore", "Already found a `peft_config`")
        transformer.add_adapter(config, adapter_name=name)
    _make_trainable(transformer)
    for weight in transformer.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


def lora_in_use(module: nn.Module) -> str | None:
    """Which additions are on in a transformer or in a part of it, if any."""
    for layer in _lora_layers(module):
        if not layer.disable_adapters and layer.active_adapters:
            return str(layer.active_adapters[0])
    return None


def switch_lora(transformer: nn.Module, name: str | None) -> None:
    """Turn the additions of this name on and all others off; None turns all off. All stay trainable."""
    for layer in _lora_layers(transformer):
        _turn_on(layer, [name] if name is not None and name in layer.r else [])
    _make_trainable(transformer)


@contextmanager
def active_lora(transformer: nn.Module, name: str | None) -> Iterator[None]:
    """Within the context only the additions of this name are on, or none; then what was on before is on again.

    Graphs recorded inside may be differentiated after it.
    """
    layers = _lora_layers(transformer)
    before = [[] if layer.disable_adapters else list(layer.active_adapters) for layer in layers]
    switch_lora(transformer, name)
    try:
        yield
    finally:
        for layer, names in zip(layers, before, strict=True):
            _turn_on(layer, names)
        _make_trainable(transformer)


def lora_parameters(transformer: nn.Module, name: str = STUDENT) -> dict[str, nn.Parameter]:
    """The weights of additions, by their names in the transformer."""
    return {
        key: weight
        for key, weight in transformer.named_parameters()
        if "lora_" in key and f".{name}." in f"{key}."
    }


def lora_state_dict(transformer: nn.Module) -> dict[str, Tensor]:
    """The student's additions under the keys that diffusers' `load_lora_weights` reads: `transformer.` and peft's."""
    state = get_peft_model_state_dict(transformer, adapter_name=STUDENT)
    return {f"{_STATE_DICT_PREFIX}{name}": tensor.detach().contiguous() for name, tensor in state.items()}


def check_lora(path: Path, transformer: nn.Module) -> dict[str, Tensor]:
    """The additions in a file, each of which belongs to a linear layer of this transformer.

    Raises:
        ValueError: if the file is broken, a key is another tool's, an addition is half there or fits another
            network.
    """
    tensors = read_weights(path)
    linear = {name: module for name, module in transformer.named_modules() if isinstance(module, nn.Linear)}
    network = type(transformer).__name__
    expected: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        named = _KEY.fullmatch(key)
        if named is None or named["layer"] not in linear:
            raise ValueError(
                f"{path}: the key {key!r} is that of no linear layer of the {network}; expected "
                f"{_STATE_DICT_PREFIX}LAYER.lora_A.weight and lora_B, such as diffusers' save_lora_weights writes for "
                "this very model."
            )
        layer = linear[named["layer"]]
        rank = tensor.shape[0 if named["half"] == "A" else -1]
        shapes = {"A": (rank, layer.in_features), "B": (layer.out_features, rank)}
        for half, shape in shapes.items():
            name = f"{_STATE_DICT_PREFIX}{named['layer']}.lora_{half}.weight"
            expected.setdefault(name, torch.empty(shape, device="meta"))
    check_fit(path, tensors, expected, f"a LoRA of {network}")
    return tensors


def join_lora(transformer: Any, tensors: Mapping[str, Tensor], *, fuse: bool = True) -> None:
    """Give a diffusers transformer the additions of `check_lora`: summed with its weights, or beside them."""
    transformer.load_lora_adapter(dict(tensors), metadata=lora_metadata(tensors))
    if fuse:
        transformer.fuse_lora()
        transformer.unload_lora()


def lora_metadata(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Rank, alpha and layers as diffusers reads them. Students have scale 1, so alpha is the rank."""
    layers = {name.removeprefix(_STATE_DICT_PREFIX): tensor for name, tensor in tensors.items()}
    ranks = {f"^{name}": tensor.shape[1] for name, tensor in layers.items() if ".lora_B" in name}
    found = get_peft_kwargs(ranks, network_alpha_dict=None, peft_state_dict=layers)
    found["target_modules"].sort()
    return {f"{_STATE_DICT_PREFIX}{key}": value for key, value in found.items()}


def _lora_layers(transformer: nn.Module) -> list[Any]:
    return [module for module in transformer.modules() if isinstance(module, BaseTunerLayer)]


def _turn_on(layer: Any, names: list[str]) -> None:
    # peft freezes what it turns off; `_make_trainable` undoes that, as gradients are kept only for what is not frozen.
    if names:
        layer.enable_adapters(True)
        layer.set_adapter(names)
    else:
        layer.enable_adapters(False)


def _make_trainable(transformer: nn.Module) -> None:
    for key, weight in transformer.named_parameters():
        if "lora_" in key:
            weight.requires_grad_(True)


def _short_names(linear: Sequence[str]) -> list[str]:
    """Of the layers of each first block, what stands behind its number, each name once."""
    parts = [name.partition(".0.") for name in linear]
    return list(dict.fromkeys(name for list_name, _, name in parts if list_name.endswith("blocks")))
