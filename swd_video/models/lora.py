"""Low-rank additions to a transformer (LoRA, arXiv 2106.09685) through peft, saved under diffusers' keys.

One copy of the weights serves as student (additions on) and teacher (additions off).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from diffusers.loaders.peft import PeftAdapterMixin
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

_STATE_DICT_PREFIX = "transformer."


def add_lora(transformer: nn.Module, rank: int, targets: Sequence[str]) -> None:
    """Freeze the weights of a diffusers transformer and add trainable low-rank layers, in place.

    The additions start at zero, so the network computes what it did before, and are float32 whatever its weights are.
    Their scale (alpha / rank) is 1: loaders that are told no alpha assume just that, so the saved file has the same
    strength everywhere.

    Args:
        transformer: a diffusers model that takes adapters.
        rank: of each addition.
        targets: ends of the names of the linear layers that get one, for example "to_q" or "ffn.net.2".

    Raises:
        ValueError: if a target matches no linear layer, or the model takes no adapters.
    """
    if not isinstance(transformer, PeftAdapterMixin):
        raise ValueError(
            f"train.kind: {type(transformer).__name__} takes no LoRA adapters; set train.kind to full"
        )
    linear = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in linear):
            raise ValueError(
                f"train.targets: no linear layer of {type(transformer).__name__} is called {target!r}; "
                f"its blocks have {', '.join(_short_names(linear))}"
            )
    transformer.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets), lora_dropout=0.0)
    transformer.add_adapter(config)
    for weight in transformer.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


def has_lora_disabled(module: nn.Module) -> bool:
    """Whether a part of a transformer, with additions in it, computes what it did before them."""
    layers = (layer for layer in module.modules() if isinstance(layer, BaseTunerLayer))
    return any(layer.disable_adapters for layer in layers)


@contextmanager
def lora_disabled(transformer: nn.Module) -> Iterator[None]:
    """Within the context the transformer computes what it did before `add_lora`.

    Graphs recorded inside may be differentiated after it. Gradients of the additions are not recorded inside.
    """
    layers = [module for module in transformer.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def lora_state_dict(transformer: nn.Module) -> dict[str, Tensor]:
    """The additions under the keys that diffusers' `load_lora_weights` reads: `transformer.` and peft's."""
    state = get_peft_model_state_dict(transformer)
    return {f"{_STATE_DICT_PREFIX}{name}": tensor.detach().contiguous() for name, tensor in state.items()}


def _short_names(linear: Sequence[str]) -> list[str]:
    """Of the layers of each first block, what stands behind its number, each name once."""
    parts = [name.partition(".0.") for name in linear]
    return list(dict.fromkeys(name for list_name, _, name in parts if list_name.endswith("blocks")))
