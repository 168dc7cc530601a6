"""What the figures of an evaluation are called, which way they are better, and what they mean."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from swd_video.evaluation.evaluate import Results
from swd_video.evaluation.report import Column, markdown_table

_ADHERENCE = "adherence_"


@dataclass(frozen=True)
class Metric(Column):
    """A column, and how to read it.

    Attributes:
        better: Which way is better; "reference" means near the reference row's.
        meaning: One or two sentences for somebody who sees it for the first time.
    """

    better: Literal["higher", "lower", "reference"] = "higher"
    meaning: str = ""

    @property
    def heading(self) -> str:
        """The title with an arrow that says which way is better."""
        return f"{self.title} {({'higher': '↑', 'lower': '↓', 'reference': '→ 1'})[self.better]}"


_METRICS = (
    Metric(
        "frechet",
        "Frechet distance",
        1,
        better="lower",
        meaning="How far the clips as a whole lie from {distances_to}, in mean and spread of what {encoder} sees. "
        "Real clips do not reach 0 either: read it beside their row, the floor.",
    ),
    Metric(
        "kernel",
        "kernel distance x 1000",
        0,
        better="lower",
        meaning="The same question asked with a polynomial kernel (KID), without a bias by the number of clips: around "
        "0 for two sets of one kind.",
    ),
    Metric(
        "diversity",
        "diversity, share",
        better="reference",
        meaning="How much the samples of one prompt differ from each other, as a share of {reference}'s. Below 1, the "
        "model makes more of the same.",
    ),
    Metric(
        "flow",
        "motion, share",
        better="reference",
        meaning="Mean length of the optical flow, as a share of {reference}'s. Below 1, things move more slowly.",
    ),
    Metric(
        "sharpness",
        "sharpness, share",
        better="reference",
        meaning="Deviation of the Laplacian of the frames, as a share of {reference}'s. Below 1, pictures are softer.",
    ),
    Metric(
        "flicker",
        "steadiness",
        3,
        better="higher",
        meaning="1 minus the mean change of a pixel from frame to frame (VBench's temporal flickering). It falls with "
        "motion too: read it beside the motion.",
    ),
    Metric(
        "consistency",
        "subject consistency",
        3,
        better="higher",
        meaning="How similar each frame is to the one before and to the first (VBench's formula, features of "
        "{frame_encoder}). It falls with motion too.",
    ),
    Metric(
        "transformer_seconds",
        "transformer, s a clip",
        3,
        better="lower",
        meaning="Seconds inside the transformer and its upsampler, a clip's share of a batch. Median; rows took turns "
        "in one process.",
    ),
    Metric("total_seconds", "all, s a clip", 3, better="lower", meaning="Seconds of the whole call."),
    Metric(
        "transformer_tflops",
        "transformer, TFLOPs a clip",
        4,
        better="lower",
        meaning="Operations of the transformer and its upsampler in 10^12, counted while they ran; a multiplication "
        "and an addition count as two.",
    ),
)


def metrics_of(results: Results) -> list[Metric]:
    """The metrics that some row has, in the order of the table."""
    there = {name for row in results.rows for name in row.figures}
    adherence = sorted(name for name in there if name.startswith(_ADHERENCE))
    words = {key: str(results.about.get(key)) for key in ("distances_to", "encoder", "frame_encoder")} | {
        "reference": next(row.title for row in results.rows if row.key == results.reference)
    }
    read = [
        Metric(
            name,
            f"{attribute} right",
            better="higher",
            meaning=f"Share of clips in which a judge, trained on real clips alone, reads the {attribute} that the "
            "prompt asked for.",
        )
        for name in adherence
        for attribute in [name.removeprefix(_ADHERENCE)]
    ]
    return [_filled(metric, words) for metric in (*read, *_METRICS) if metric.key in there]


def _filled(metric: Metric, words: Mapping[str, str]) -> Metric:
    return Metric(
        metric.key,
        metric.title,
        metric.digits,
        metric.interval,
        better=metric.better,
        meaning=metric.meaning.format(**words),
    )


def results_table(results: Results) -> str:
    """The figures as a Markdown table."""
    columns = [Column(m.key, m.heading, m.digits, m.interval) for m in metrics_of(results)]
    return markdown_table(columns, [(row.title, row.figures) for row in results.rows])
