"""Targets, on figures whose truth is known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from swd_video.core.interval import Estimate, bootstrap_ratio, bootstrap_share
from swd_video.evaluation.clip_store import StoredClips
from swd_video.evaluation.config import EvaluateConfig, RealRowConfig, TargetConfig
from swd_video.evaluation.metrics import all_metrics, default_margins
from swd_video.evaluation.metrics.fidelity import kernel_estimate
from swd_video.evaluation.results import Results, RowResult
from swd_video.evaluation.targets import check_targets

CLASSES = {"subject": ("a", "b"), "motion": ("a", "b")}
PROMPTS = tuple(f"prompt {number}" for number in range(40))


CLIPS = StoredClips(Path(), (), 1, PROMPTS, 12.0)


def row_of(key: str, gains: dict[str, float], seconds: float, seed: int) -> RowResult:
    """A row whose figures are 1 and these gains in truth, over forty prompts that differ much and rows that do not."""
    hardness = np.random.default_rng(0).uniform(0.5, 1.5, size=40)
    noise = np.random.default_rng(seed)
    figures: dict[str, Any] = {"transformer_seconds": Estimate(seconds, seconds, seconds, 9)}
    for name in ("kernel", "diversity", "spread", "flow"):
        values = hardness * (1 + gains.get(name, 0.0)) * (1 + 0.02 * noise.normal(size=40))
        figures[name] = bootstrap_ratio(values, hardness)
    for name in CLASSES:
        share = round(40 * (1 + gains.get(name, 0.0)))
        figures[f"adherence_{name}"] = bootstrap_share((np.arange(40) < share).astype(np.int64))
    return RowResult(key, key, figures, CLIPS)


def checks_of(
    *rows: RowResult, targets: list[dict[str, Any]], adherence: float = 0.1
) -> list[dict[str, Any]]:
    margins = default_margins() | {"adherence": adherence}
    results = Results(rows, "teacher", {}, all_metrics(CLASSES), margins)
    return check_targets([TargetConfig(**target) for target in targets], results)


TARGETS: list[dict[str, Any]] = [
    {"row": "student", "metric": "adherence", "at_least": 0.95},
    {"row": "student", "metric": "spread", "share_of": "teacher", "at_least": 0.8},
    {"row": "student", "metric": "kernel", "share_of": "teacher", "at_most": 1.1},
    {"row": "student", "metric": "adherence_subject", "no_worse_than": "teacher"},
    {"row": "student", "metric": "kernel", "no_worse_than": "teacher"},
    {"row": "teacher", "metric": "transformer_seconds", "share_of": "student", "at_least": 40},
]


def test_the_margin_of_a_distance_is_a_share_of_the_other_row_s() -> None:
    real, teacher = row_of("real", {"kernel": -0.9999}, 4.0, 1), row_of("teacher", {}, 4.0, 1)
    results = Results(
        (real, teacher, row_of("student", {}, 0.1, 1)), "real", {}, all_metrics(CLASSES), default_margins()
    )
    metric = next(metric for metric in results.metrics if metric.key == "kernel")
    for other, said in (("teacher", "equal"), ("real", "worse")):
        found = results.compare("student", other, metric)
        assert found is not None
        kernel = results.row(other).figures["kernel"]
        assert isinstance(kernel, Estimate) and found.margin == pytest.approx(0.1 * abs(kernel.value))
        assert found.verdict == said
    assert "kernel distance (margin 10% of the other's)" in results.comparison_table()


@pytest.mark.parametrize("good", [True, False])
def test_targets_are_judged_by_figures_shares_and_paired_differences(good: bool) -> None:
    teacher = row_of("teacher", {}, 4.0, 1)
    gains = {"kernel": -0.1} if good else {"kernel": 0.3, "subject": -0.3, "motion": -0.3, "spread": -0.3}
    checks = checks_of(teacher, row_of("student", gains, 0.09 if good else 0.15, 3), targets=TARGETS)
    assert [check["met"] for check in checks] == [good] * 7
    assert [check["name"] for check in checks[:3]] == [
        "student: motion right, at least 0.95",
        "student: subject right, at least 0.95",
        "student: spread of pixels, share, relative to teacher's, at least 0.8",
    ]


@pytest.mark.parametrize("gain", [-0.08, 0.0, 0.08])
def test_two_steps_must_be_beaten_by_the_whole_interval(gain: float) -> None:
    gains = {"kernel": gain, "flow": gain, "spread": gain}
    rows = [row_of("teacher", {}, 4.0, 1), row_of("two", {}, 0.05, 2), row_of("student", gains, 0.05, 3)]
    targets = [{"row": "student", "metric": name, "better_than": "two"} for name in gains]
    checks = checks_of(*rows, targets=targets)
    assert [check["name"].split()[-3] for check in checks] == ["better", "more", "more"]
    assert [check["met"] for check in checks] == [gain < 0, gain > 0, gain > 0]


def test_what_targets_say_can_be_written() -> None:
    figures = {
        "kernel": kernel_estimate(*np.random.default_rng(0).normal([[[2.0]], [[0.0]]], size=(2, 8, 4)))
    }
    row = RowResult("s", "s", figures, StoredClips(Path(), (), 1, tuple("abcdefgh"), 12.0))
    results = Results([row], "s", {}, all_metrics(CLASSES), default_margins())
    bounds = [{"at_most": 100}, {"share_of": "s", "at_least": 0.5}]
    checks = check_targets([TargetConfig(row="s", metric="kernel", **bound) for bound in bounds], results)
    assert [check["met"] for check in json.loads(json.dumps(checks))] == [True, True]


def test_few_prompts_do_not_make_rows_equal() -> None:
    """All right in both rows: with forty prompts that leaves room for 0.09, which is no 0.05."""
    rows = [row_of("teacher", {}, 4.0, 1), row_of("student", {}, 0.05, 3)]
    for margin, met in ((0.05, False), (0.1, True)):
        (check,) = checks_of(*rows, targets=[TARGETS[3]], adherence=margin)
        assert check["name"] == f"student: subject right no worse than teacher's by {margin}"
        assert check["met"] is met


def test_what_was_not_measured_is_not_met() -> None:
    teacher = row_of("teacher", {}, 4.0, 1)
    student = RowResult("student", "student", {}, teacher.clips)
    assert {check["met"] for check in checks_of(teacher, student, targets=TARGETS)} == {None}


def test_nothing_is_a_share_of_a_distance_below_zero() -> None:
    rows = [
        RowResult(key, key, {"kernel": Estimate(at, at, at, 9)}, CLIPS)
        for key, at in (("s", 5.0), ("t", -0.5))
    ]
    target = TargetConfig(row="s", metric="kernel", share_of="t", at_least=1.1)
    (check,) = check_targets([target], Results(rows, "t", {}, all_metrics(CLASSES), default_margins()))
    assert check["met"] is None


def test_rows_that_repeat_other_prompts_are_not_paired() -> None:
    figure, rows = bootstrap_ratio(np.arange(1.0, 7.0), np.ones(6)), []
    for key, repeated in (("a", range(6)), ("b", range(6, 12))):
        captions = [*map(str, range(12)), *map(str, repeated)]
        rows.append(
            RowResult(key, key, {"diversity": figure}, StoredClips(Path(), (), 1, tuple(captions), 12.0))
        )
    metrics = all_metrics(CLASSES)
    (diversity,) = (metric for metric in metrics if metric.key == "diversity")
    results = Results(rows, "a", {}, metrics, default_margins())
    assert results.compare("a", "b", diversity) is None
    assert results.compare("a", "a", diversity) is not None


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"row": "nobody", "metric": "flow", "at_least": 1}, r"targets\[0\].row: no row 'nobody'"),
        ({"row": "t", "metric": "flow", "no_worse_than": "x"}, r"targets\[0\].no_worse_than: no row 'x'"),
        ({"row": "t", "metric": "flou", "at_least": 1}, r"targets\[0\].metric: no metric 'flou'"),
        ({"row": "t", "metric": "frechet", "better_than": "t"}, "which has no margin"),
        ({"row": "t", "metric": "flow"}, "got no bound, expected one of"),
        ({"row": "t", "metric": "flow", "at_least": 1, "at_most": 2}, "got at_least and at_most"),
        ({"row": "t", "metric": "flow", "better_than": "t", "share_of": "t"}, "share_of: goes with"),
    ],
)
def test_targets_that_cannot_be_checked_are_refused(target: dict[str, Any], message: str) -> None:
    rows = [{"kind": "teacher", "key": "t", "model": "pocket-wan"}]
    with pytest.raises(ValidationError, match=message):
        EvaluateConfig.model_validate({"prompts": ["a"], "rows": rows, "reference": "t", "targets": [target]})


def test_a_decoder_without_a_vae_is_refused() -> None:
    with pytest.raises(ValidationError, match="decoder: decodes what a VAE encoded; set through_vae_of too"):
        RealRowConfig.model_validate(
            {"key": "r", "clips": {"manifest": "m.jsonl"}, "decoder": "d.safetensors"}
        )
