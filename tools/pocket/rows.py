"""Held-out prompts of the pocket world, and real clips composed for them."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import PositiveInt

from swd_video.core.grid import PixelSize
from swd_video.evaluation.config import ClipSource
from tools.pocket import corpus
from tools.pocket.corpus import ClipSpec, compose_clip, corpus_specs, fetch


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


class ComposedClips(ClipSource):
    """Composed clips, which an evaluation's config may name in the place of a manifest's."""

    kind: str = "tools.pocket.rows:ComposedClips"
    split: Literal["train", "heldout", "choose", "final"]
    seed: int
    count: int
    samples_per_prompt: PositiveInt | None = None
    """Each prompt so often; null composes the first `count` of the split."""

    def find(self) -> Sequence[ClipSpec]:
        """What each clip shows; the animations are downloaded where they are not at hand."""
        fetch(corpus.EMOJI_FOLDER)
        if self.samples_per_prompt is None:
            return corpus_specs(self.split, self.seed, self.count)
        return evaluation_specs(self.split, self.seed, self.count, self.samples_per_prompt)

    def frames(self, clip: ClipSpec, size: PixelSize, fps: float) -> np.ndarray:
        """At the corpus's own rate."""
        return compose_clip(clip, size)
