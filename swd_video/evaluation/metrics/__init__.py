"""The metrics, each one object in a file of its own or beside its kin; a new one is added to `METRICS`.

One from outside of the package is derived from `Metric` and named in a config's `metrics.others`.
"""

from collections.abc import Sequence

from swd_video.evaluation.metrics.adherence import Adherence
from swd_video.evaluation.metrics.consistency import SubjectConsistency
from swd_video.evaluation.metrics.cost import TotalSeconds, TransformerSeconds, TransformerTflops
from swd_video.evaluation.metrics.diversity import Diversity, Spread
from swd_video.evaluation.metrics.fidelity import FrechetDistance, KernelDistance
from swd_video.evaluation.metrics.metric import Metric
from swd_video.evaluation.metrics.motion import Motion, Steadiness
from swd_video.evaluation.metrics.sharpness import Sharpness
from swd_video.extensions import find

METRICS: tuple[Metric, ...] = (
    Adherence(),
    KernelDistance(),
    FrechetDistance(),
    Diversity(),
    Spread(),
    Motion(),
    Sharpness(),
    Steadiness(),
    SubjectConsistency(),
    TransformerSeconds(),
    TotalSeconds(),
    TransformerTflops(),
)
"""In the order of the tables."""


def metrics_with(others: Sequence[str]) -> tuple[Metric, ...]:
    """All metrics, those from outside last.

    Args:
        others: Names of entry points, or `module:Class`.

    Raises:
        ValueError: If one is no metric, or has the key of another.
    """
    metrics = list(METRICS)
    for name in others:
        kind = find("metrics", name)
        if not (isinstance(kind, type) and issubclass(kind, Metric)):
            raise ValueError(
                f"metrics.others: {name}: is no metric; name a class that is derived from Metric."
            )
        if any(kind.key == metric.key for metric in metrics):
            raise ValueError(
                f"metrics.others: {name}: there is a metric of key {kind.key!r} already; choose another."
            )
        metrics.append(kind())
    return tuple(metrics)
