"""After how many stages a draft tells the clip: when it is nearest to its own finished clip, of all of its prompt."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from swd_video.student.pipeline import ScaleWisePipeline

PROMPTS = (
    "a tiger moving left on a green meadow",
    "a whale floating up at sunset",
    "a penguin moving right in the snow",
    "a pumpkin coming closer at night",
)
"""Of words that the pocket models know, too."""

ENOUGH = 0.9
"""Share of drafts that must be nearest to their own clips."""

_LOOKED_AT = (5, 16, 16)
"""Frames, height and width that clips are averaged to: what a draft shows, less what later stages add."""


def measure_drafts(
    pipe: ScaleWisePipeline,
    prompts: Sequence[str],
    seeds: int,
    on_clip: Callable[[str, int], None],
) -> dict[str, Any]:
    """Make clips, and compare what each stage showed with all finished ones of the same prompt.

    The noise is of the seeds 0, 1, 2, ... for each prompt.

    Returns:
        `nearest`: for every stage the share of drafts whose own clip is the nearest; `own` and `other`: mean cosine to
        the own clip and to the nearest other one; `chance`: the share that guessing would reach; `draft_stages`: the
        first stage after which `nearest` is at least `ENOUGH`.
    """
    stages = len(pipe.scheduler.schedule)
    likeness: list[list[Float[Tensor, "seeds seeds"]]] = [[] for _ in range(stages)]
    for prompt in prompts:
        seen: list[list[Tensor]] = [[] for _ in range(stages)]
        for seed in range(seeds):
            generator = torch.Generator().manual_seed(seed)
            output = pipe(prompt, generator=generator, output_type="latent", preview=True)
            assert output.previews is not None
            for views, latents in zip(seen, output.previews, strict=True):
                views.append(_averaged(pipe.decode_latents(latents, "pt")))
            on_clip(prompt, seed)
        finished = torch.cat(seen[-1])
        for found, views in zip(likeness, seen, strict=True):
            found.append(compare(torch.cat(views), finished))
    tables = [torch.stack(found) for found in likeness]
    own = [table.diagonal(dim1=1, dim2=2) for table in tables]
    others = [table.masked_fill(torch.eye(seeds, dtype=torch.bool), -2).amax(dim=2) for table in tables]
    nearest = [float((mine > most).float().mean()) for mine, most in zip(own, others, strict=True)]
    return {
        "draft_stages": next(
            index + 1 for index, share in enumerate(nearest) if share >= ENOUGH or index == stages - 1
        ),
        "nearest": nearest,
        "chance": 1 / seeds,
        "own": [float(mine.mean()) for mine in own],
        "other": [float(most.mean()) for most in others],
        "stages": stages,
        "prompts": len(prompts),
        "seeds": seeds,
    }


def compare(
    drafts: Float[Tensor, "seeds values"], finished: Float[Tensor, "seeds values"]
) -> Float[Tensor, "seeds seeds"]:
    """Cosine of each draft to each finished clip, both less what all seeds of the prompt have in common."""
    centred = [functional.normalize(views - views.mean(dim=0), dim=1) for views in (drafts, finished)]
    return centred[0] @ centred[1].T


def _averaged(video: Float[Tensor, "1 frames 3 height width"]) -> Float[Tensor, "1 values"]:
    small = functional.adaptive_avg_pool3d(video.float().transpose(1, 2), _LOOKED_AT)
    return small.flatten(1).cpu()
