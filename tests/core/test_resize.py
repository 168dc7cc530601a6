from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from swd_video.core.grid import LatentSize, PixelSize
from swd_video.core.resize import even_frame_indices, resize_latents, resize_pixels


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_the_same_size_gives_the_same_tensor() -> None:
    latents = _random(1, 2, 3, 4, 4)
    assert resize_latents(latents, LatentSize(3, 4, 4)) is latents


def test_space_alone_is_bicubic_for_every_frame() -> None:
    latents = _random(2, 3, 3, 4, 6)
    got = resize_latents(latents, LatentSize(3, 6, 10))
    for frame in range(3):
        expected = F.interpolate(latents[:, :, frame], size=(6, 10), mode="bicubic")
        assert torch.equal(got[:, :, frame], expected)


def test_time_alone_blends_neighbours_and_keeps_both_ends() -> None:
    latents = _random(1, 2, 3, 4, 4)
    got = resize_latents(latents, LatentSize(5, 4, 4))
    assert torch.equal(got[:, :, 0], latents[:, :, 0])
    assert torch.equal(got[:, :, -1], latents[:, :, -1])
    torch.testing.assert_close(got[:, :, 2], latents[:, :, 1])
    torch.testing.assert_close(got[:, :, 1], (latents[:, :, 0] + latents[:, :, 1]) / 2)


def test_a_steady_drift_stays_a_steady_drift() -> None:
    ramp = torch.linspace(-1, 1, 6).view(1, 1, 6, 1, 1).expand(1, 1, 6, 4, 4)
    got = resize_latents(ramp, LatentSize(11, 4, 4))
    torch.testing.assert_close(got[0, 0, :, 0, 0], torch.linspace(-1, 1, 11))


def test_copies_of_the_first_frame_are_no_time() -> None:
    drift = torch.arange(5.0).view(1, 1, 5, 1, 1).expand(1, 1, 5, 2, 2)
    copied = torch.cat([drift[:, :, :1], drift], dim=2)
    resized = resize_latents(copied, LatentSize(10, 2, 2), repeated_frames=1)
    assert resized[0, 0, :, 0, 0].tolist() == [0.0, *(index / 2 for index in range(9))]


def test_one_frame_is_held() -> None:
    latents = _random(1, 2, 1, 4, 4)
    got = resize_latents(latents, LatentSize(4, 4, 4))
    for frame in range(4):
        assert torch.equal(got[:, :, frame], latents[:, :, 0])


def test_half_precision_latents_keep_their_dtype() -> None:
    latents = _random(1, 2, 2, 4, 4)
    got = resize_latents(latents.bfloat16(), LatentSize(3, 8, 8))
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, resize_latents(latents.bfloat16().float(), LatentSize(3, 8, 8)).bfloat16())


@settings(max_examples=40)
@given(
    st.builds(LatentSize, st.integers(1, 5), st.integers(1, 8), st.integers(1, 8)),
    st.builds(LatentSize, st.integers(1, 7), st.integers(1, 10), st.integers(1, 10)),
)
def test_any_grid_leads_to_any_other_and_a_flat_clip_stays_flat(start: LatentSize, end: LatentSize) -> None:
    got = resize_latents(torch.full((1, 2, *start.as_tuple()), 0.75), end)
    assert got.shape == (1, 2, *end.as_tuple())
    torch.testing.assert_close(got, torch.full_like(got, 0.75))


def test_shrinking_latents_does_not_alias() -> None:
    checkers = torch.ones(1, 1, 1, 8, 8)
    checkers[..., ::2, 1::2] = checkers[..., 1::2, ::2] = -1
    assert resize_latents(checkers, LatentSize(1, 4, 4)).abs().max() < 0.2


@pytest.mark.parametrize(
    ("available", "wanted", "indices"),
    [(33, 17, list(range(0, 33, 2))), (33, 9, list(range(0, 33, 4))), (5, 5, [0, 1, 2, 3, 4]), (9, 1, [0])],
)
def test_frames_are_picked_evenly(available: int, wanted: int, indices: list[int]) -> None:
    assert even_frame_indices(available, wanted) == indices


@given(st.integers(2, 200), st.data())
def test_picked_frames_keep_both_ends_and_are_as_even_as_can_be(available: int, data: st.DataObject) -> None:
    wanted = data.draw(st.integers(2, available))
    indices = even_frame_indices(available, wanted)
    gaps = [b - a for a, b in pairwise(indices)]
    assert len(indices) == wanted and indices[0] == 0 and indices[-1] == available - 1
    assert min(gaps) >= 1 and max(gaps) - min(gaps) <= 1


def test_pixels_are_picked_in_time_and_smoothed_in_space() -> None:
    pixels = torch.rand(1, 3, 9, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    got = resize_pixels(pixels, PixelSize(5, 16, 16))
    assert torch.equal(got, pixels[:, :, ::2])
    small = resize_pixels(pixels, PixelSize(5, 8, 8))
    assert small.shape == (1, 3, 5, 8, 8)
    expected = F.interpolate(pixels[:, :, 4], size=(8, 8), mode="bicubic", antialias=True)
    torch.testing.assert_close(small[:, :, 2], expected.clamp(-1, 1))


def test_pixels_stay_in_range() -> None:
    edge = torch.full((1, 3, 1, 16, 16), -1.0)
    edge[..., 8:] = 1.0
    got = resize_pixels(edge, PixelSize(1, 32, 32))
    assert got.min() >= -1 and got.max() <= 1


def test_frames_are_not_invented() -> None:
    with pytest.raises(ValueError, match="cannot pick 9 frames from a clip of 5"):
        resize_pixels(torch.zeros(1, 3, 5, 8, 8), PixelSize(9, 8, 8))
