"""Files in the layout of TAEHV's, whose own code is no part of this repository: `tools/taehv_equality.py` runs it."""

from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from swd_video.core.decoder import DecoderLayout, StreamingDecoder
from swd_video.core.grid import LatentSize
from swd_video.models.base import VideoModel
from swd_video.models.published_decoders import load_decoder_file, read_published_decoder

# Of TAEHV's decoder: where in its sequence the blocks of a level stand, what makes more frames, and what comes after.
LEVELS = (((3, 4, 5), 7, 8), ((9, 10, 11), 13, 14), ((15, 16, 17), 19, 20))
WIDTHS = (8, 6, 4, 4)


def published_weights(channels: int, temporal: int = 4, spatial: int = 8) -> dict[str, Tensor]:
    """The names and shapes of a file of TAEHV's, but for the number of channels inside."""
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.0.weight": (WIDTHS[-1], 3 * (spatial // 8) ** 2, 3, 3),
        "decoder.1.weight": (WIDTHS[0], channels, 3, 3),
        "decoder.1.bias": (WIDTHS[0],),
        "decoder.22.weight": (3 * (spatial // 8) ** 2, WIDTHS[-1], 3, 3),
        "decoder.22.bias": (3 * (spatial // 8) ** 2,),
    }
    for level, (blocks, grow, after) in enumerate(LEVELS):
        width = WIDTHS[level]
        for block in blocks:
            for index, inputs in ((0, 2 * width), (2, width), (4, width)):
                shapes[f"decoder.{block}.conv.{index}.weight"] = (width, inputs, 3, 3)
                shapes[f"decoder.{block}.conv.{index}.bias"] = (width,)
        times = 2 if level > 0 or temporal == 8 else 1
        shapes[f"decoder.{grow}.conv.weight"] = (width * times, width, 1, 1)
        shapes[f"decoder.{after}.weight"] = (WIDTHS[level + 1], width, 3, 3)
    generator = torch.Generator().manual_seed(0)
    return {
        name: (
            torch.randn(shape, generator=generator) * (0.1 if len(shape) == 1 else prod(shape[1:]) ** -0.5)
        ).half()
        for name, shape in shapes.items()
    }


def decode_published(weights: dict[str, Tensor], latents: Tensor) -> Tensor:
    """Pixels in [0, 1] as those weights are meant, frame by frame: slowly, and in no way as the package does."""
    seen: dict[int, Tensor] = {}

    def conv(place: str, x: Tensor) -> Tensor:
        weight, bias = weights[f"decoder.{place}.weight"], weights.get(f"decoder.{place}.bias")
        padding = weight.shape[-1] // 2
        return functional.conv2d(x, weight.float(), None if bias is None else bias.float(), padding=padding)

    def frames_of(x: Tensor, level: int) -> Iterator[Tensor]:
        if level == len(LEVELS):
            patches = conv("22", x.relu())
            yield functional.pixel_shuffle(patches, int((patches.shape[1] // 3) ** 0.5))
            return
        blocks, grow, after = LEVELS[level]
        for block in blocks:
            both = torch.cat([x, seen.get(block, torch.zeros_like(x))], dim=1)
            seen[block] = x
            hidden = conv(f"{block}.conv.2", conv(f"{block}.conv.0", both).relu()).relu()
            x = (x + conv(f"{block}.conv.4", hidden)).relu()
        larger = functional.interpolate(x, scale_factor=2.0)
        for frame in conv(f"{grow}.conv", larger).split(x.shape[1], dim=1):
            yield from frames_of(conv(str(after), frame), level + 1)

    bounded = (latents / 3).tanh() * 3
    frames = [frame for x in bounded.unbind(2) for frame in frames_of(conv("1", x).relu(), 0)]
    surplus = len(frames) // latents.shape[2] - 1
    return torch.stack(frames[surplus:], dim=2).clamp(0, 1)


def write(path: Path, weights: Any) -> Path:
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path)
    return path


def weights_for(model: VideoModel) -> dict[str, Tensor]:
    compression = model.spec.compression
    return published_weights(model.spec.latent_channels, compression.temporal, compression.spatial)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_every_familys_latents_become_the_pixels_that_the_file_means(
    model: VideoModel, grid: LatentSize, suffix: str, tmp_path: Path
) -> None:
    weights = weights_for(model)
    decoder = load_decoder_file(write(tmp_path / f"tiny{suffix}", weights), model)
    shape = (2, model.spec.latent_channels, *grid.as_tuple())
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    # A copy of the first frame, which some families put before it, is no part of the clip.
    clip = latents[:, :, model.spec.compression.repeated_frames :]
    # CogVideoX's decoder takes latents as the VAE gives them, all others as transformers see them.
    taken = clip / model.vae.config.scaling_factor if model.family == "cogvideox" else clip
    expected = decode_published(weights, taken) * 2 - 1
    assert expected.std() > 0.05
    assert expected.shape[2:] == model.spec.compression.pixel_size(grid).as_tuple()
    torch.testing.assert_close(decoder(clip).clamp(-1, 1), expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(torch.cat(list(decoder.stream(clip)), dim=2), expected, atol=2e-5, rtol=0)
    assert not any(parameter.requires_grad for parameter in decoder.parameters())


def test_what_was_read_can_be_kept_as_a_decoder_of_ours(tmp_path: Path) -> None:
    decoder = read_published_decoder(write(tmp_path / "a.pth", published_weights(4)), scale=2.0)
    decoder.save(tmp_path / "b.safetensors")
    latents = torch.randn(1, 4, 2, 3, 3)
    kept = StreamingDecoder.load(tmp_path / "b.safetensors")
    assert torch.equal(kept(latents), decoder(latents))
    assert kept.made_of == {"taehv": "a"}


@pytest.fixture
def wan(tiny_family: Callable[[str], Any], tiny_pipe: Callable[[str], Any]) -> VideoModel:
    model = tiny_family("wan").adapter.from_pipeline(tiny_pipe("wan"))
    assert isinstance(model, VideoModel)
    return model


def save_ours(path: Path, channels: int = 4, growth: tuple[int, int] = (2, 2)) -> StreamingDecoder:
    ours = StreamingDecoder(DecoderLayout(channels, (8, 4), (1, 1), (growth,), (2, 4, 4)), "vae")
    ours.save(path)
    return ours


@pytest.mark.parametrize("upscale", [1, 2])
def test_a_decoder_of_ours_is_read_as_what_it_is(wan: VideoModel, upscale: int, tmp_path: Path) -> None:
    ours = save_ours(tmp_path / "a.safetensors", growth=(2, 2 * upscale))
    read = load_decoder_file(tmp_path / "a.safetensors", wan)
    assert read.layout == ours.layout and read.vae == "vae"


@pytest.mark.parametrize(("channels", "growth"), [(6, (2, 2)), (4, (1, 2)), (4, (2, 1)), (4, (2, 3))])
def test_one_of_ours_of_other_latents_is_refused(
    wan: VideoModel, channels: int, growth: tuple[int, int], tmp_path: Path
) -> None:
    save_ours(tmp_path / "a.safetensors", channels, growth)
    with pytest.raises(
        ValueError, match=r"a\.safetensors: .*: got \d+, expected the \d of this wan model; give one"
    ):
        load_decoder_file(tmp_path / "a.safetensors", wan)


@pytest.mark.parametrize(
    ("made_for", "message"),
    [
        ({"channels": 6}, "channels of latents: got 6, expected the 4 of this wan model; give"),
        ({"temporal": 8}, "frames for each latent frame: got 8, expected the 4 of this wan model; give"),
        (
            {"spatial": 16},
            "pixels along each side of a latent: got 16, expected the 8 of this wan model; give",
        ),
    ],
)
def test_a_decoder_of_other_latents_is_refused(
    wan: VideoModel, made_for: dict[str, int], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "tiny.pth", published_weights(**{"channels": 4, **made_for}))
    with pytest.raises(ValueError, match=message):
        load_decoder_file(path, wan)


@pytest.mark.parametrize("name", ["taehv", "taecvx", "lighttaew2_1"])
def test_a_decoder_of_the_same_shape_is_told_by_its_name(wan: VideoModel, name: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"{name}.pth", published_weights(4))
    with pytest.raises(
        ValueError, match=f"{name}.pth: is by its name a decoder of other latents than this wan"
    ):
        load_decoder_file(path, wan)


def _without(name: str) -> dict[str, Tensor]:
    return {key: weight for key, weight in published_weights(4).items() if not key.startswith(name)}


def _with(name: str, shape: tuple[int, ...]) -> dict[str, Tensor]:
    return {**published_weights(4), name: torch.zeros(shape)}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (partial(_without, "decoder."), r"has no decoder\.1\.weight, expected a decoder of TAEHV's"),
        (
            partial(_without, "decoder.4.conv.2.bias"),
            r"lacks 1 weights of a decoder of TAEHV's .*4\.conv\.2\.bias",
        ),
        (
            partial(_with, "decoder.3.conv.6.weight", (8, 8, 3, 3)),
            r"1 weights have no place in .*3\.conv\.6\.weight",
        ),
        (
            partial(_with, "decoder.13.conv.weight", (9, 6, 1, 1)),
            r"decoder\.13\.conv\.weight has shape \(9, 6, 1, 1\)",
        ),
        (partial(_with, "decoder.1.weight", (8,)), "has weights of other shapes than a decoder of TAEHV's"),
        (
            partial(_with, "decoder.1.weight", (0, 4, 3, 3)),
            "has weights of other shapes than a decoder of TAEHV's",
        ),
        (
            lambda: (
                _with("decoder.22.bias", (3,)) | {"decoder.22.bias": torch.tensor([1.0, float("nan"), 0])}
            ),
            "finite",
        ),
        (lambda: {"blocks.0.weight": torch.zeros(2)}, r"has no decoder\.1\.weight"),
    ],
)
def test_what_is_no_such_decoder_is_refused_in_one_line(
    weights: Callable[[], dict[str, Tensor]], message: str, suffix: str, tmp_path: Path
) -> None:
    path = write(tmp_path / f"tiny{suffix}", weights())
    with pytest.raises(ValueError, match=message) as error:
        read_published_decoder(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


class _Code:
    def __repr__(self) -> str:
        return "code"

    def __reduce__(self) -> Any:
        return print, ("this ran",)


@pytest.mark.parametrize(
    "content",
    [{"decoder.1.weight": _Code()}, [1, 2], {1: torch.zeros(2)}, {"state_dict": {}}, b"", b"no pickle"],
    ids=repr,
)
def test_a_pickle_of_more_than_weights_is_not_opened(
    content: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tiny.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(
        ValueError, match=r"tiny\.pth: is no pickle of weights alone; .* give a \.safetensors file\.$"
    ):
        read_published_decoder(path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_that_is_cut_short_or_missing_is_refused(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"tiny{suffix}", published_weights(4))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"is no (whole safetensors file|pickle of weights alone)"):
        read_published_decoder(path)
    path.unlink()
    with pytest.raises(ValueError, match="does not exist"):
        read_published_decoder(path)
