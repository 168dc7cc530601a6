"""What a file says about its colours is honoured by every decoder, or refused by name."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from swd_video.core.grid import PixelSize
from swd_video.data.video import VideoError, choose_decoder, read_video
from swd_video.studio.pictures import open_picture

CASES = Path(__file__).parents[1] / "cases"
PATCHES = [(200, 40, 40), (0, 255, 0), (40, 40, 200), (255, 255, 255)]
GREYISH = [(200, 60, 60), (60, 180, 60), (60, 60, 180), (128, 128, 128)]
BT709, UNTAGGED, BT601, BT2020, YCGCO = 1, 2, 6, 9, 8
HLG, P3 = 18, 12


def write_patches(
    path: Path,
    matrix: str = "itu709",
    size: tuple[int, int] = (96, 128),
    written_range: str = "MPEG",
    pixel_format: str = "yuv420p",
    codec: str = "libx264",
    patches: list[tuple[int, int, int]] = PATCHES,
    **tags: int,
) -> Path:
    """Four coloured columns in a matrix, and what the file says about them."""
    picture = np.zeros((*size, 3), np.uint8)
    for index, patch in enumerate(patches):
        picture[:, index * size[1] // 4 : (index + 1) * size[1] // 4] = patch
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=12)
        stream.width, stream.height, stream.pix_fmt = size[1], size[0], pixel_format
        stream.options = {"crf": "4", "preset": "10" if codec == "libsvtav1" else "ultrafast"}
        for name, value in {"colorspace": UNTAGGED, "color_range": 0, **tags}.items():
            setattr(stream.codec_context, name, value)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
            format=pixel_format, dst_colorspace=matrix, dst_color_range=written_range
        )
        frame.colorspace, frame.color_range = tags.get("colorspace", UNTAGGED), tags.get("color_range", 0)
        for time in range(1 if path.suffix == ".avif" else 2):
            frame.pts = time
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def read_patches(path: Path, decoder: str = "auto") -> np.ndarray:
    picture = read_video(path, decoder=decoder)[0][-1].astype(int)
    height, width = picture.shape[:2]
    return picture[height // 2, [width * (2 * index + 1) // 8 for index in range(4)]]


@pytest.mark.parametrize(
    ("matrix", "settings", "by"),
    [
        ("itu709", {"size": (720, 1280)}, "pyav"),
        ("itu709", {"size": (96, 1280)}, "pyav"),
        ("itu601", {"size": (704, 128)}, "decord"),
        ("itu601", {"size": (720, 1280), "colorspace": BT601}, "decord"),
        ("itu709", {"colorspace": BT709}, "decord"),
        ("itu709", {"colorspace": BT709, "color_range": 2}, "decord"),
        ("itu601", {"colorspace": BT601, "color_range": 1}, "decord"),
        ("bt2020", {"colorspace": BT2020}, "decord"),
        ("itu601", {"pixel_format": "yuv444p"}, "decord"),
        ("itu709", {"pixel_format": "yuv422p10le", "colorspace": BT709}, "pyav"),
    ],
)
def test_colours_are_what_the_file_says(
    matrix: str, settings: dict[str, object], by: str, tmp_path: Path
) -> None:
    written_range = "JPEG" if settings.get("color_range") == 2 else "MPEG"
    path = write_patches(tmp_path / "a.mp4", matrix, written_range=written_range, **settings)
    assert choose_decoder(path)[0] == by
    for decoder in {"pyav", by}:
        assert np.abs(read_patches(path, decoder) - PATCHES).max() <= 3
    if by == "pyav":
        with pytest.raises(VideoError, match="decord would not give the right frames"):
            read_video(path, decoder="decord")


@pytest.mark.parametrize(
    ("primaries", "to_xyz"), [(P3, (0.680, 0.320, 0.265, 0.690)), (BT2020, (0.708, 0.292, 0.170, 0.797))]
)
def test_wide_gamuts_become_bt709(primaries: int, to_xyz: tuple[float, ...], tmp_path: Path) -> None:
    blue = (0.150, 0.060) if primaries == P3 else (0.131, 0.046)
    wide, narrow = rgb_to_xyz(*to_xyz, *blue), rgb_to_xyz(0.640, 0.330, 0.300, 0.600, 0.150, 0.060)
    light = (np.array([PATCHES[0], (60, 120, 60), (90, 90, 90), (255, 255, 255)]) / 255) ** 2.4
    stored = 255 * (light @ (np.linalg.inv(wide) @ narrow).T) ** (1 / 2.4)
    patches = [tuple(int(value) for value in patch) for patch in np.rint(stored)]
    path = write_patches(tmp_path / "a.mp4", colorspace=BT709, color_primaries=primaries, patches=patches)
    assert choose_decoder(path) == ("pyav", "its primaries are not those of BT.709")
    assert np.abs(read_patches(path) - np.rint(255 * light ** (1 / 2.4))).max() <= 6  # 8 bits, mixed


def rgb_to_xyz(*chromaticities: float) -> np.ndarray:
    x, y = np.array(chromaticities).reshape(3, 2).T
    white = np.array([0.3127, 0.3290, 1 - 0.3127 - 0.3290]) / 0.3290
    primaries = np.stack([x, y, 1 - x - y])
    return primaries * np.linalg.solve(primaries, white)


def test_what_is_not_understood_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"is HDR \(transfer PQ\), expected SDR. Tone-map it first: ffmpeg"):
        read_video(CASES / "pq2020.mp4")
    for tags, message in (
        ({"color_trc": HLG}, r"is HDR \(transfer HLG\)"),
        ({"color_trc": 8}, "is stored as linear light"),
        ({"colorspace": YCGCO}, "has colour matrix 8 of"),
        ({"color_primaries": 11}, "has the primaries of DCI-P3"),
    ):
        path = write_patches(tmp_path / "a.mp4", **tags)
        with pytest.raises(VideoError, match=message):
            read_video(path)
    path = write_patches(tmp_path / "a.avif", codec="libsvtav1", pixel_format="yuv420p10le", color_trc=HLG)
    for read in (read_video, lambda path: open_picture(path, PixelSize(1, 96, 128))):
        with pytest.raises(ValueError, match=r"^[^:]*a\.avif: is HDR \(transfer HLG\)"):
            read(path)


def with_container_colours(source: Path, target: Path, **tags: int) -> Path:
    """The same pictures; the tags are the container's alone."""
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        for packet in given.demux(video=0):
            if packet.size:
                packet.stream = stream
                made.mux(packet)
    return target


