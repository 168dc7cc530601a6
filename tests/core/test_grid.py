import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swd_video.core.grid import Compression, LatentSize, PixelSize

WAN = Compression()


def test_sizes_print_and_parse_alike() -> None:
    assert str(PixelSize(33, 128, 96)) == "33x128x96"
    assert PixelSize.parse("33x128x96") == PixelSize(33, 128, 96)
    assert LatentSize.parse(" 9 x 16 x 12 ") == LatentSize(9, 16, 12)
    assert type(LatentSize.parse("9x16x12")) is LatentSize


@pytest.mark.parametrize("text", ["", "33x128", "33x128x128x1", "axbxc", "33,128,128", "-1x8x8", "1.5x8x8"])
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="FRAMESxHEIGHTxWIDTH"):
        PixelSize.parse(text)


def test_a_size_has_no_empty_axis() -> None:
    with pytest.raises(ValueError, match=r"LatentSize\.height: got 0, expected a whole number of at least 1"):
        LatentSize(1, 0, 4)


def test_pixel_and_latent_sizes_are_never_equal() -> None:
    assert PixelSize(1, 8, 8) != LatentSize(1, 8, 8)


@pytest.mark.parametrize(
    ("pixels", "latents", "tokens"),
    [("81x480x832", "21x60x104", 32760), ("21x160x272", "6x20x34", 1020), ("33x128x128", "9x16x16", 576)],
)
def test_wan_sizes(pixels: str, latents: str, tokens: int) -> None:
    assert WAN.latent_size(PixelSize.parse(pixels)) == LatentSize.parse(latents)
    assert WAN.pixel_size(LatentSize.parse(latents)) == PixelSize.parse(pixels)
    assert WAN.tokens(LatentSize.parse(latents)) == tokens


def test_tokens_of_a_broken_patch_are_refused() -> None:
    with pytest.raises(ValueError, match="3x5x4 is not a whole number of 1x2x2 patches"):
        WAN.tokens(LatentSize(3, 5, 4))


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        ("34x128x128", "33x128x128"),
        ("36x128x128", "37x128x128"),
        ("33x130x128", "33x128x128"),
        ("33x137x100", "33x144x96"),
        ("33x136x128", "33x128x128"),
        ("2x1x1", "1x16x16"),
    ],
)
def test_an_illegal_size_is_refused_with_the_nearest_legal_one(asked: str, nearest: str) -> None:
    with pytest.raises(ValueError) as error:
        WAN.latent_size(PixelSize.parse(asked))
    message = str(error.value)
    assert message.startswith(asked)
    assert message.endswith(f"Nearest legal size: {nearest}.")
    assert "4k + 1" in message and "multiples of 16" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("257x128x128", "; the model's positions count to frames 253. Nearest legal size: 253x128x128."),
        (
            "9x1040x2000",
            "; the model's positions count to height 1032 and width 1024. Nearest legal size: 9x1024x1024.",
        ),
        ("10x128x128", "16 and 16. Nearest legal size: 9x128x128."),
    ],
)
def test_what_positions_cannot_count_is_refused(asked: str, message: str) -> None:
    compression = Compression(limits=(64, 129, 128))
    with pytest.raises(ValueError, match=re.escape(message)):
        compression.latent_size(PixelSize.parse(asked))
    nearest = LatentSize(64, 128, 128)
    assert compression.tokens(nearest) == Compression().tokens(nearest)
    with pytest.raises(
        ValueError, match=r"65 latents along frames, .* most the 64 .* latent size: 64x128x128\."
    ):
        compression.tokens(LatentSize(65, 128, 128))


@given(
    st.builds(PixelSize, st.integers(1, 200), st.integers(1, 1000), st.integers(1, 1000)),
    st.builds(
        Compression,
        st.sampled_from([1, 4, 8]),
        st.sampled_from([8, 16, 32]),
        st.sampled_from([(1, 1, 1), (1, 2, 2), (2, 2, 2)]),
    ),
)
def test_the_nearest_legal_size_is_legal_and_near(size: PixelSize, compression: Compression) -> None:
    nearest = compression.nearest_legal(size)
    latents = compression.latent_size(nearest)
    assert compression.pixel_size(latents) == nearest
    assert compression.tokens(latents) >= 1
    steps = (
        compression.temporal * compression.patch[0],
        compression.spatial * compression.patch[1],
        compression.spatial * compression.patch[2],
    )
    for got, asked, step in zip(nearest.as_tuple(), size.as_tuple(), steps, strict=True):
        assert abs(got - asked) <= step / 2 or asked < step


@pytest.mark.parametrize(("frames", "latent_frames"), [(1, 2), (9, 4), (81, 22), (161, 42)])
def test_tokens_of_two_latent_frames_repeat_the_first(frames: int, latent_frames: int) -> None:
    """CogVideoX 1.5, as its trainer and its pipeline count: 16k + 1 frames are whole tokens and one latent frame."""
    compression = Compression(patch=(2, 2, 2))
    size, grid = PixelSize(frames, 32, 48), LatentSize(latent_frames, 4, 6)
    assert (compression.latent_size(size), compression.pixel_size(grid)) == (grid, size)
    with pytest.raises(ValueError, match=rf"expected 8k \+ 1; .*Nearest legal size: {frames}x32x48"):
        compression.latent_size(PixelSize(frames + 4, 32, 48))
