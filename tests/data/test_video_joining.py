"""Clips joined by their packets: the same pictures, no frame more or less, whatever is copied or encoded."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from swd_video.data.containers import VideoError
from swd_video.data.video import probe_video, read_video, write_video
from swd_video.data.video_joining import (
    Copied,
    Drawn,
    PacketIndex,
    Sound,
    index_packets,
    join_video,
    parameter_sets,
)

SIZE, FPS = (48, 64), Fraction(16)
PRIMING = 1024  # samples that AAC puts before the first one, and an edit list takes off again


def moving(count: int, seed: int) -> np.ndarray:
    """Pictures that give an encoder reason for B-frames."""
    noise = np.random.default_rng(seed).integers(0, 255, (6, 8 + count, 3), dtype=np.uint8)
    wide = noise.repeat(8, 0).repeat(8, 1)
    return np.stack([wide[:, 3 * at : 3 * at + 64] for at in range(count)])


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    paths = [folder / f"{name}.mp4" for name in "abc"]
    for seed, (path, count) in enumerate(zip(paths, (17, 9, 12), strict=True)):
        write_video(path, moving(count, seed), 16)
    return paths


def test_copied_clips_show_the_very_same_pictures(clips: list[Path], tmp_path: Path) -> None:
    pieces = [Copied(index, 0, index.frames) for index in map(index_packets, clips)]
    assert join_video(tmp_path / "film.mp4", pieces, SIZE, FPS) == 38
    frames, fps = read_video(tmp_path / "film.mp4")
    assert fps == 16
    assert np.array_equal(frames, np.concatenate([read_video(path)[0] for path in clips]))


def test_every_range_that_is_called_copyable_is(clips: list[Path], tmp_path: Path) -> None:
    index = index_packets(clips[0])
    assert any(index.numbers[at] > index.numbers[at + 1] for at in range(16)), (
        "no B-frames, nothing is tested"
    )
    frames, _ = read_video(clips[0])
    other = read_video(clips[1])[0]
    ends = {index.copyable(0, stop)[1] for stop in range(1, 18)}
    assert 1 < len(ends) < 17
    for stop in ends:
        pieces = [Copied(index, 0, stop), Drawn(other)]
        join_video(tmp_path / "film.mp4", pieces, SIZE, FPS)
        assert np.array_equal(read_video(tmp_path / "film.mp4")[0][:stop], frames[:stop])


def test_a_range_without_a_keyframe_cannot_be_copied(clips: list[Path]) -> None:
    index = index_packets(clips[0])
    assert index.copyable(0, 17) == (0, 17)
    assert index.copyable(1, 17) == (17, 17)
    assert index.copyable(0, 0) == (0, 0)


def test_a_keyframe_behind_which_earlier_frames_follow_is_no_beginning() -> None:
    about = Path("a.mp4"), 64, 48, FPS, b"sets"
    keys = (True, False, True, False, False, False)
    assert PacketIndex(*about, (0, 1, 2, 4, 3, 5), keys).copyable(1, 6) == (2, 6)
    assert PacketIndex(*about, (0, 1, 4, 2, 3, 5), keys).copyable(1, 6) == (6, 6)


def test_what_no_mp4_holds_is_refused(clips: list[Path], tmp_path: Path) -> None:
    piece = Copied(index_packets(clips[0]), 0, 17)
    with pytest.raises(VideoError, match=r"film\.mp4: got 63x47 pictures, expected an even width and height"):
        join_video(tmp_path / "film.mp4", [piece], (47, 63), FPS)
    with pytest.raises(VideoError, match=r"film\.mp4: MP4 cannot keep a NUL"):
        join_video(tmp_path / "film.mp4", [piece], SIZE, FPS, metadata={"title": "a\0b"})
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_here_can_follow_what_was_encoded(clips: list[Path], tmp_path: Path) -> None:
    assert {index_packets(path).parameter_sets for path in clips} == {parameter_sets(SIZE, FPS)}
    write_video(tmp_path / "other.mp4", moving(3, 0)[:, :, :48], 16)
    write_video(tmp_path / "slow.mp4", moving(3, 0), 12)
    for name in ("other.mp4", "slow.mp4"):
        assert index_packets(tmp_path / name).parameter_sets != parameter_sets(SIZE, FPS)


def test_uneven_times_and_other_codecs_are_not_copied(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "other.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=16)
        stream.height, stream.width = SIZE
        for picture in moving(3, 0):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    assert index_packets(tmp_path / "other.mp4").parameter_sets == b""


@pytest.mark.parametrize("seconds", [0.4, 5.0])
def test_sound_is_as_long_as_the_pictures(
    clips: list[Path], tmp_path: Path, make_tone: Callable[[float], Path], seconds: float
) -> None:
    index = index_packets(clips[0])
    sound = Sound(make_tone(seconds), Fraction(17, 16), fades=seconds > 17 / 16)
    join_video(tmp_path / "film.mp4", [Copied(index, 0, 17)], SIZE, FPS, sound=sound)
    with av.open(str(tmp_path / "film.mp4")) as container:
        (track,) = container.streams.audio
        # MP4 rounds the length of a track to a millisecond; its packets do not.
        assert abs(track.duration * track.time_base - Fraction(17, 16)) < Fraction(1, 1000)
        assert sum(packet.duration or 0 for packet in container.demux(track)) - PRIMING == 51_000
        container.seek(0)
        assert (track.codec_context.name, track.rate, track.channels) == ("aac", 48_000, 2)
        heard = np.concatenate([frame.to_ndarray() for frame in container.decode(track)], axis=1)[0]
    loud = np.abs(heard[: 51_000 // 500 * 500].reshape(-1, 500)).max(axis=1)
    assert loud[5] > 0.2
    if seconds < 1:  # silence after its end
        assert loud[45:].max() < 0.01
    else:  # it fades out over the last quarter
        assert loud[70] > 0.2
        assert loud[-1] < 0.02


def test_the_same_pieces_give_the_same_bytes(
    clips: list[Path], tmp_path: Path, make_tone: Callable[[float], Path]
) -> None:
    index, frames = index_packets(clips[0]), read_video(clips[1])[0]
    written = []
    for name in ("one.mp4", "two.mp4"):
        pieces = [Copied(index, 0, 17), Drawn(frames)]
        sound = Sound(make_tone(1.0), Fraction(26, 16), fades=False)
        join_video(tmp_path / name, pieces, SIZE, FPS, sound=sound, metadata={"title": "Ein Film"})
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    assert written[0].index(b"moov") < written[0].index(b"mdat"), "players start before they have it all"
    video = probe_video(tmp_path / "one.mp4")
    assert (video.frames, video.width, video.height) == (26, 64, 48)
    with av.open(str(tmp_path / "one.mp4")) as container:
        context = container.streams.video[0].codec_context
        tags = context.color_primaries, context.color_trc, context.colorspace, context.color_range
        assert tags == (1, 1, 1, 1)
        assert container.metadata["title"] == "Ein Film"


def test_a_clip_that_is_cut_short_is_refused(clips: list[Path], tmp_path: Path) -> None:
    (tmp_path / "cut.mp4").write_bytes(clips[0].read_bytes()[:-100])
    with pytest.raises(VideoError, match=r"cut\.mp4: is cut short"):
        index_packets(tmp_path / "cut.mp4")


def test_a_clip_that_goes_while_it_is_joined_leaves_nothing(clips: list[Path], tmp_path: Path) -> None:
    write_video(tmp_path / "gone.mp4", moving(3, 0), 16)
    index = index_packets(tmp_path / "gone.mp4")
    (tmp_path / "gone.mp4").unlink()
    with pytest.raises(VideoError, match=r"gone\.mp4"):
        join_video(tmp_path / "film.mp4", [Copied(index, 0, 3)], SIZE, FPS)
    assert list(tmp_path.iterdir()) == []
