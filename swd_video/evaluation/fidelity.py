"""Fidelity: Frechet and kernel distances between the features of generated and of real clips."""

import numpy as np
from jaxtyping import Float, Int

from swd_video.evaluation.interval import Estimate, bootstrap_statistic


def frechet_distance_of_moments(
    mean_a: Float[np.ndarray, " features"],
    covariance_a: Float[np.ndarray, "features features"],
    mean_b: Float[np.ndarray, " features"],
    covariance_b: Float[np.ndarray, "features features"],
) -> float:
    """Squared 2-Wasserstein distance of two Gaussians, `|m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2))`.

    Source: Dowson and Landau, 1982; as an image metric Heusel et al. (arXiv 1706.08500), section 3.
    """
    return _frechet(mean_a, _covariance_factor(covariance_a), mean_b, _covariance_factor(covariance_b))


def frechet_distance(
    features: Float[np.ndarray, "samples features"],
    reference: Float[np.ndarray, "references reference_features"],
    weights: Float[np.ndarray, " samples"] | None = None,
) -> float:
    """Frechet distance between Gaussians fitted to two sets of features, in float64.

    `tr (A B)^(1/2)` is computed as the nuclear norm of `X Y^T`, where `X^T X = A` and `Y^T Y = B` are the
    centred features: exact for rank-deficient covariances too, never complex, no matrix root of a product.

    Args:
        features: Features of the clips to judge.
        reference: Features of real clips.
        weights: How often each of `features` counts (bootstrap); default once.

    Raises:
        ValueError: If a set has fewer than two samples or the widths differ.
    """
    _check_sets(features, reference)
    return _frechet(*_moment_factors(features, weights), *_moment_factors(reference, None))


def kernel_distance(
    features: Float[np.ndarray, "samples features"],
    reference: Float[np.ndarray, "references reference_features"],
) -> float:
    """Unbiased squared MMD, kernel `(x . y / d + 1)^3`: zero on average for two sets of one distribution.

    Source: Binkowski et al., *Demystifying MMD GANs* (arXiv 1801.01401), Eq. 4 and section 4 (KID).
    """
    _check_sets(features, reference)
    return _KernelMmd(features, reference)(np.ones(len(features)))


def frechet_estimate(
    features: Float[np.ndarray, "samples features"],
    reference: Float[np.ndarray, "references reference_features"],
    groups: Int[np.ndarray, " samples"] | None = None,
    *,
    resamples: int = 100,
    seed: int = 0,
) -> Estimate:
    """Frechet distance with a normal bootstrap interval over prompts; the reference is held fixed."""
    _check_sets(features, reference)
    fixed = _moment_factors(reference, None)
    return bootstrap_statistic(
        lambda weights: _frechet(*_moment_factors(features, weights), *fixed),
        len(features),
        groups,
        resamples=resamples,
        seed=seed,
    )


def kernel_estimate(
    features: Float[np.ndarray, "samples features"],
    reference: Float[np.ndarray, "references reference_features"],
    groups: Int[np.ndarray, " samples"] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Kernel distance with a normal bootstrap interval over prompts; the reference is held fixed."""
    _check_sets(features, reference)
    return bootstrap_statistic(
        _KernelMmd(features, reference), len(features), groups, resamples=resamples, seed=seed
    )


class _KernelMmd:
    """Unbiased MMD^2 as a function of sample weights; pairs of one sample with itself never count."""

    def __init__(self, features: np.ndarray, reference: np.ndarray) -> None:
        x, y = np.asarray(features, dtype=np.float64), np.asarray(reference, dtype=np.float64)
        width = x.shape[1]
        self.within = (x @ x.T / width + 1.0) ** 3
        np.fill_diagonal(self.within, 0.0)
        self.across = ((x @ y.T / width + 1.0) ** 3).mean(axis=1)
        reference_kernel = (y @ y.T / width + 1.0) ** 3
        m = len(y)
        self.reference = (reference_kernel.sum() - np.trace(reference_kernel)) / (m * (m - 1))

    def __call__(self, weights: Float[np.ndarray, " samples"]) -> float:
        pairs = weights.sum() ** 2 - (weights**2).sum()
        within = weights @ self.within @ weights / pairs
        return float(within + self.reference - 2.0 * (weights @ self.across) / weights.sum())


def _check_sets(features: np.ndarray, reference: np.ndarray) -> None:
    if features.ndim != 2 or reference.ndim != 2 or features.shape[1] != reference.shape[1]:
        raise ValueError(
            f"features of shape {features.shape} against {reference.shape}: "
            "expected (samples, features) of one width."
        )
    if min(len(features), len(reference)) < 2:
        raise ValueError(f"{len(features)} samples against {len(reference)}: need at least 2 on each side.")


def _moment_factors(features: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Mean, and the smallest X with X^T X = covariance."""
    x = np.asarray(features, dtype=np.float64)
    w = np.ones(len(x)) if weights is None else weights
    mean = w @ x / w.sum()
    factor = np.sqrt(w / (w.sum() - 1.0))[:, None] * (x - mean)
    if len(x) > x.shape[1]:
        factor = np.asarray(np.linalg.qr(factor, mode="r"))
    return mean, factor


def _covariance_factor(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(np.asarray(covariance, dtype=np.float64))
    return np.sqrt(np.clip(values, 0.0, None))[:, None] * vectors.T


def _frechet(mean_a: np.ndarray, factor_a: np.ndarray, mean_b: np.ndarray, factor_b: np.ndarray) -> float:
    cross = np.linalg.svd(factor_a @ factor_b.T, compute_uv=False).sum()
    distance = ((mean_a - mean_b) ** 2).sum() + (factor_a**2).sum() + (factor_b**2).sum() - 2.0 * cross
    return float(distance)
