"""What clips are shown through: the same pixels part by part, a decoder in the VAE's place, and too little memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload_with_hook
from torch import Tensor

from swd_video.core.decoder import StreamingDecoder
from swd_video.core.grid import LatentSize
from swd_video.models.base import VideoModel
from swd_video.models.cogvideox import CogVideoXModel
from swd_video.models.decoding import _in_tiles, _on_cpu, decode_stream, decode_whole, shown_through
from swd_video.models.fingerprint import fingerprint_vae
from swd_video.models.loading import LoadOptions, load_teacher
from swd_video.models.ltx import LtxModel
from swd_video.models.wan import WanModel

from ..forked import run_forked

MakeDecoder = Callable[..., StreamingDecoder]


_STEP = 2 / 255
"""Of pixels in [-1, 1], in eight bits."""


def _latents(model: VideoModel, grid: LatentSize, batch: int = 1) -> Tensor:
    shape = (batch, model.spec.latent_channels, *grid.as_tuple())
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def test_parts_are_the_clip_bit_for_bit(model: VideoModel, grid: LatentSize) -> None:
    latents = _latents(model, grid)
    with torch.no_grad():
        whole = model.decode(latents)
    assert torch.equal(decode_whole(model, latents), whole)


def test_wan_decodes_a_latent_frame_at_a_time(tiny_pipe: Callable[[str], Any]) -> None:
    model = WanModel(tiny_pipe("wan"))
    latents = _latents(model, LatentSize(3, 4, 4), batch=2)
    assert [part.shape[2] for part in decode_stream(model, latents)] == [1, 4, 4]
    # Two clips by turns do not see each other.
    pairs = zip(model.decode_in_parts(latents[:1]), model.decode_in_parts(latents[1:]), strict=True)
    turns = torch.cat([torch.cat(pair) for pair in pairs], dim=2)
    torch.testing.assert_close(turns, decode_whole(model, latents))


@pytest.mark.parametrize(("frames", "parts"), [(1, [1]), (2, [5]), (4, [5, 8]), (5, [9, 8])])
def test_cogvideox_decodes_pairs(tiny_pipe: Callable[[str], Any], frames: int, parts: list[int]) -> None:
    model = CogVideoXModel(tiny_pipe("cogvideox"))
    latents = _latents(model, LatentSize(frames + model.spec.compression.repeated_frames, 4, 4))
    with torch.no_grad():
        whole = model.decode(latents)
    streamed = list(decode_stream(model, latents))
    assert [part.shape[2] for part in streamed] == parts
    assert torch.equal(torch.cat(streamed, dim=2), whole)


@pytest.mark.parametrize("option", ["vae_tiling", "vae_slicing"])
def test_what_diffusers_saves_memory_with_stays_its_own(tiny_wan_folder: Path, option: str) -> None:
    model = load_teacher(tiny_wan_folder, options=LoadOptions(**{option: True}))
    latents = _latents(model, LatentSize(2, 4, 40), batch=2)
    with torch.no_grad():
        assert torch.equal(decode_whole(model, latents), model.decode(latents))


def test_tiles_are_the_clip_but_for_what_they_do_not_see(tiny_decoder: MakeDecoder) -> None:
    latents = torch.randn(2, 4, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    decoder = tiny_decoder()
    tiled = torch.cat(list(_in_tiles(decoder.stream, latents, 12, 8)), dim=2)
    whole = torch.cat(list(decoder.stream(latents)), dim=2)
    assert tiled.shape == whole.shape
    torch.testing.assert_close(tiled[..., :32, :32], whole[..., :32, :32], msg="far from every border")
    assert (tiled - whole).abs().mean() < 0.05 * whole.std()


def test_a_decoder_takes_the_place_of_the_vae_but_not_in_losses(
    tiny_wan_folder: Path, tiny_decoder: MakeDecoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)  # of a processor without bfloat16
    file = tmp_path / "decoder.safetensors"
    tiny_decoder(vae=fingerprint_vae(tiny_wan_folder)).save(file)
    stock = load_teacher(tiny_wan_folder)
    model = load_teacher(tiny_wan_folder, options=LoadOptions(decoder=file))
    latents = _latents(model, LatentSize(3, 4, 4))
    assert shown_through(stock) is stock.vae
    assert shown_through(model) is model.decoder
    assert torch.equal(
        decode_whole(model, latents), torch.cat(list(StreamingDecoder.load(file).stream(latents)), dim=2)
    )
    with torch.no_grad():
        assert torch.equal(model.decode(latents), stock.decode(latents))


@pytest.mark.parametrize(
    ("can", "is_exact"), [({}, True), ({"avx512_bf16": True}, False), ({"amx_bf16": True}, False)]
)
def test_a_decoder_computes_in_bfloat16_where_a_processor_multiplies_in_it(
    tiny_wan_folder: Path,
    tiny_decoder: MakeDecoder,
    monkeypatch: pytest.MonkeyPatch,
    can: dict[str, bool],
    is_exact: bool,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can)
    model = load_teacher(tiny_wan_folder)
    model.decoder = tiny_decoder()
    latents = _latents(model, LatentSize(3, 4, 4))
    expected = torch.cat(list(model.decoder.stream(latents)), dim=2)
    parts = list(decode_stream(model, latents))
    assert all(part.dtype == torch.float32 for part in parts)
    assert not torch.is_autocast_enabled("cpu")
    assert torch.equal(torch.cat(parts, dim=2), expected) == is_exact
    torch.testing.assert_close(torch.cat(parts, dim=2), expected, atol=_STEP, rtol=0)
    # What is in half precision already stays what it is.
    model.decoder.to(torch.bfloat16)
    assert decode_whole(model, latents).dtype == torch.bfloat16


def test_repeated_first_frames_are_not_shown(
    tiny_pipe: Callable[[str], Any], tiny_decoder: MakeDecoder
) -> None:
    model = CogVideoXModel(tiny_pipe("cogvideox-1.5"))
    model.decoder = tiny_decoder(model.spec.latent_channels)
    latents = _latents(model, LatentSize(4, 4, 4))
    assert model.spec.compression.repeated_frames == 1
    assert (
        decode_whole(model, latents).shape[2] == model.spec.compression.pixel_size(LatentSize(4, 4, 4)).frames
    )


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"channels": 6}, "channels of latents: got 6, expected the 4"),
        ({"vae": "another"}, "VAE with fingerprint another, that of "),
    ],
)
def test_a_decoder_of_other_latents_is_refused(
    tiny_wan_folder: Path, tiny_decoder: MakeDecoder, tmp_path: Path, made: dict[str, Any], said: str
) -> None:
    tiny_decoder(**made).save(tmp_path / "decoder.safetensors")
    with pytest.raises(ValueError, match=said):
        load_teacher(tiny_wan_folder, options=LoadOptions(decoder=tmp_path / "decoder.safetensors"))


_TOO_LITTLE = """
import resource, sys, torch
from swd_video.models.loading import load_teacher
from swd_video.models.decoding import decode_whole