@pytest.mark.parametrize(
    ("codec", "pixel_format", "suffix"),
    [
        ("libx265", "yuv420p10le", "mp4"),
        ("libx265", "yuv420p10le", "mkv"),
        ("prores_ks", "yuv422p10le", "mov"),
        ("libvpx-vp9", "yuv420p", "webm"),
    ],
)
def test_colours_that_only_the_container_states_count(
    codec: str, pixel_format: str, suffix: str, tmp_path: Path
) -> None:
    source = write_patches(
        tmp_path / f"source.{suffix}", "itu709", codec=codec, pixel_format=pixel_format, patches=GREYISH
    )
    path = tmp_path / f"a.{suffix}"
    with_container_colours(source, path, colorspace=BT709, color_primaries=BT709, color_trc=BT709)
    assert np.abs(read_patches(path) - GREYISH).max() <= 6
    assert np.abs(read_patches(source) - GREYISH).max() > 6, "as BT.601 they are others"
    assert choose_decoder(path)[0] == "pyav"
    with_container_colours(source, path, colorspace=BT2020, color_primaries=BT2020, color_trc=16)
    with pytest.raises(VideoError, match=r"is HDR \(transfer PQ\)"):
        read_video(path)
    with_container_colours(source, path, colorspace=BT709, color_primaries=11, color_trc=BT709)
    with pytest.raises(VideoError, match="has the primaries of DCI-P3"):
        read_video(path)


@pytest.mark.parametrize("name", ["alpha_vp8.webm", "alpha_vp9.webm"])
def test_transparency_beside_the_picture_is_over_white(name: str) -> None:
    frames, fps = read_video(CASES / name)
    assert (frames.shape, fps) == ((8, 96, 128, 3), 8)
    assert choose_decoder(CASES / name)[0] == "pyav"
    assert (frames[:, 5, 5] == 255).all()
    assert (frames[:, 70:, :] == 255).all()
    # A red disc; what is hidden beside it is black.
    assert ((np.abs(frames.astype(int) - (253, 0, 0)).max(-1) <= 3).sum((1, 2)) > 500).all()
    assert frames[..., 0].min() > 200
    # Decoding from the middle gives the same.
    assert np.array_equal(read_video(CASES / name, start_seconds=0.5)[0], frames[4:])


def test_avif_is_read_with_its_transparency() -> None:
    frames, fps = read_video(CASES / "alpha.avif")
    assert (frames.shape, fps) == ((6, 96, 128, 3), 10)
    assert choose_decoder(CASES / "alpha.avif")[0] == "pillow"
    assert (frames[:, 90, 5] == 255).all()
    bars = frames[:, 20, 8:96:16, 1] > 125
    assert [int(bits @ (1 << np.arange(6))) for bits in bars] == list(range(6))


def test_transparent_palettes_deep_and_floating_pictures(tmp_path: Path) -> None:
    # Pictures as clips of one frame, by FFmpeg.
    image = Image.new("P", (16, 12), 0)
    image.putpalette([10, 20, 30, 200, 40, 40])
    image.paste(1, (0, 0, 8, 12))
    image.save(tmp_path / "a.png", transparency=0)
    frames, _ = read_video(tmp_path / "a.png")
    assert (frames[0, :, 8:] == 255).all()
    assert (frames[0, :, :8] == (200, 40, 40)).all()
    ramp, _ = read_video(CASES / "gray16.png")
    assert abs(ramp.mean() - 127.5) < 1
    assert ramp[0].max() > 250
    with pytest.raises(VideoError):
        read_video(CASES / "float.tiff")
    (tmp_path / "a.pfm").write_bytes(b"Pf\n32 32\n-1.0\n" + bytes(32 * 32 * 4))
    with pytest.raises(VideoError, match="holds floating-point numbers"):
        read_video(tmp_path / "a.pfm")
