import numpy as np
import pytest

from swd_video.core.interval import Estimate
from swd_video.evaluation.clip_features import imagenet_features
from swd_video.evaluation.difference import difference
from swd_video.evaluation.metrics.fidelity import (
    NearestDistance,
    frechet_estimate,
    kernel_estimate,
    nearest_distances,
)
from swd_video.evaluation.metrics.metric import Beside, Scores


def frechet_distance(features: np.ndarray, reference: np.ndarray) -> float:
    return frechet_estimate(features, reference, resamples=1).value


def kernel_distance(features: np.ndarray, reference: np.ndarray) -> float:
    return kernel_estimate(features, reference, resamples=1).value


def frechet_of_moments(mean_a: np.ndarray, a: np.ndarray, mean_b: np.ndarray, b: np.ndarray) -> float:
    """`|m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2))`, by the roots of the covariances."""
    roots = [
        np.sqrt(np.clip(values, 0.0, None))[:, None] * vectors.T
        for values, vectors in map(np.linalg.eigh, (a, b))
    ]
    cross = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * cross)


def plain_frechet(features: np.ndarray, reference: np.ndarray) -> float:
    return frechet_of_moments(features.mean(0), np.cov(features.T), reference.mean(0), np.cov(reference.T))


def plain_kernel(features: np.ndarray, reference: np.ndarray) -> float:
    """Unbiased squared MMD, every pair of different clips once. Binkowski et al. (arXiv 1801.01401), Eq. 4."""

    def mean_kernel(x: np.ndarray, y: np.ndarray) -> float:
        kernel = (x @ y.T / x.shape[1] + 1) ** 3
        if x is not y:
            return float(kernel.mean())
        return float((kernel.sum() - np.trace(kernel)) / (len(x) * (len(x) - 1)))

    return (
        mean_kernel(features, features)
        + mean_kernel(reference, reference)
        - 2 * mean_kernel(features, reference)
    )


