"""Curricula of the pocket teacher: which grids it learns when, and how many clips of each are in a step."""

from collections.abc import Sequence
from dataclasses import dataclass

from swd_video.core.grid import LatentSize


@dataclass(frozen=True)
class Phase:
    """Part of the training: from which step, and for each grid its share of the steps and its batch size."""

    until: float
    grids: dict[LatentSize, tuple[float, int]]


FULL = LatentSize(5, 12, 12)
SMALL = (LatentSize(2, 6, 6), LatentSize(3, 6, 6), LatentSize(3, 8, 8), LatentSize(3, 10, 10))
_FIRST = ((0.10, 96), (0.20, 96), (0.35, 64), (0.20, 48))
_THEN = ((0.05, 96), (0.06, 96), (0.08, 64), (0.11, 48))
_MOSTLY_FULL = Phase(1.0, dict(zip(SMALL, _THEN, strict=True)) | {FULL: (0.70, 32)})
CURRICULA = {
    "small-first": (Phase(0.3, dict(zip(SMALL, _FIRST, strict=True)) | {FULL: (0.15, 32)}), _MOSTLY_FULL),
    "mostly-full": (_MOSTLY_FULL,),
    "full-only": (Phase(1.0, {FULL: (1.0, 32)}),),
    # The grids of configs/pocket/swd.yaml; small batches, so that a day of one processor holds many steps.
    "ladder": (
        Phase(1.0, {LatentSize(2, 4, 4): (0.06, 96), LatentSize(5, 8, 8): (0.19, 32), FULL: (0.75, 16)}),
    ),
    # The grids of configs/larger, for 33 frames of 128x128 pixels.
    "larger": (
        Phase(
            1.0,
            {
                LatentSize(2, 4, 4): (0.05, 256),
                LatentSize(5, 8, 8): (0.10, 128),
                LatentSize(9, 8, 8): (0.10, 128),
                LatentSize(9, 10, 10): (0.10, 96),
                LatentSize(9, 16, 16): (0.65, 64),
            },
        ),
    ),
}


def parse_phase(grids: Sequence[str]) -> Phase:
    """A whole training on grids such as "9x16x16:0.65:64": latents, share of the steps, clips in a batch.

    Raises:
        ValueError: if one is none, or the shares do not add up to 1.
    """
    found: dict[LatentSize, tuple[float, int]] = {}
    for text in grids:
        grid, _, rest = text.partition(":")
        share, _, clips = rest.partition(":")
        try:
            found[LatentSize.parse(grid)] = float(share), int(clips)
        except ValueError:
            raise ValueError(
                f"--grids: got {text!r}, expected GRID:SHARE:CLIPS as 9x16x16:0.65:64."
            ) from None
    total = sum(share for share, _ in found.values())
    if abs(total - 1) > 1e-6:
        raise ValueError(f"--grids: the shares add up to {total:.6g}, expected 1.")
    return Phase(1.0, found)


def phase_of(step: int, steps: int, curriculum: str = "small-first") -> Phase:
    """The phase that a step belongs to."""
    return next(phase for phase in CURRICULA[curriculum] if step < phase.until * steps)
