import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from swd_video.core.decoder import DecoderLayout, StreamingDecoder
from swd_video.core.grid import Compression, LatentSize

LAYOUT = DecoderLayout.for_compression(Compression(), 4, (16, 8), (1, 1), (2, 4))


def make_decoder(layout: DecoderLayout = LAYOUT) -> StreamingDecoder:
    torch.manual_seed(0)
    return StreamingDecoder(layout, "vae", {"steps": 3}).eval()


def make_latents(frames: int = 5, batch: int = 2) -> Tensor:
    return torch.randn(batch, 4, frames, 6, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("trims_late", [False, True])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_clip_has_the_size_that_the_vae_would_give_it(frames: int, trims_late: bool) -> None:
    layout = DecoderLayout(4, (16, 8), (1, 1), ((2, 2),), (2, 4, 4), trims_late)
    pixels = make_decoder(layout)(make_latents(frames))
    assert pixels.shape[2:] == Compression().pixel_size(LatentSize(frames, 6, 8)).as_tuple()


@pytest.mark.parametrize("trims_late", [False, True])
def test_pieces_joined_are_the_clip(trims_late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swd_video.core.decoder._CELLS_AT_ONCE", 2 * 2 * 6 * 8)
    decoder = make_decoder(DecoderLayout(4, (16, 8), (1, 1), ((2, 2),), (2, 4, 4), trims_late))
    with torch.no_grad():
        decoder.out.weight.mul_(20)  # so that some pixels have to be cut to the range
        whole = decoder(make_latents())
    pieces = list(decoder.stream(make_latents()))
    assert [piece.shape[2] for piece in pieces] == [5, 8, 4]
    assert whole.abs().max() > 1
    torch.testing.assert_close(torch.cat(pieces, dim=2), whole.clamp(-1, 1))


def test_no_frame_sees_a_later_one() -> None:
    decoder, latents = make_decoder(), make_latents()
    changed = latents.clone()
    changed[:, :, 3:] += 1
    with torch.no_grad():
        before, after = decoder(latents), decoder(changed)
    torch.testing.assert_close(before[:, :, :9], after[:, :, :9])
    assert (before[:, :, 9:] - after[:, :, 9:]).abs().amax(dim=(0, 1, 3, 4)).min() > 0


@pytest.mark.parametrize(("upscale", "widths"), [(1, (16, 8)), (2, (16, 8, 8))])
def test_it_undoes_the_compression(upscale: int, widths: tuple[int, ...]) -> None:
    blocks = (1,) * len(widths)
    layout = DecoderLayout.for_compression(Compression(), 4, widths, blocks, (2, 4), upscale)
    assert (layout.temporal, layout.spatial) == (4, 8 * upscale)
    assert make_decoder(layout)(make_latents(2)).shape[2:] == (5, 48 * upscale, 64 * upscale)


def test_a_layout_that_makes_another_number_of_pixels_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"patch: 1 frames of 4 pixels and 2 widths, .* make 2 frames of 8 pixels"
    ):
        DecoderLayout.for_compression(Compression(), 4, (16, 8), (1, 1), (1, 4))
    with pytest.raises(ValueError, match="2 widths, 1 blocks and 1 growths"):
        DecoderLayout(4, (16, 8), (1,), ((2, 2),), (2, 4, 4))


def test_a_file_gives_back_the_decoder(tmp_path: Path) -> None:
    decoder = make_decoder()
    decoder.save(tmp_path / "decoder.safetensors")
    again = StreamingDecoder.load(tmp_path / "decoder.safetensors")
    assert (again.layout, again.vae, again.made_of) == (LAYOUT, "vae", {"steps": 3})
    assert not any(weight.requires_grad for weight in again.parameters())
    with torch.no_grad():
        assert torch.equal(again(make_latents()), decoder(make_latents()))


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "decoder.safetensors"
    with pytest.raises(ValueError, match="cannot be read as a decoder"):
        StreamingDecoder.load(path)
    decoder = make_decoder()
    decoder.save(path)
    weights = {name: value.contiguous().clone() for name, value in decoder.state_dict().items()}
    weights["out.bias"][0] = float("nan")
    about = {"layout": vars(LAYOUT), "vae": "", "made_of": None}
    save_file(weights, path, {"decoder": json.dumps(about)})
    with pytest.raises(ValueError, match=r"out\.bias holds numbers that are not finite"):
        StreamingDecoder.load(path)
    del weights["out.bias"]
    save_file(weights, path, {"decoder": json.dumps(about)})
    with pytest.raises(ValueError, match=r"out\.bias"):
        StreamingDecoder.load(path)
