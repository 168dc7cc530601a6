"""The network that takes clean latents from grid to grid."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from swd_video.core.grid import LatentSize
from swd_video.core.resize import resize_latents
from swd_video.core.schedule import ScaleSchedule, Stage
from swd_video.core.upsampler import LatentUpsampler, growing_pairs

SMALL, LARGE = LatentSize(2, 4, 6), LatentSize(5, 6, 8)


def _latents(*grid: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 4, *grid, generator=torch.Generator().manual_seed(seed))


def _trained(depth: int = 1) -> LatentUpsampler:
    """One whose last layer no longer adds nothing."""
    upsampler = LatentUpsampler(4, 8, depth, [(SMALL, LARGE)], "abc")
    with torch.no_grad():
        upsampler.out.weight.normal_(generator=torch.Generator().manual_seed(1))
    return upsampler


def test_untrained_it_resizes_bicubically() -> None:
    latents = _latents(*SMALL.as_tuple())
    got = LatentUpsampler(4, 8, 1)(latents, LARGE)
    torch.testing.assert_close(got, resize_latents(latents, LARGE), rtol=0, atol=0)


def test_latents_of_the_size_asked_for_come_back_as_they_are() -> None:
    latents = _latents(*SMALL.as_tuple())
    assert _trained()(latents, SMALL) is latents


def test_what_it_adds_depends_on_where_a_cell_lies() -> None:
    # The same everywhere: all that differs between cells is where they lie. Two target cells of a row of six lie
    # alike in a row of four when they are three apart.
    latents = torch.ones(1, 4, 2, 8, 8)
    added = _trained(depth=0)(latents, LatentSize(2, 12, 12)) - 1
    inner = added[0, :, 1, 3:9, 3:9]
    assert not torch.allclose(inner[:, 0, 0], inner[:, 0, 1], atol=1e-3)
    torch.testing.assert_close(inner[:, :3, :3], inner[:, 3:, 3:], rtol=0, atol=1e-5)
    assert not torch.allclose(added[0, :, 0], added[0, :, 1], atol=1e-3)  # the first frame holds one picture


def test_it_is_float32_inside_whatever_it_is_given() -> None:
    latents = _latents(*SMALL.as_tuple())
    upsampler = _trained()
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = upsampler(latents, LARGE)
    torch.testing.assert_close(under_autocast, upsampler(latents, LARGE), rtol=0, atol=0)
    half = upsampler(latents.bfloat16(), LARGE)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half, upsampler(latents.bfloat16().float(), LARGE).bfloat16())


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    upsampler, latents = _trained(), _latents(*SMALL.as_tuple())
    upsampler.save(tmp_path / "new" / "upsampler.safetensors")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["upsampler.safetensors"]
    loaded = LatentUpsampler.load(tmp_path / "new" / "upsampler.safetensors")
    assert loaded.pairs == ((SMALL, LARGE),) and loaded.encoders == "abc"
    assert not any(weight.requires_grad for weight in loaded.parameters())
    torch.testing.assert_close(loaded(latents, LARGE), upsampler(latents, LARGE), rtol=0, atol=0)


@pytest.mark.parametrize("content", [None, b"", b"no safetensors file"])
def test_a_file_that_is_none_is_refused_in_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "broken.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.safetensors: cannot be read as an upsampler: ") as caught:
        LatentUpsampler.load(path)
    assert "\n" not in str(caught.value)


def test_so_is_one_whose_own_words_are_broken(tmp_path: Path) -> None:
    path = tmp_path / "broken.safetensors"
    for words in ("no json", '{"channels": 4, "pairs": [["2x4", "5x6x8"]]}'):
        save_file({"weight": torch.zeros(1)}, path, {"upsampler": words})
        with pytest.raises(ValueError, match=r"broken\.safetensors: cannot be read as an upsampler: "):
            LatentUpsampler.load(path)


def test_only_growing_pairs_of_stages_count_and_each_once() -> None:
    grids = [(1.0, SMALL), (0.9, SMALL), (0.8, LARGE), (0.7, LARGE)]
    schedule = ScaleSchedule(tuple(Stage(sigma, grid) for sigma, grid in grids))
    assert growing_pairs(schedule) == ((SMALL, LARGE),)
    assert growing_pairs(ScaleSchedule(schedule.stages[:2])) == ()
