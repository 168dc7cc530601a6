"""What a clip of every row costs: seconds, the rows taking turns in one process, and counted operations."""

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from swd_video.core.interval import Estimate
from swd_video.cost.speed import Timing, by_stage, count_tflops, median_seconds, time_interleaved
from swd_video.evaluation.rows import Request, Row

Figures = dict[str, Estimate | float]


def cost_figures(
    rows: Sequence[Row], requests: Sequence[Request], *, rounds: int, seed: int
) -> dict[str, Figures]:
    """Seconds and TFLOPs a clip for every row that has networks; the transformer's hold the way between grids.

    Operations are counted on the very calls that warm each row up, so they include guidance.

    All requests are made at once in each run; figures are divided by their number.
    """
    timed = {row.key: row.sampler(requests, seed) for row in rows if row.modules}
    clips = len(requests)

    def tell(key: str, timing: Timing) -> None:
        print(f"timing {key}: transformer {timing.parts['transformer']:.3f} s", file=sys.stderr)

    tflops = {key: count_tflops(sampler.run, sampler.modules) for key, sampler in timed.items()}
    timings = time_interleaved(timed, rounds=rounds, warmup=0, on_run=tell)
    figures: dict[str, Figures] = {}
    for key, sampler in timed.items():
        figures[key] = {
            "total_seconds": median_seconds(timings[key]).scaled(1 / clips),
            "transformer_calls": float(timings[key][0].calls["transformer"]),
            **{
                f"{part}_seconds": median_seconds(timings[key], part).scaled(1 / clips)
                for part in sampler.modules
            },
            **{f"{part}_tflops": value / clips for part, value in by_stage(tflops[key]).items()},
        }
    return figures


def figures_from_json(stored: Mapping[str, Mapping[str, object]]) -> dict[str, Figures]:
    """What `write_figures` made of figures, as figures again; an end that it wrote as null is open."""
    ends: dict[str, Any] = {"low": -math.inf, "high": math.inf}
    return {
        key: {
            name: Estimate(**{part: ends[part] if it is None else it for part, it in value.items()})
            if isinstance(value, dict)
            else float(str(value))
            for name, value in figures.items()
        }
        for key, figures in stored.items()
    }