model = load_teacher(sys.argv[1])
latents = torch.randn(1, 4, 2, 4, 384, generator=torch.Generator().manual_seed(0))
before = decode_whole(model, latents)
for part in latents.split(32, dim=4):
    decode_whole(model, part)
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 300 * 2**20,) * 2)
print(float((decode_whole(model, latents) - before).abs().mean() / before.std()))
"""


def test_too_little_memory_is_said_and_the_clip_is_decoded_in_tiles(tiny_wan_folder: Path) -> None:
    run = run_forked(_TOO_LITTLE, tiny_wan_folder)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "warning: cpu has too little memory to decode; decoding in tiles" in run.stderr
    assert 0 < float(run.stdout) < 0.1


@torch.no_grad()
def test_slices_are_the_clips(model: VideoModel, grid: LatentSize) -> None:
    latents = _latents(model, grid, batch=3)
    single = torch.cat([model.decode(one) for one in latents.split(1)])
    model.vae.enable_slicing()
    torch.testing.assert_close(decode_whole(model, latents), single)


def test_in_16_bits_ltx_latents_are_rounded_once(tiny_pipe: Callable[[str], Any]) -> None:
    model = LtxModel(tiny_pipe("ltx"))
    vae, latents = model.vae.to(torch.bfloat16), _latents(model, LatentSize(3, 4, 6))
    exact = model.pipe._denormalize_latents(latents, vae.latents_mean, vae.latents_std)
    assert torch.equal(model._as_vae_takes(latents), exact.bfloat16())


@pytest.mark.parametrize("offload", [False, True])
def test_what_the_cpu_decoded_is_as_it_was(tiny_pipe: Callable[[str], Any], offload: bool) -> None:
    vae = tiny_pipe("wan").vae.to(torch.bfloat16)
    if offload:
        cpu_offload_with_hook(vae, "cpu")
    hook = getattr(vae, "_hf_hook", None)
    with _on_cpu(vae):
        assert {weight.dtype for weight in vae.parameters()} == {torch.float32}
        assert not hasattr(vae, "_hf_hook")
    assert {weight.dtype for weight in vae.parameters()} == {torch.bfloat16}
    assert getattr(vae, "_hf_hook", None) is hook
