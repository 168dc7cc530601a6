"""Which tokens make a set: what an MMD can see follows from it.

A loss that compares sets is blind to the order inside a set. Tokens come in the order frames, height, width, as
video transformers keep them.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def frame_sets(
    tokens: Float[Tensor, "batch tokens channels"], frames: int
) -> Float[Tensor, "sets frame_tokens channels"]:
    """One token set for each frame of each clip, instead of one for each clip.

    A set of a whole clip knows which things are seen, but not when; sets of single frames also know where in time.

    Args:
        tokens: of whole clips.
        frames: token frames of a clip (latent frames over the patch's length in time).
    """
    return rearrange(tokens, "b (f p) c -> (b f) p c", f=frames)


def tube_sets(
    tokens: Float[Tensor, "batch tokens channels"], grid: tuple[int, int, int], tubes: tuple[int, int, int]
) -> Float[Tensor, "sets tube_tokens channels"]:
    """One token set for each space-time tube: these sets also know where in the picture.

    Every axis of `n` tokens is cut into stretches of `ceil(n / tubes)` tokens, spread evenly from end to end; where
    they do not fit exactly they overlap, so that all sets are of one size.

    Args:
        tokens: of whole clips.
        grid: tokens of a clip along frames, height and width.
        tubes: how many along each axis, at most as many as tokens.
    """
    frames, height, width = grid
    cut = rearrange(tokens, "b (f h w) c -> b f h w c", f=frames, h=height, w=width)
    for axis, parts in enumerate(tubes):
        # The new axis of stretches goes before the axes that are left.
        index = _stretches(grid[axis], parts, tokens.device)
        cut = cut.index_select(1 + 2 * axis, index.flatten()).unflatten(1 + 2 * axis, index.shape)
    return rearrange(cut, "b tf f th h tw w c -> (b tf th tw) (f h w) c")


def motion_sets(
    tokens: Float[Tensor, "batch tokens channels"], frames: int
) -> Float[Tensor, "sets frame_tokens channels"]:
    """Differences between consecutive frames, place by place: one set for each pair of frames.

    What stands still is zero here, and slow motion is a narrower cloud than fast motion.

    Args:
        tokens: of whole clips.
        frames: token frames of a clip, at least 2.
    """
    assert frames > 1, "motion needs two frames"
    dtype = torch.promote_types(tokens.dtype, torch.float32)
    differences = rearrange(tokens.to(dtype), "b (f p) c -> b f p c", f=frames).diff(dim=1)
    return rearrange(differences, "b f p c -> (b f) p c")


def joined_sets(
    sets: Float[Tensor, "sets tokens channels"], group: int, sets_per_clip: int
) -> Float[Tensor, "joined joined_tokens channels"]:
    """Join the sets of the clips of one prompt: the loss then compares many samples with many data clips.

    No longer does each clip have to match its own target, only all of a prompt's clips together theirs.

    Args:
        sets: in the order clips, sets of a clip; each `group` consecutive clips have one prompt.
        group: clips to a prompt.
        sets_per_clip: how many; the first sets of all clips are joined, then the second ones, and so on.
    """
    return rearrange(sets, "(g k s) n c -> (g s) (k n) c", k=group, s=sets_per_clip)


def clip_points(
    sets: Float[Tensor, "sets tokens channels"], group: int, sets_per_clip: int
) -> Float[Tensor, "joined group channels"]:
    """Like `joined_sets`, but a clip's set counts as one point, its mean token.

    A kernel over these few points compares how the clips of a prompt differ from each other: diversity.

    Args:
        sets: in the order clips, sets of a clip; each `group` consecutive clips have one prompt.
        group: clips to a prompt.
        sets_per_clip: how many.
    """
    dtype = torch.promote_types(sets.dtype, torch.float32)
    return joined_sets(sets.to(dtype).mean(dim=1, keepdim=True), group, sets_per_clip)


def _stretches(count: int, parts: int, device: torch.device) -> Tensor:
    length = -(-count // parts)
    starts = [(count - length) * part // max(parts - 1, 1) for part in range(parts)]
    return torch.tensor(starts, device=device)[:, None] + torch.arange(length, device=device)