def samples_of(mean: np.ndarray, root: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Samples whose mean is `mean` and whose covariance is `root root^T`, exactly."""
    drawn = rng.normal(size=(count, len(mean)))
    white = np.linalg.qr(drawn - drawn.mean(0))[0] * np.sqrt(count - 1)
    return mean + white @ root.T


def test_frechet_of_commuting_gaussians_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    a, b = rng.uniform(0.1, 4.0, size=(2, 12))
    mean_a, mean_b = rng.normal(size=(2, 12))
    expected = ((mean_a - mean_b) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    sets = [samples_of(m, basis * np.sqrt(v), 40, rng) for m, v in ((mean_a, a), (mean_b, b))]
    assert frechet_distance(*sets) == pytest.approx(expected, rel=1e-10)
    moments = frechet_of_moments(mean_a, basis * a @ basis.T, mean_b, basis * b @ basis.T)
    assert moments == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("count", [20, 200])
def test_frechet_of_samples_is_that_of_their_moments(count: int) -> None:
    """Both with more samples than features and with fewer, where the covariances are singular."""
    rng = np.random.default_rng(1)
    a = rng.normal(size=(count, 30)) @ rng.normal(size=(30, 30))
    b = rng.normal(size=(count + 7, 30)) + 0.5
    # The trace of a matrix root is the sum of the roots of the eigenvalues, which are not negative here.
    root_trace = np.sqrt(np.linalg.eigvals(np.cov(a.T) @ np.cov(b.T)).real.clip(0)).sum()
    difference = a.mean(0) - b.mean(0)
    expected = difference @ difference + np.trace(np.cov(a.T) + np.cov(b.T)) - 2 * root_trace
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-5)
    assert frechet_distance(a, b) == pytest.approx(plain_frechet(a, b), rel=1e-8)


def test_frechet_survives_a_large_offset_and_is_zero_for_the_same_set() -> None:
    a = np.random.default_rng(2).normal(size=(60, 8))
    assert frechet_distance(a + 1e4, a + 1e4) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(a + 1e4, a + 1e4 + 3.0) == pytest.approx(8 * 9.0, rel=1e-6)


def test_kernel_distance_is_unbiased_and_grows_with_the_shift() -> None:
    rng = np.random.default_rng(3)
    same = [kernel_distance(*rng.normal(size=(2, 40, 6))) for _ in range(300)]
    assert abs(np.mean(same)) < 4 * np.std(same) / np.sqrt(300)
    x, y = rng.normal(size=(2, 400, 6))
    shifted = [kernel_distance(x + shift, y) for shift in (0.0, 0.3, 0.6)]
    assert shifted[0] < shifted[1] < shifted[2]


def test_kernel_distance_of_shifted_gaussians_is_the_closed_form() -> None:
    """In one dimension E k(x, y) follows from the moments of x y: with k = (x y + 1)^3."""

    def expected_kernel(m: float, n: float) -> float:
        first = m * n
        second = (1 + m**2) * (1 + n**2)
        third = (m**3 + 3 * m) * (n**3 + 3 * n)
        return third + 3 * second + 3 * first + 1

    shift = 0.7
    expected = expected_kernel(shift, shift) + expected_kernel(0, 0) - 2 * expected_kernel(shift, 0)
    rng = np.random.default_rng(4)
    got = [kernel_distance(rng.normal(shift, 1, (500, 1)), rng.normal(0, 1, (500, 1))) for _ in range(40)]
    assert np.mean(got) == pytest.approx(expected, abs=4 * np.std(got) / np.sqrt(40))


def test_estimates_hold_the_plain_figures_and_count_prompts() -> None:
    rng = np.random.default_rng(5)
    prompts = np.repeat(np.arange(30), 4)
    features = np.repeat(rng.normal(size=(30, 5)), 4, axis=0) + 0.1 * rng.normal(size=(120, 5))
    reference = rng.normal(size=(200, 5))
    for estimator, plain in ((frechet_estimate, plain_frechet), (kernel_estimate, plain_kernel)):
        alone = estimator(features, reference, resamples=200)
        assert alone.value == pytest.approx(plain(features, reference), rel=1e-9)
        others = {} if estimator is frechet_estimate else {"reference_groups": 30 + np.arange(200)}
        grouped = estimator(features, reference, prompts, **others, resamples=200)
        assert grouped.low < grouped.value < grouped.high
        assert grouped.high - grouped.low > 1.3 * (alone.high - alone.low)


def test_resampling_does_not_count_a_clip_against_itself() -> None:
    """The interval of a distance to the own distribution must hold zero."""
    x, y = np.random.default_rng(6).normal(size=(2, 150, 8))
    estimate = kernel_estimate(x, y, resamples=400)
    assert estimate.low < 0 < estimate.high


def test_two_prompts_leave_the_kernel_distance_open() -> None:
    """Whatever is drawn, it is known of both prompts together or not at all."""
    ours, theirs, real = np.random.default_rng(8).normal(size=(3, 6, 4))
    prompts = np.repeat([0, 1], 3)
    first, second = (kernel_estimate(x, real, prompts, prompts) for x in (ours, theirs))
    assert (first.low, first.high) == (-np.inf, np.inf)
    assert difference(first, second, 1e-9, "lower").verdict == "not told apart"


def test_two_rows_as_far_from_real_clips_of_other_prompts_are_told_apart_no_more_often_than_by_chance() -> (
    None
):
    """A few real clips lie nearer to one of two rows that are equally far from all that could have been drawn."""
    rng = np.random.default_rng(9)
    prompts, held = np.arange(150), 0
    shift = 0.5 * np.eye(16)[0]
    for _ in range(60):
        centres = 0.7 * rng.normal(size=(150, 16))
        ours, theirs = (centres + way * shift + 0.7 * rng.normal(size=(150, 16)) for way in (1, -1))
        real = rng.normal(size=(25, 16))
        first, second = (
            kernel_estimate(x, real, prompts, 150 + np.arange(25), resamples=100) for x in (ours, theirs)
        )
        found = difference(first, second, 1e-9, "lower")
        held += found.low <= 0 <= found.high
    assert held >= 0.9 * 60


def test_kernel_distance_is_unbiased_whatever_prompts_two_sets_share() -> None:
    """Clips of a prompt lie together; a set has every prompt once to thrice, and pairs of one prompt would bias it."""
    rng = np.random.default_rng(7)
    found, held = [], 0
    for _ in range(80):
        centres = rng.normal(size=(20, 4))
        groups = [np.repeat(np.arange(20), times) for times in (2, 3)]
        sets = [centres[index] + 0.3 * rng.normal(size=(len(index), 4)) for index in groups]
        estimate = kernel_estimate(*sets, *groups, resamples=100)
        found.append(estimate.value)
        held += estimate.low <= 0 <= estimate.high
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(80) < 0.05
    assert held / 80 >= 0.85 and min(found) < 0 < max(found)


def test_kernel_distance_is_unbiased_where_one_set_has_a_single_prompt() -> None:
    rng = np.random.default_rng(8)
    found = []
    for turn in range(120):
        centres, index = rng.normal(size=(15, 4)), np.repeat(np.arange(15), 4)
        clips = centres[index] + 0.3 * rng.normal(size=(60, 4))
        real = rng.normal(size=(60, 4)) + 0.3 * rng.normal(size=(60, 4))
        sets = ((clips, index), (real, np.full(60, 15)))
        (x, g), (y, h) = sets if turn % 2 else sets[::-1]
        found.append(kernel_estimate(x, y, g, h, resamples=2).value)
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(120) < 0.1


def test_mismatched_features_are_refused() -> None:
    with pytest.raises(ValueError, match="one width"):
        frechet_distance(np.zeros((4, 3)), np.zeros((4, 2)))
    with pytest.raises(ValueError, match="at least 2"):
        kernel_distance(np.zeros((1, 3)), np.zeros((4, 3)))


def moving_clips(count: int, *, seed: int, blur: bool = False, frozen: bool = False) -> np.ndarray:
    """Bright squares that move over a gradient."""
    rng = np.random.default_rng(seed)
    clips = np.zeros((count, 5, 48, 48, 3), dtype=np.uint8)
    for clip in clips:
        colour = rng.integers(60, 255, size=3)
        top, left, step = rng.integers(0, 20), rng.integers(0, 12), rng.integers(2, 5)
        for index, frame in enumerate(clip):
            frame[...] = np.linspace(0, 90, 48, dtype=np.uint8)[:, None, None]
            x = left + (0 if frozen else step * index)
            frame[top : top + 16, x : x + 16] = colour
            if blur:
                mean = frame.reshape(6, 8, 6, 8, 3).mean(axis=(1, 3)).astype(np.uint8)
                frame[...] = mean.repeat(8, axis=0).repeat(8, axis=1)
    return clips


def test_image_net_features_tell_blurred_and_frozen_clips_from_real_ones() -> None:
    describe = imagenet_features(size_px=48)
    reference = describe(moving_clips(24, seed=0))
    assert reference.shape == (24, 640) and reference.dtype == np.float64
    floor = frechet_distance(describe(moving_clips(24, seed=1)), reference)
    for damage in ({"blur": True}, {"frozen": True}):
        assert frechet_distance(describe(moving_clips(24, seed=1, **damage)), reference) > 1.5 * floor
    frozen = describe(moving_clips(3, seed=2, frozen=True))
    np.testing.assert_allclose(frozen[:, 320:], 0.0, atol=1e-4)


def test_features_do_not_depend_on_the_batching() -> None:
    clips = moving_clips(4, seed=3)
    together = imagenet_features(size_px=64, frames_per_forward=64)(clips)
    apart = np.concatenate(
        [imagenet_features(size_px=64, frames_per_forward=3)(clips[i : i + 1]) for i in range(4)]
    )
    np.testing.assert_allclose(together, apart, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="expected uint8"):
        imagenet_features(size_px=64)(clips[:, :1])


def test_the_nearest_of_the_others_is_found_and_a_stranger_has_as_many_to_choose_from() -> None:
    rng = np.random.default_rng(0)
    clips, candidates = rng.normal(size=(5, 3)), rng.normal(size=(4, 3))
    others = [np.delete(clips, index, axis=0) for index in range(5)]
    among = [
        min(np.linalg.norm(clip - other) for other in some) for clip, some in zip(clips, others, strict=True)
    ]
    np.testing.assert_allclose(nearest_distances(clips), among)
    without = [np.delete(candidates, index, axis=0) for index in range(4)]
    apart = [
        np.mean([min(np.linalg.norm(clip - other) for other in some) for some in without]) for clip in clips
    ]
    np.testing.assert_allclose(nearest_distances(clips, candidates), apart)


def test_clips_of_the_same_kind_are_as_near_as_real_ones_and_clouds_are_not() -> None:
    rng = np.random.default_rng(1)
    captions = tuple("ab" * 30)
    middles = np.array([[0.0] * 4, [9.0] * 4] * 30)

    def figure(of: np.ndarray, real_captions: tuple[str, ...] = captions) -> dict[str, Estimate]:
        real = Scores(real_captions, {"features": middles + rng.normal(size=(60, 4))})
        scores = Scores(captions, {"features": of})
        return NearestDistance().summarise(scores, Beside(scores, real))

    same, clouds = (
        figure(x)["nearest"].value for x in (middles + rng.normal(size=(60, 4)), 0 * middles + 4.5)
    )
    assert same == pytest.approx(1, abs=0.2) and clouds > 4
    assert figure(middles, ("a", "b", *("c",) * 58)) == {}
