"""Fidelity: Frechet and kernel distances between the features of generated and of real clips."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from swd_video.core.interval import (
    Estimate,
    bootstrap_ratio,
    bootstrap_statistic,
    bootstrap_weights,
    count_groups,
    normal_estimate,
)
from swd_video.evaluation.judges import Batch
from swd_video.evaluation.metrics.metric import Beside, Metric, Scores, caption_numbers


class KernelDistance(Metric):
    """See `kernel_estimate`."""

    key = "kernel"
    title = "kernel distance"
    better = "lower"
    margin: float | None = 0.1
    margin_is_share = True
    has_floor = True
    meaning = (
        "How far the clips as a whole lie from {distances_to} in what {encoder} sees (KID's kernel). Without bias by "
        "the number of clips: of two sets of one kind it is 0 on average, and below 0 as often as above."
    )

    def measure(self, batch: Batch) -> dict[str, np.ndarray]:
        """The encoder's features."""
        return {"features": batch.features}

    def summarise(self, scores: Scores, beside: Beside) -> dict[str, Estimate]:
        """To the clips that distances are measured to, where there are any."""
        if beside.reference is None:
            return {}
        numbers = caption_numbers(scores, beside.reference)
        groups = [np.array([numbers[c] for c in row.captions]) for row in (scores, beside.reference)]
        return {self.key: self.estimate(scores["features"], beside.reference["features"], *groups)}

    def estimate(
        self, ours: np.ndarray, theirs: np.ndarray, prompts: np.ndarray, their_prompts: np.ndarray
    ) -> Estimate:
        """Of two sets of features."""
        return kernel_estimate(ours, theirs, prompts, their_prompts)


class FrechetDistance(KernelDistance):
    """See `frechet_estimate`."""

    key = "frechet"
    title = "Frechet distance"
    digits = 1
    margin = None
    meaning = (
        "The same question asked of mean and covariance. It is biased by the number of clips, which its floor shows, "
        "and can rank rows wrongly, so that rows are not compared by it."
    )

    def estimate(
        self, ours: np.ndarray, theirs: np.ndarray, prompts: np.ndarray, their_prompts: np.ndarray
    ) -> Estimate:
        """Of two sets of features."""
        return frechet_estimate(ours, theirs, prompts)


class NearestDistance(Metric):
    """How far each clip is from the nearest real one of its prompt; see `nearest_distances`."""

    key = "nearest"
    title = "to the nearest real clip, share"
    better = "lower"
    margin = 0.05
    meaning = (
        "How far a clip is, in what {encoder} sees, from the nearest of the real clips of its prompt, as a share of "
        "how far these are from each other. It is about single clips: one that shows nothing is far from all of them."
    )

    def measure(self, batch: Batch) -> dict[str, np.ndarray]:
        """The encoder's features."""
        return {"features": batch.features}

    def summarise(self, scores: Scores, beside: Beside) -> dict[str, Estimate]:
        """By prompt, where there are three real clips or more of each."""
        real = beside.reference
        if real is None:
            return {}
        ours, theirs = [], []
        for caption in sorted(set(scores.captions)):
            clips, candidates = (
                row["features"][np.array([c == caption for c in row.captions])] for row in (scores, real)
            )
            if len(candidates) < 3:
                return {}
            ours.append(nearest_distances(clips, candidates).mean())
            theirs.append(nearest_distances(candidates).mean())
        return {self.key: bootstrap_ratio(np.array(ours), np.array(theirs))}


def nearest_distances(
    clips: Float[np.ndarray, "clips features"],
    candidates: Float[np.ndarray, "candidates features"] | None = None,
) -> Float[np.ndarray, " clips"]:
    """Distance of each clip to the nearest candidate; without any, to the nearest of the other clips.

    A clip that is a candidate itself has one candidate less. So that the two compare, a clip that is none has one less
    as well, each in turn: the mean over all that could be left out.
    """
    theirs = clips if candidates is None else candidates
    lengths = np.sort(np.linalg.norm(clips[:, None].astype(np.float64) - theirs[None], axis=-1), axis=1)
    if candidates is None:
        return lengths[:, 1]  # the nearest is itself
    return ((len(theirs) - 1) * lengths[:, 0] + lengths[:, 1]) / len(theirs)


def frechet_estimate(
    features: Float[np.ndarray, "samples features"],
    reference: Float[np.ndarray, "references reference_features"],
    groups: Int[np.ndarray, " samples"] | None = None,
    *,
    resamples: int = 100,
) -> Estimate:
    """Frechet distance of fitted Gaussians with a normal bootstrap interval over prompts; the reference is held fixed.

    `|m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2))`, in float64. `tr (A B)^(1/2)` is computed as the nuclear norm of
    `X Y^T`, where `X^T X = A` and `Y^T Y = B` are the centred features: exact for rank-deficient covariances too, never
    complex, no matrix root of a product.
    Source: Dowson and Landau, 1982; as an image metric Heusel et al. (arXiv 1706.08500), section 3.

    Raises:
        ValueError: If a set has fewer than two samples or the widths differ.
    """
    _check_sets(features, reference)
    fixed = _moment_factors(reference, None)
    return bootstrap_statistic(
        lambda weights: _frechet(*_moment_factors(features, weights), *fixed),
        len(features),
        groups,
        resamples=resamples,
    )


