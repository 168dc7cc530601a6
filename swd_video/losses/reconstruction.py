"""How near decoded pixels are to those that they should be."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import layer_norm


def reconstruction_loss(
    decoded: Float[Tensor, "batch channels frames height width"],
    pixels: Float[Tensor, "batch channels frames height width"],
    differences: float | int = 0.5,
) -> Float[Tensor, ""]:
    """Mean absolute error of values and, for crisp edges and true movement, of differences between neighbours.

    Args:
        decoded: what was made; gradients reach it.
        pixels: what it should be.
        differences: weight of the differences along each of the three axes.
    """
    error = decoded - pixels
    loss = error.abs().mean()
    for axis in (2, 3, 4):
        if error.shape[axis] > 1:
            loss = loss + differences * error.diff(dim=axis).abs().mean()
    return loss


def feature_loss(
    decoded: Float[Tensor, "batch *places channels"], original: Float[Tensor, "batch *places channels"]
) -> Float[Tensor, ""]:
    """Mean absolute error of features, each place's normalised over its channels; gradients reach the first."""
    channels = decoded.shape[-1:]
    return (layer_norm(decoded.float(), channels) - layer_norm(original.float(), channels)).abs().mean()
