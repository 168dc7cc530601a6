"""What rows must reach, and whether they do."""

from collections.abc import Sequence
from typing import Any

from swd_video.core.interval import Estimate
from swd_video.evaluation.config import EvaluateConfig, RealRowConfig, TargetConfig
from swd_video.evaluation.judges import Judges
from swd_video.evaluation.metrics.cost import COSTS
from swd_video.evaluation.metrics.metric import Metric
from swd_video.evaluation.results import Results


def check_measured(config: EvaluateConfig, metrics: Sequence[Metric], judges: Judges) -> None:
    """Refuse targets on what this evaluation cannot measure, before anything is made; `cost: null` times none at all.

    Raises:
        ValueError: Naming the target.
    """
    judge = config.metrics.judge
    real = [row.key for row in config.rows if isinstance(row, RealRowConfig)]
    for number, target in enumerate(config.targets):
        asked = [metric for metric in metrics if target.metric in (metric.key, metric.margin_key)]
        name = f"targets[{number}].metric: {target.metric!r}"
        if not any(metric.is_told_by(judges) for metric in asked):
            got = "there is none" if judge is None else f"{judge} does not"
            raise ValueError(
                f"{name} needs a judge that reads it, and {got}; name one as metrics.judge, or leave the target out."
            )
        unmade = [key for _, key in target.rows if key in real and isinstance(asked[0], COSTS)]
        if unmade:
            raise ValueError(f"{name} of row {unmade[0]!r}, which no model makes; name another row.")


def check_targets(targets: Sequence[TargetConfig], results: Results) -> list[dict[str, Any]]:
    """Hold rows against what they must reach.

    A target on two rows is met by the interval of their difference: "no worse" if all of it is better than the margin
    the wrong way, "better" if all of it is better than 0. So neither few nor many clips meet it by themselves.

    Returns:
        For each target its name, what was found, and whether it is met; None where that was not measured.
    """
    return [
        _check(target, metric, results)
        for target in targets
        for metric in results.metrics
        if target.metric in (metric.key, metric.margin_key)
    ]


def _check(target: TargetConfig, metric: Metric, results: Results) -> dict[str, Any]:
    name = f"{target.row}: {metric.title}"
    other = target.no_worse_than or target.better_than
    if other is not None:
        return _hold_against(other, name, target, metric, results)
    bound = target.at_least if target.at_least is not None else target.at_most
    name += f", relative to {target.share_of}'s" if target.share_of else ""
    name += f", at {'least' if target.at_least is not None else 'most'} {bound:g}"
    value = _value(results, target.row, metric)
    if target.share_of and value is not None:
        whole = _value(results, target.share_of, metric)
        # Nothing is a share of what is not above 0, as an unbiased distance may be.
        value = None if whole is None or whole <= 0 else value / whole
    if value is None or bound is None:
        return {"name": name, "found": "–", "met": None}
    met = bool(value >= bound if target.at_least is not None else value <= bound)
    return {"name": name, "found": f"{value:.{max(metric.digits, 2)}f}", "met": met}


def _hold_against(
    other: str, name: str, target: TargetConfig, metric: Metric, results: Results
) -> dict[str, Any]:
    found = results.compare(target.row, other, metric)
    if target.no_worse_than is not None:
        margin = "the margin" if found is None else f"{found.margin:.3g}"
        name += f" no worse than {other}'s by {margin}"
    else:
        name += f" {'more' if metric.better == 'reference' else 'better'} than {other}'s"
    if found is None:
        return {"name": name, "found": "–", "met": None}
    said = f"{found.value:+.3g} [{found.low:.3g}, {found.high:.3g}], {found.verdict}"
    return {"name": name, "found": said, "met": found.is_no_worse if target.no_worse_than else found.is_ahead}


def _value(results: Results, row: str, metric: Metric) -> float | None:
    figure = results.row(row).figures.get(metric.key)
    return figure.value if isinstance(figure, Estimate) else figure
