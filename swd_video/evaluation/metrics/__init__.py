"""The metrics, one object each; `METRICS` is the order of tables and of the page."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from swd_video.evaluation.metrics.adherence import Adherence
from swd_video.evaluation.metrics.consistency import Consistency
from swd_video.evaluation.metrics.cost import COSTS
from swd_video.evaluation.metrics.diversity import Diversity, Spread
from swd_video.evaluation.metrics.fidelity import FrechetDistance, KernelDistance, NearestDistance
from swd_video.evaluation.metrics.metric import Metric
from swd_video.evaluation.metrics.motion import Motion, Steadiness
from swd_video.evaluation.metrics.readings import Travel, Variety
from swd_video.evaluation.metrics.sharpness import Sharpness
from swd_video.extensions import find

METRICS: tuple[type[Metric], ...] = (
    KernelDistance,
    FrechetDistance,
    NearestDistance,
    Diversity,
    Spread,
    Variety,
    Motion,
    Travel,
    Sharpness,
    Steadiness,
    Consistency,
    *COSTS,
)


def all_metrics(
    classes: Mapping[str, Sequence[str]] = MappingProxyType({}), others: Sequence[str] = ()
) -> list[Metric]:
    """Every metric: adherence to each attribute of a judge, those of the package, and those from outside.

    These are `module:Class`, or names of entry points in the group `swd_video.metrics`.

    Raises:
        ValueError: if one of the others is not to be found, is no metric, or has another's name.
    """
    read = [Adherence(attribute, names) for attribute, names in sorted(classes.items())]
    metrics = [*read, *(kind() for kind in METRICS)]
    for name in others:
        kind = find("metrics", name)
        if not (isinstance(kind, type) and issubclass(kind, Metric)):
            raise ValueError(f"{name}: is no metric; expected module:Class, derived from Metric")
        metric = kind()
        if metric.key in {known.key for known in metrics}:
            raise ValueError(f"{name}: there is a metric of key {metric.key!r} already; choose another")
        metrics.append(metric)
    return metrics


def default_margins(others: Sequence[str] = ()) -> dict[str, float]:
    """The margin of every metric that rows are compared by."""
    metrics = all_metrics({"": ()}, others)
    return {m.margin_key or m.key: m.margin for m in metrics if m.margin is not None}
