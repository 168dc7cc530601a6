"""Text encoder and VAE while a student trains: on the device only while somebody needs them.

Clips come from a cache of latents and captions from embeddings, so a step needs neither, unless its loss looks at
pixels: then the VAE stays. Together they can be larger than all that trains.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from swd_video.config import ConfigError
from swd_video.data.texts import cut_texts, describe_cut
from swd_video.models.base import VideoModel


@contextmanager
def moved_to(device: torch.device, *modules: nn.Module) -> Iterator[None]:
    """Within the context the modules are on a device; afterwards where they were."""
    before = [next(module.parameters()).device for module in modules]
    for module in modules:
        module.to(device)
    try:
        yield
    finally:
        for module, home in zip(modules, before, strict=True):
            module.to(home)


def embed_texts(model: VideoModel, texts: Mapping[str, Sequence[str]], *, speaks: bool) -> dict[str, Tensor]:
    """Embed what a training needs besides its captions, and say on stderr what the model reads only in part.

    Raises:
        ConfigError: if the tokenizer fails at one.
    """
    for key, some in texts.items() if speaks else ():
        try:
            cut = cut_texts(model, some)
        except Exception as error:
            raise ConfigError(f"{key}: the tokenizer cannot read a text: {error}") from None
        if line := describe_cut(cut, "prompt"):
            print(f"warning: {key}: {line}.", file=sys.stderr)
    return {key: model.encode_prompt(list(some)) for key, some in texts.items()}


def drop_text_encoders(model: VideoModel) -> None:
    """Give the memory of the text encoders back, for good: their weights are gone, their shapes stay."""
    for name in model.text_tokens:
        getattr(model.pipe, name).to("meta")
