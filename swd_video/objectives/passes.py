"""Which networks run, on how many clips, and how far gradients go back: what a step costs is counted from this."""

from dataclasses import dataclass
from typing import Literal

from swd_video.config import Section
from swd_video.core.grid import LatentSize
from swd_video.core.local_attention import LocalAttention


@dataclass(frozen=True)
class Pass:
    """One run of a network over a step's clips.

    Attributes:
        network: "student", "teacher", "weaker" (other weights of the teacher's), "critic", "vae_decoder", a
            discriminator's "heads", or the section of an encoder of pixels or of a network that a student carries.
        grid: of the latents that it is given; for encoders of pixels those of the window that they are shown.
        clips: how many clips, for each clip of the stage; may be a share.
        gradient: "weights" trains the network; "input" leads back to the clips that it is given, and on the way to
            weights that train, which are not changed by it.
        depth: blocks that run. None is all of them; in an encoder of pixels, all to its middle one.
        left_out: blocks of a transformer that hand on what they are given.
        attention: the windows in which a student's tokens attend to each other; None: each to all.
        to: grid that the network makes, where it is not told by the first.
    """

    network: str | Section
    grid: LatentSize
    clips: float | int = 1
    gradient: Literal["none", "input", "weights"] = "none"
    depth: int | None = None
    left_out: tuple[int, ...] = ()
    attention: LocalAttention | None = None
    to: LatentSize | None = None