def kernel_estimate(
    features: Float[np.ndarray, "samples features"],
    reference: Float[np.ndarray, "references reference_features"],
    groups: Int[np.ndarray, " samples"] | None = None,
    reference_groups: Int[np.ndarray, " references"] | None = None,
    *,
    resamples: int = 1000,
) -> Estimate:
    """Unbiased squared MMD, kernel `(x . y / d + 1)^3`, with a normal bootstrap interval over prompts.

    Zero on average for two sets of one distribution, and below zero about as often as above.
    Source: Binkowski et al., *Demystifying MMD GANs* (arXiv 1801.01401), Eq. 4 and section 4 (KID).

    Two clips of one prompt are more alike than two of the distribution, so such pairs never count, within a set or
    across; then the distance is unbiased however often either set holds a prompt. Where the reference holds a row's
    prompts, it is resampled with them; its other prompts are resampled on their own, for all rows alike.

    The estimate's scale is how far single references lie apart: the kernel of one and itself, less that of two.

    `groups` are the prompts of the samples, in the same numbering as those of the references; of a set with fewer than
    two prompts each clip stands for itself.
    """
    _check_sets(features, reference)
    taken = max((int(np.max(g)) + 1 for g in (groups, reference_groups) if g is not None), default=0)
    if groups is None or len(np.unique(groups)) < 2:
        groups = taken + np.arange(len(features))
    if reference_groups is None or len(np.unique(reference_groups)) < 2:
        reference_groups = taken + len(features) + np.arange(len(reference))
    kernel = _KernelMmd(features, reference, groups, reference_groups)
    weights = bootstrap_weights(groups, len(features), resamples=resamples)
    of_reference = bootstrap_weights(reference_groups, len(reference), resamples=resamples, seed=1)
    draws = np.array([kernel(*drawn) for drawn in zip(weights, of_reference, strict=True)])
    value = kernel(np.ones(len(features)), np.ones(len(reference)))
    estimate = normal_estimate(value, draws, len(features), count_groups(groups, len(features)))
    return replace(estimate, scale=kernel.scale)


class _KernelMmd:
    """Unbiased MMD^2 as a function of the weights of both sets; pairs that share a group never count.

    Sums over all pairs are kept by pairs of groups, since resampling draws whole groups. `scale` is the mean
    kernel of a reference and itself, less that of two.
    """

    def __init__(
        self, features: np.ndarray, reference: np.ndarray, groups: np.ndarray, reference_groups: np.ndarray
    ) -> None:
        names, self._first, self._sizes = np.unique(groups, return_index=True, return_counts=True)
        others, self._other_first, self._other_sizes = np.unique(
            reference_groups, return_index=True, return_counts=True
        )
        same = names[:, None] == others[None, :]
        # For each group of the reference that of the samples which it shares, -1 where there is none.
        self._partner = np.where(same.any(axis=0), same.argmax(axis=0), -1)
        self._same = same.astype(np.float64)
        x = np.asarray(features, dtype=np.float64)[np.argsort(groups, kind="stable")]
        y = np.asarray(reference, dtype=np.float64)[np.argsort(reference_groups, kind="stable")]
        self._within = _sums_of_kernel(x, x, self._sizes, self._sizes)
        self._reference = _sums_of_kernel(y, y, self._other_sizes, self._other_sizes)
        self._across = _sums_of_kernel(x, y, self._sizes, self._other_sizes) * (1.0 - self._same)
        for sums in (self._within, self._reference):
            np.fill_diagonal(sums, 0.0)
        pairs = self._other_sizes.sum() ** 2 - (self._other_sizes**2).sum()
        itself = float((((y**2).sum(axis=1) / y.shape[1] + 1.0) ** 3).mean())
        self.scale = itself - _mean_of_pairs(float(self._reference.sum()), float(pairs))

    def __call__(
        self, weights: Float[np.ndarray, " samples"], reference_weights: Float[np.ndarray, " references"]
    ) -> float:
        w = weights[self._first]
        v = np.where(self._partner < 0, reference_weights[self._other_first], w[self._partner])
        ours, theirs = w * self._sizes, v * self._other_sizes
        within = _mean_of_pairs(w @ self._within @ w, ours.sum() ** 2 - (ours**2).sum())
        reference = _mean_of_pairs(v @ self._reference @ v, theirs.sum() ** 2 - (theirs**2).sum())
        across = _mean_of_pairs(
            w @ self._across @ v, ours.sum() * theirs.sum() - float(ours @ self._same @ theirs)
        )
        return within + reference - 2.0 * across


def _sums_of_kernel(x: np.ndarray, y: np.ndarray, sizes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The kernel summed over the pairs of every two groups; samples lie sorted by group."""
    kernel = (x @ y.T / x.shape[1] + 1.0) ** 3
    starts, other_starts = (np.cumsum(counts) - counts for counts in (sizes, others))
    return np.asarray(np.add.reduceat(np.add.reduceat(kernel, starts, axis=0), other_starts, axis=1))


def _mean_of_pairs(total: float, pairs: float) -> float:
    return float(total / pairs) if pairs > 0 else float("nan")


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


def _frechet(mean_a: np.ndarray, factor_a: np.ndarray, mean_b: np.ndarray, factor_b: np.ndarray) -> float:
    cross = np.linalg.svd(factor_a @ factor_b.T, compute_uv=False).sum()
    distance = ((mean_a - mean_b) ** 2).sum() + (factor_a**2).sum() + (factor_b**2).sum() - 2.0 * cross
    return float(distance)
