"""Pictures that clips start from are read as viewers show them, or refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from swd_video.core.grid import PixelSize
from swd_video.studio.pictures import open_picture, picture_as_pixels

CASES = Path(__file__).parents[1] / "cases"
SIZE = PixelSize(9, 32, 48)


def pixels(path: Path, size: PixelSize = SIZE) -> np.ndarray:
    return np.asarray(open_picture(path, size)).astype(int)


def test_sixteen_bits_keep_their_greys(tmp_path: Path) -> None:
    ramp = pixels(CASES / "gray16.png", PixelSize(1, 192, 256))
    assert abs(ramp.mean() - 127.5) < 1
    assert (np.diff(ramp[0, :, 0]) >= 0).all()
    assert ramp.min() < 5
    assert ramp.max() > 250
    grey = np.full((32, 48), 257 * 100, np.uint16)
    for name in ("a.png", "a.tiff"):
        Image.fromarray(grey).save(tmp_path / name)
        assert (pixels(tmp_path / name) == 100).all()


def test_transparent_parts_are_white(tmp_path: Path) -> None:
    with Image.open(CASES / "alpha.png") as image:
        whole = PixelSize(1, image.height, image.width)
        canvas = Image.new("RGBA", image.size, "white")
        canvas.alpha_composite(image.convert("RGBA"))
    shown = pixels(CASES / "alpha.png", whole)
    assert np.abs(shown - np.asarray(canvas.convert("RGB"))).max() <= 1
    assert (shown == 255).all(-1).any()
    palette = Image.new("P", (48, 32), 0)
    palette.putpalette([10, 20, 30, 200, 40, 40])
    palette.paste(1, (0, 0, 24, 32))
    for name, picture, keyed in (
        ("p.png", palette, 0),
        ("p.gif", palette, 0),
        ("rgb.png", palette.convert("RGB"), (10, 20, 30)),
        ("la.png", Image.merge("LA", [Image.new("L", (48, 32), 90), Image.new("L", (48, 32), 0)]), None),
    ):
        picture.save(tmp_path / name, **({} if keyed is None else {"transparency": keyed}))
        assert (pixels(tmp_path / name)[:, 30:] == 255).all(), name


def test_orientation_and_colours_are_those_that_the_file_states(tmp_path: Path) -> None:
    upright = Image.new("RGB", (48, 32), (200, 40, 40))
    upright.paste((40, 40, 200), (0, 0, 48, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by a quarter
    upright.rotate(90, expand=True).save(tmp_path / "turned.jpg", exif=exif, quality=95, subsampling=0)
    assert np.abs(pixels(tmp_path / "turned.jpg") - np.asarray(upright)).max() < 30
    srgb = ImageCms.createProfile("sRGB")
    profile = ImageCms.ImageCmsProfile(srgb).tobytes()
    upright.save(tmp_path / "srgb.png", icc_profile=profile)
    assert np.abs(pixels(tmp_path / "srgb.png") - np.asarray(upright)).max() <= 1
    upright.save(tmp_path / "broken.png", icc_profile=b"no profile at all" * 20)
    with pytest.raises(ValueError, match=r"broken\.png: has a broken colour profile"):
        pixels(tmp_path / "broken.png")
    upright.convert("CMYK").save(tmp_path / "ink.jpg", quality=95)
    assert np.abs(pixels(tmp_path / "ink.jpg")[16:] - (200, 40, 40)).max() < 12


def test_a_wide_profile_is_converted(tmp_path: Path) -> None:
    picture = Image.new("RGB", (48, 32), (200, 40, 40))
    picture.save(tmp_path / "p3.png", icc_profile=display_p3())
    shown = pixels(tmp_path / "p3.png")[0, 0]
    # A red of Display P3 lies outside of sRGB's: more red, less green.
    assert shown[0] > 210
    assert shown[1] < 30


def display_p3() -> bytes:
    """sRGB's profile with the primaries of Display P3 (adapted to D50, as profiles have them)."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    primaries = {
        b"rXYZ": (0.51512, 0.2412, -0.00105),
        b"gXYZ": (0.29198, 0.69225, 0.04189),
        b"bXYZ": (0.1571, 0.06657, 0.78407),
    }
    for index in range(int.from_bytes(profile[128:132], "big")):
        entry = profile[132 + 12 * index : 144 + 12 * index]
        if bytes(entry[:4]) in primaries:
            at = int.from_bytes(entry[4:8], "big") + 8
            numbers = [round(value * 65536) for value in primaries[bytes(entry[:4])]]
            profile[at : at + 12] = b"".join(number.to_bytes(4, "big", signed=True) for number in numbers)
    return bytes(profile)


def test_what_is_not_one_plain_picture_is_refused(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (48, 32), colour) for colour in ("red", "green", "blue")]
    for name in ("a.gif", "a.png", "a.webp", "a.tiff"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(ValueError, match=rf"^[^:]*{name}: holds 3 pictures, expected one"):
            pixels(tmp_path / name)
    frames[0].save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=frames[1:])
    assert np.abs(pixels(tmp_path / "phone.jpg") - (255, 0, 0)).max() < 6
    with pytest.raises(ValueError, match=r"float\.tiff: holds floating-point numbers"):
        pixels(CASES / "float.tiff")
    Image.fromarray(np.zeros((32, 48), np.int32)).save(tmp_path / "deep.tiff")
    with pytest.raises(ValueError, match=r"deep\.tiff: holds 32-bit numbers"):
        pixels(tmp_path / "deep.tiff")
    whole = (CASES / "alpha.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for path in (tmp_path / "cut.png", Path(__file__)):
        with pytest.raises(ValueError, match="cannot be read as a picture"):
            pixels(path)
    for path in (tmp_path, tmp_path / "none.png", tmp_path / "a\0b.png"):
        with pytest.raises(ValueError, match="no such file"):
            pixels(path)
    assert picture_as_pixels(open_picture(CASES / "alpha.png", SIZE)).shape == (1, 3, 32, 48)
