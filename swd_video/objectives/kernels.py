"""How the MMD compares two sets of tokens: a section for each kernel, with the comparison that it stands for."""

from abc import ABC, abstractmethod
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import BeforeValidator, Field, PositiveFloat, model_validator
from torch import Tensor

from swd_video.config import Section
from swd_video.losses.kernels import RadialKernel, RationalQuadratic, Rbf
from swd_video.losses.mmd import Estimator, kernel_mmd, linear_mmd, pseudo_huber_mmd
from swd_video.losses.random_features import random_features


class KernelConfig(Section, ABC):
    """A way to compare sets of tokens."""

    estimator: Estimator = "biased"
    """`biased` takes all pairs, `unbiased` leaves out those of a draw with itself, `paired` also those with its own
    target. A draw is a token or, where clips are joined, a clip."""

    @abstractmethod
    def compare(
        self,
        predicted: Float[Tensor, "sets pred_tokens channels"],
        target: Float[Tensor, "sets target_tokens channels"],
        tokens_per_draw: int,
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """The mean over sets.

        `tokens_per_draw` consecutive tokens make one draw.
        """


class LinearConfig(KernelConfig):
    """Squared distance of mean tokens (arXiv 2503.16397, Eq. 2)."""

    kind: Literal["linear"] = "linear"

    def compare(
        self, predicted: Tensor, target: Tensor, tokens_per_draw: int, generator: torch.Generator
    ) -> Tensor:
        """See `linear_mmd`."""
        return linear_mmd(predicted, target, self.estimator, tokens_per_draw)


class PseudoHuberConfig(KernelConfig):
    """What the public code of arXiv 2503.16397 computes on mean tokens; no MMD, so it has but one estimator."""

    kind: Literal["pseudo_huber"] = "pseudo_huber"
    estimator: Literal["biased"] = "biased"
    """The only one there is: of means, not of pairs."""

    def compare(
        self, predicted: Tensor, target: Tensor, tokens_per_draw: int, generator: torch.Generator
    ) -> Tensor:
        """See `pseudo_huber_mmd`."""
        return pseudo_huber_mmd(predicted, target)


class _RadialConfig(KernelConfig):
    bandwidths: tuple[PositiveFloat, ...] = Field(default=(1.0,), min_length=1)
    """The kernel is the mean over them."""
    bandwidth_unit: Literal["median", "absolute"] = "median"
    """`median`: bandwidths count in median distances of a comparison's tokens; `absolute`: in the features' unit."""


class RbfConfig(_RadialConfig):
    """The Gaussian kernel of all pairs of tokens."""

    kind: Literal["rbf"] = "rbf"
    random_features: int = Field(default=0, ge=0)
    """Frequencies that stand in for the exact kernel, whose cost they make linear in tokens; 0 computes it exactly."""

    @model_validator(mode="after")
    def _check_features(self) -> "RbfConfig":
        if self.random_features % len(self.bandwidths):
            raise ValueError(
                f"random_features {self.random_features} are shared by {len(self.bandwidths)} bandwidths; "
                "give a multiple"
            )
        return self

    def compare(
        self, predicted: Tensor, target: Tensor, tokens_per_draw: int, generator: torch.Generator
    ) -> Tensor:
        """See `kernel_mmd` and `random_features`."""
        kernel = Rbf(self.bandwidths, self.bandwidth_unit)
        if not self.random_features:
            return kernel_mmd(predicted, target, kernel, self.estimator, tokens_per_draw)
        points = random_features(predicted, target, kernel, self.random_features, generator)
        return linear_mmd(*points, self.estimator, tokens_per_draw)


class RationalQuadraticConfig(_RadialConfig):
    """A kernel of all pairs of tokens that is felt far away (arXiv 1801.01401)."""

    kind: Literal["rational_quadratic"] = "rational_quadratic"
    alpha: float = Field(default=1.0, gt=0)
    """The smaller, the heavier its tails."""

    def compare(
        self, predicted: Tensor, target: Tensor, tokens_per_draw: int, generator: torch.Generator
    ) -> Tensor:
        """See `kernel_mmd`."""
        kernel: RadialKernel = RationalQuadratic(self.bandwidths, self.bandwidth_unit, self.alpha)
        return kernel_mmd(predicted, target, kernel, self.estimator, tokens_per_draw)


def _no_bare_word(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError(f"got the word {value!r}, expected a section: write {{kind: {value}}}")
    return value


AnyKernel = Annotated[
    Annotated[
        LinearConfig | PseudoHuberConfig | RbfConfig | RationalQuadraticConfig, Field(discriminator="kind")
    ],
    BeforeValidator(_no_bare_word),
]
