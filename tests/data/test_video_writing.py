import resource
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from swd_video.data.video import (
    VideoError,
    probe_video,
    read_video,
    read_video_metadata,
    write_preview,
    write_video,
)

Draw = Callable[[int, int, int], np.ndarray]


def test_written_video_plays_everywhere(tmp_path: Path, pictures: Draw) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, pictures(13, 48, 64), 12)
    with av.open(str(path)) as file:
        context = file.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        tags = (context.color_primaries, context.color_trc, context.colorspace, context.color_range)
        assert tags == (1, 1, 1, 1)
    content = path.read_bytes()
    assert content.find(b"moov") < content.find(b"mdat")
    info = probe_video(path)
    assert (info.frames, info.fps, info.seconds) == (13, 12, pytest.approx(13 / 12))


def test_colours_come_back(tmp_path: Path) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 120, 40)]
    frames = np.stack([np.full((48, 64, 3), colour, np.uint8) for colour in colours])
    write_video(tmp_path / "a.mp4", frames, 4)
    for decoder in ("pyav", "decord"):
        read, _ = read_video(tmp_path / "a.mp4", decoder=decoder)
        assert np.abs(read.astype(int) - frames).max() <= 4


def test_pictures_come_back_alike_and_the_same_bytes_again(tmp_path: Path, pictures: Draw) -> None:
    frames = pictures(12, 96, 128)
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, frames, 23.976, metadata={"seed": "7"})
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    read, fps = read_video(tmp_path / "a.mp4")
    assert fps == pytest.approx(24000 / 1001, abs=1e-3)
    # Mostly what halving the colours' resolution costs at the edges of the discs.
    assert np.abs(read.astype(int) - frames).mean() < 4
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_nothing_is_lost_where_that_is_asked_for(tmp_path: Path, pictures: Draw) -> None:
    frames = pictures(5, 48, 64)
    write_video(tmp_path / "exact.mp4", frames, 12, crf=None)
    np.testing.assert_array_equal(read_video(tmp_path / "exact.mp4")[0], frames)


def test_metadata_comes_back(tmp_path: Path, pictures: Draw) -> None:
    metadata = {
        "prompt": 'a "fox", 狐 🦊\njumps = high; #1',
        "seed": "18446744073709551615",
        "model": "pocket",
    }
    write_video(tmp_path / "a.mp4", pictures(3, 32, 32), 8, metadata=metadata)
    assert read_video_metadata(tmp_path / "a.mp4") == metadata
    write_video(tmp_path / "b.mp4", pictures(3, 32, 32), 8)
    assert read_video_metadata(tmp_path / "b.mp4") == {}
    with pytest.raises(VideoError, match="No such file"):
        read_video_metadata(tmp_path / "none.mp4")
    before = (tmp_path / "a.mp4").read_bytes()
    for kept in ("a\x01b\x7f", "  spaces  ", "\t\r\n", "x" * 100_000):
        write_video(tmp_path / "b.mp4", pictures(3, 32, 32), 8, metadata={"prompt": kept})
        assert read_video_metadata(tmp_path / "b.mp4") == {"prompt": kept}
    for lost in ({"prompt": "a fox\0 and more"}, {"prompt": "half a \ud83e fox"}, {"a\0b": "fox"}):
        with pytest.raises(
            VideoError, match=r"MP4 cannot keep a NUL or half a character, as in '.*'\. Take it out"
        ):
            write_video(tmp_path / "a.mp4", pictures(3, 32, 32), 8, metadata=lost)
    with pytest.raises(VideoError, match="MP4 has its own text under the name 'encoder'"):
        write_video(tmp_path / "a.mp4", pictures(3, 32, 32), 8, metadata={"encoder": "fox"})
    assert (tmp_path / "a.mp4").read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_previews_play_at_their_true_speed(suffix: str, tmp_path: Path, pictures: Draw) -> None:
    frames = pictures(12, 48, 64)
    path = tmp_path / f"a{suffix}"
    write_preview(path, frames, 12)
    info = probe_video(path)
    assert (info.frames, info.height, info.width) == (12, 48, 64)
    assert info.seconds == pytest.approx(1.0, abs=1e-6)
    read, _ = read_video(path)
    assert np.abs(read.astype(int) - frames).mean() < 16
    with Image.open(path) as image:
        assert image.info["loop"] == 0
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path: Path, pictures: Draw) -> None:
    with pytest.raises(VideoError, match=r"got 63x48 pictures.*Crop to 62x48"):
        write_video(tmp_path / "a.mp4", pictures(3, 48, 63), 12)
    with pytest.raises(VideoError, match="got crf 52, expected 0 to 51"):
        write_video(tmp_path / "a.mp4", pictures(3, 48, 64), 12, crf=52)
    with pytest.raises(VideoError, match="no frames"):
        write_video(tmp_path / "a.mp4", pictures(0, 48, 64), 12)
    with pytest.raises(VideoError, match="fps 0"):
        write_video(tmp_path / "a.mp4", pictures(3, 48, 64), 0)
    with pytest.raises(VideoError, match=r"got a preview named \.png"):
        write_preview(tmp_path / "a.png", pictures(3, 48, 64), 12)
    with pytest.raises(VideoError, match="cannot be written"):
        write_video(tmp_path / "missing" / "a.mp4", pictures(3, 48, 64), 12)
    with pytest.raises(VideoError, match="cannot be written"):
        write_preview(tmp_path / "missing" / "a.gif", pictures(3, 48, 64), 12)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_pictures_that_do_not_change_keep_their_time(suffix: str, tmp_path: Path, pictures: Draw) -> None:
    path = tmp_path / f"a{suffix}"
    resolution = 0.0005 if suffix == ".webp" else 0.005
    scene = pictures(2, 48, 64)
    still = np.repeat(scene[:1], 17, axis=0)
    flicker = still.copy()
    flicker[::2, 10, 10] ^= 1  # so little that WebP's encoder sees none
    for frames in (still, still[:1], flicker, np.concatenate([still, scene, still])):
        write_preview(path, frames, 12)
        info = probe_video(path)
        assert info.seconds == pytest.approx(len(frames) / 12, abs=resolution)
        read, _ = read_video(path, fps=12, num_frames=len(frames))
        assert np.abs(read.astype(int) - frames).mean() < 16
        with Image.open(path) as image:
            image.seek(image.n_frames - 1)
            image.load()
            assert image.info["duration"] > 0
    if suffix == ".gif":
        with pytest.raises(VideoError, match=r"got fps 60 for a GIF, expected at most 50"):
            write_preview(path, scene, 60)


@pytest.mark.parametrize("name", ["a.mp4", "a.webp", "a.gif"])
@pytest.mark.parametrize("limit", [1_000, 60_000])
def test_a_full_disk_keeps_the_old_file(name: str, limit: int, tmp_path: Path, pictures: Draw) -> None:
    path = tmp_path / name
    write = write_video if path.suffix == ".mp4" else write_preview
    write(path, pictures(3, 48, 64), 12)
    before = path.read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, (8, 128, 128, 3), dtype=np.uint8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(VideoError, match=r"cannot be written: File too large\.$") as caught:
            write(path, noise, 12)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
