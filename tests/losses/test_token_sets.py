"""Token sets: what each knows of time, place and the other clips of a prompt."""

from collections.abc import Callable

import pytest
import torch
from einops import rearrange

from swd_video.losses.kernels import Rbf
from swd_video.losses.mmd import kernel_mmd, linear_mmd
from swd_video.losses.token_sets import clip_points, frame_sets, joined_sets, motion_sets, tube_sets

Randn = Callable[..., torch.Tensor]


def test_frame_sets_see_the_order_of_frames_that_clip_sets_do_not(randn: Randn) -> None:
    clip = randn(5, 2, 3, 4, 6)  # two clips of three frames of four tokens
    backwards = clip.flip(1)
    whole, reversed_whole = clip.flatten(1, 2), backwards.flatten(1, 2)
    assert linear_mmd(whole, reversed_whole).item() == pytest.approx(0.0, abs=1e-24)
    apart = linear_mmd(frame_sets(whole, 3), frame_sets(reversed_whole, 3)).item()
    means = clip.mean(dim=2)
    assert apart == pytest.approx((means - means.flip(1)).square().sum(-1).mean().item(), rel=1e-12)
    assert torch.equal(frame_sets(whole, 1), whole)


def test_tubes_cut_the_clip_into_boxes() -> None:
    grid = torch.arange(2 * 4 * 6).reshape(1, 2, 4, 6, 1).float()
    tubes = tube_sets(grid.flatten(1, 3), (2, 4, 6), (1, 2, 3))
    boxes = [grid[:, :, h : h + 2, w : w + 2].flatten(1, 3) for h in (0, 2) for w in (0, 2, 4)]
    assert torch.equal(tubes, torch.cat(boxes))
    assert torch.equal(tube_sets(grid.flatten(1, 3), (2, 4, 6), (1, 1, 1)), grid.flatten(1, 3))


@pytest.mark.parametrize("count, parts", [(3, 2), (5, 2), (5, 3), (7, 4), (4, 4), (6, 1)])
def test_tubes_that_do_not_fit_overlap_and_leave_no_token_out(count: int, parts: int) -> None:
    tubes = tube_sets(torch.arange(float(count))[None, :, None], (count, 1, 1), (parts, 1, 1))[..., 0]
    assert tubes.shape == (parts, -(-count // parts))
    assert set(tubes.flatten().tolist()) == set(range(count))
    assert tubes[0, 0] == 0 and tubes[-1, -1] == count - 1
    assert torch.equal(tubes[:, 1:] - tubes[:, :-1], torch.ones_like(tubes[:, 1:]))


def test_motion_is_what_changes_between_frames_and_nothing_else(randn: Randn) -> None:
    still = randn(0, 2, 1, 4, 6).expand(2, 3, 4, 6)
    steps = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)[None, :, None, None]
    moving = rearrange(still + steps, "b f p c -> b (f p) c")
    differences = motion_sets(moving, 3)
    assert differences.shape == (4, 4, 6)
    torch.testing.assert_close(differences[:, 0, 0], torch.tensor([1.0, 2.0, 1.0, 2.0], dtype=torch.float64))
    standing = rearrange(still, "b f p c -> b (f p) c")
    assert torch.equal(motion_sets(standing, 3), torch.zeros(4, 4, 6, dtype=torch.float64))


def test_motion_of_half_precision_tokens_is_taken_in_float32() -> None:
    tokens = torch.tensor([[[256.0], [257.0]]], dtype=torch.bfloat16)
    assert motion_sets(tokens, 2).dtype == torch.float32


def test_joined_sets_let_clips_change_places(randn: Randn) -> None:
    target = randn(1, 4, 6, 3)  # two prompts of two clips of two frames of three tokens
    swapped = target[[1, 0, 3, 2]]
    frames, swapped_frames = frame_sets(target, 2), frame_sets(swapped, 2)
    assert kernel_mmd(frames, swapped_frames, Rbf()).item() > 0.01
    joined, swapped_joined = (joined_sets(x, 2, 2) for x in (frames, swapped_frames))
    assert joined.shape == (4, 6, 3)
    assert kernel_mmd(joined, swapped_joined, Rbf()).item() == pytest.approx(0, abs=1e-12)
    # The first set holds the first frames of both clips of the first prompt, and nothing else.
    assert torch.equal(joined[0], torch.cat([target[0, :3], target[1, :3]]))
    other_prompt = joined_sets(frame_sets(target[[2, 3, 0, 1]], 2), 2, 2)
    assert kernel_mmd(joined, other_prompt, Rbf()).item() > 0.01


def test_points_of_clips_see_that_all_clips_of_a_prompt_look_alike(randn: Randn) -> None:
    target = randn(2, 8, 5, 3)  # two prompts of four clips
    mean = rearrange(target, "(g k) n c -> g k n c", k=4).mean(dim=(1, 2))
    # A collapsed student: every clip the same, with exactly the mean tokens of the prompt's clips.
    collapsed = mean.repeat_interleave(4, 0)[:, None].expand(8, 5, 3)
    points, collapsed_points = clip_points(target, 4, 1), clip_points(collapsed, 4, 1)
    assert points.shape == (2, 4, 3)
    assert linear_mmd(points, collapsed_points).item() == pytest.approx(0, abs=1e-24)
    assert kernel_mmd(points, collapsed_points, Rbf()).item() > 0.1


@pytest.mark.parametrize(
    "sets",
    [
        lambda tokens: motion_sets(tokens, 3),
        lambda tokens: motion_sets(tokens, 3).abs(),
        lambda tokens: tube_sets(
            tokens, (3, 2, 2), (2, 1, 2)
        ),  # tubes of two frames that share the middle one
        lambda tokens: joined_sets(frame_sets(tokens, 3), 2, 3),
        lambda tokens: clip_points(frame_sets(tokens, 3), 2, 3),
    ],
    ids=["motion", "change", "overlapping tubes", "joined frames", "points"],
)
def test_gradients_through_sets_pass_gradcheck(
    sets: Callable[[torch.Tensor], torch.Tensor], randn: Randn
) -> None:
    pred, target = randn(3, 2, 12, 2).requires_grad_(), randn(4, 2, 12, 2).requires_grad_()
    kernel = Rbf((1.0,), "absolute")
    assert torch.autograd.gradcheck(lambda x, y: kernel_mmd(sets(x), sets(y), kernel), (pred, target))
