"""What the pocket table judges: held-out prompts, and real clips composed for them."""

from collections.abc import Sequence

import numpy as np

from swd_video.core.grid import PixelSize
from swd_video.evaluation.rows import Row
from tools.pocket.corpus import ClipSpec, compose_clip, corpus_specs, frame_rate

MARGINS = {
    "adherence": 0.05,
    "kernel": 0.1,
    "diversity": 0.05,
    "spread": 0.05,
    "flow": 0.05,
    "sharpness": 0.05,
    "flicker": 0.005,
    "consistency": 0.01,
}
"""Differences that do not matter here, chosen before the table was made; see `Results`."""


def evaluation_specs(split: str, seed: int, count: int, samples_per_prompt: int) -> list[ClipSpec]:
    """Clips to judge: prompts of a split, each `samples_per_prompt` times with different seeds."""
    prompts = corpus_specs(split, seed, -(-count // samples_per_prompt))
    seeds = np.random.default_rng([seed, 11]).integers(0, 2**31, size=(len(prompts), samples_per_prompt))
    specs = [
        ClipSpec(prompt.subject, prompt.motion, prompt.background, int(seed))
        for prompt, row in zip(prompts, seeds, strict=True)
        for seed in row
    ]
    return specs[:count]


def composed_row(size: PixelSize) -> Row:
    """Composed clips of the same prompts: what every other row is compared with."""

    def make(specs: Sequence[ClipSpec], seeds: Sequence[int]) -> np.ndarray:
        return np.stack([compose_clip(spec, size) for spec in specs])

    return Row("real", "real clips", make, {"kind": "real", "size": str(size)}, fps=frame_rate(size))
