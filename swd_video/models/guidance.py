"""What a teacher's velocity is led away from: what it says to another prompt, and what a weaker version of it says."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from safetensors.torch import load_file
from torch import Tensor, nn

from swd_video.core.flow import Sigma
from swd_video.models.base import VideoModel
from swd_video.models.checkpoints import cast_network, check_fit, check_weights_file
from swd_video.models.fingerprint import fingerprint_folders
from swd_video.models.fsdp import wants_sharding
from swd_video.models.sections import WeakerSelfConfig


class WeakerSelf:
    """A weaker version of a model.

    Raises:
        ValueError: if a block does not exist, or the file does not fit the model.
    """

    def __init__(self, config: WeakerSelfConfig, model: VideoModel, section: str = "weaker") -> None:
        self.config = config
        count = model.spec.num_blocks
        if beyond := [block for block in config.blocks if not 0 <= block < count]:
            raise ValueError(
                f"{section}.blocks: got {beyond[0]}, expected 0 to {count - 1}, the blocks of the model; name others."
            )
        file = config.transformer_file
        self._network = None if file is None else _with_weights(file, model, section)

    def leads(self, sigma: Sigma, batch: int) -> Bool[Tensor, " batch"]:
        """Which clips of a batch lie at noise levels at which it leads."""
        level = torch.as_tensor(sigma)
        return ((self.config.sigma_min <= level) & (level <= self.config.sigma_max)).expand(batch)

    @contextmanager
    def weakened(self, model: VideoModel, transformer: nn.Module | None) -> Iterator[nn.Module | None]:
        """A context that gives the network to run instead of a model's own or a given one."""
        network = transformer if self._network is None else self._network
        with model.without_blocks(self.config.blocks, network):
            yield network


def identity_of(config: WeakerSelfConfig) -> dict[str, Any]:
    """A section as plain values, with a digest of its file in place of the name."""
    values = config.model_dump(mode="json")
    if config.transformer_file is not None:
        check_weights_file(config.transformer_file)
        values["transformer_file"] = fingerprint_folders([], [config.transformer_file])
    return values


def _with_weights(file: Path, model: VideoModel, section: str) -> nn.Module:
    """A transformer like the model's, with the weights of a file."""
    own: Any = model.transformer
    if model.transformer_at(0.0) != "transformer":
        raise ValueError(
            f"{section}.transformer_file: this {model.spec.family} model has two transformers; name blocks instead."
        )
    check_weights_file(file)
    weights, network = load_file(file), type(own).from_config(own.config)
    check_fit(file, weights, network.state_dict(), f"this {model.spec.family} model's transformer")
    network.load_state_dict(weights)
    cast_network(network, own.dtype)
    made: nn.Module = network.to(model.device).requires_grad_(False).eval()
    return made


@dataclass(frozen=True)
class Guidance:
    """What a velocity is led away from.

    Attributes:
        scale: of the guidance away from another prompt, `uncond + scale (cond - uncond)`; 1 is off.
        negative_embeds: that prompt, for each clip or for all; None where there is no such guidance.
        weaker: None where no weaker version leads.

    Source: Classifier-Free Diffusion Guidance (arXiv 2207.12598), Eq. 6, whose w is one smaller.
    """

    scale: float | int = 1
    negative_embeds: Float[Tensor, "prompts text_length text_dim"] | None = None
    weaker: WeakerSelf | None = None

    def velocity(
        self,
        model: VideoModel,
        noisy_latents: Float[Tensor, "batch channels frames height width"],
        sigma: Sigma,
        prompt_embeds: Float[Tensor, "batch text_length text_dim"],
        transformer: nn.Module | None = None,
        first_frame: Float[Tensor, "batch channels 1 height width"] | None = None,
        scale: float | int | None = None,
    ) -> Float[Tensor, "batch channels frames height width"]:
        """The guided velocity; arguments as for `VideoModel.predict_velocity`, and another scale than the own."""

        def predict(embeds: Tensor, network: nn.Module | None, of: Tensor | slice = slice(None)) -> Tensor:
            level = sigma[of] if isinstance(sigma, Tensor) and sigma.ndim else sigma
            frame = None if first_frame is None else first_frame[of]
            return model.predict_velocity(noisy_latents[of], level, embeds[of], network, frame)

        own = guided = predict(prompt_embeds, transformer)
        scale = self.scale if scale is None else scale
        if self.negative_embeds is not None and scale != 1:
            away = predict(self.negative_embeds.to(prompt_embeds).expand_as(prompt_embeds), transformer)
            guided = away + scale * (own - away)
        if self.weaker is not None:
            leads = self.weaker.leads(sigma, len(own)).to(own.device)
            # Processes that share the weights run a network together or not at all.
            ran = torch.ones_like(leads) if wants_sharding() else leads
            if ran.any():
                with self.weaker.weakened(model, transformer) as network:
                    difference = own[ran] - predict(prompt_embeds, network, ran)
                strength = (self.weaker.config.scale - 1) * leads[ran].to(own.dtype)
                guided = guided.clone()
                guided[ran] += strength.view(-1, *[1] * (own.ndim - 1)) * difference
        return guided
