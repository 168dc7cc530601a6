"""Windows of attention: every token is in one, and those of a window are neighbours."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swd_video.core.grid import LatentSize
from swd_video.core.local_attention import LocalAttention, Windows

CPU = torch.device("cpu")
sizes = st.builds(LatentSize, *[st.integers(1, 9)] * 3)


def _windows(windows: Windows, grid: LatentSize) -> list[torch.Tensor]:
    """Coordinates of the tokens in each window."""
    division = windows.divide(grid, (1, 1, 1), CPU)
    places = torch.stack(torch.unravel_index(division.order, grid.as_tuple()), dim=-1)
    lengths = [tokens for count, tokens in division.groups for _ in range(count)]
    return list(places.split(lengths))


@given(size=sizes, grid=sizes, shifted=st.booleans())
def test_every_token_is_in_one_window_of_neighbours(
    size: LatentSize, grid: LatentSize, shifted: bool
) -> None:
    division = Windows(size, shifted).divide(grid, (1, 1, 1), CPU)
    assert torch.equal(division.order[division.back], torch.arange(len(division.order)))
    assert torch.equal(division.order.sort().values, torch.arange(len(division.order)))
    assert len({tokens for _, tokens in division.groups}) == len(division.groups)
    for window in _windows(Windows(size, shifted), grid):
        extent = window.max(dim=0).values - window.min(dim=0).values + 1
        assert extent.prod() == len(window)
        assert (extent <= torch.tensor(size.as_tuple())).all()


def test_edges_are_smaller_and_shifted_windows_begin_with_half_of_one() -> None:
    def lengths(shifted: bool) -> list[int]:
        return sorted(len(window) for window in _windows(Windows(LatentSize(4, 1, 1), shifted), grid))

    grid = LatentSize(9, 1, 1)
    assert lengths(False) == [1, 4, 4]
    assert lengths(True) == [2, 3, 4]
    # An axis that fits is not cut in two.
    grid = LatentSize(4, 1, 1)
    assert lengths(True) == [4]


def test_patches_are_not_torn() -> None:
    division = Windows(LatentSize(1, 4, 2)).divide(LatentSize(2, 4, 4), (1, 2, 2), CPU)
    assert division.groups == ((4, 2),)
    assert division.order.view(4, 2).tolist() == [[0, 2], [1, 3], [4, 6], [5, 7]]


@pytest.mark.parametrize(
    ("attention", "kinds"),
    [
        (LocalAttention(1, 2, 2), "psps psps"),
        (LocalAttention(1, 2, 2, shift=False), "pppp pppp"),
        (LocalAttention(1, 2, 2, global_every=4), "pspg spsg"),
        (LocalAttention(1, 2, 2, global_every=2), "pgsg pgsg"),
        (LocalAttention(1, 2, 2, global_every=1), "gggg gggg"),
    ],
)
def test_blocks_take_turns(attention: LocalAttention, kinds: str) -> None:
    named = {None: "g", Windows(LatentSize(1, 2, 2)): "p", Windows(LatentSize(1, 2, 2), True): "s"}
    assert "".join(named[attention(block)] for block in range(8)) == kinds.replace(" ", "")
