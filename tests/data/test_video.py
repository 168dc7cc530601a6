import io
import os
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from swd_video.data.colours import over_white
from swd_video.data.decoders import decode_with_decord
from swd_video.data.video import VideoError, choose_decoder, pick_frames, probe_video, read_video

CASES = Path(__file__).parents[1] / "cases"
Draw = Callable[[int, int, int], np.ndarray]
EncodeFile = Callable[..., Path]
CLOSED_GOPS = {"g": "12", "x264-params": "open-gop=0:scenecut=0"}
INTRA_REFRESH = {"x264-params": "intra-refresh=1:keyint=12:bframes=0:slices=2"}
OPEN_GOPS = {"x264-params": "open-gop=1:keyint=12:scenecut=0:bframes=4"}


def varying_times(num_frames: int) -> list[int]:
    gaps = np.random.default_rng(0).integers(20, 90, num_frames)
    return [int(time) for time in np.cumsum(gaps) - gaps[0]]


def sequential(path: Path) -> np.ndarray:
    """All frames in order, by nothing but PyAV."""
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


FILES = {
    "closed GOPs": ("a.mp4", {"options": CLOSED_GOPS}),
    "matroska": ("a.mkv", {"options": CLOSED_GOPS}),
    "vp9": ("a.webm", {"codec": "libvpx-vp9", "options": {"g": "12", "b": "0", "cpu-used": "8"}}),
    "full chroma": ("a.mp4", {"options": CLOSED_GOPS, "pixel_format": "yuv444p"}),
    "varying rate": ("a.mp4", {"options": CLOSED_GOPS, "milliseconds": varying_times(48)}),
    "open GOPs": ("a.mp4", {"options": OPEN_GOPS}),
    "intra refresh": ("a.mp4", {"options": INTRA_REFRESH}),
    "intra refresh in matroska": ("a.mkv", {"options": INTRA_REFRESH}),
    "transport stream": ("a.ts", {"options": CLOSED_GOPS}),
    "avi": ("a.avi", {"options": CLOSED_GOPS}),
    "vp8": ("a.webm", {"codec": "libvpx", "options": {"g": "12", "cpu-used": "8"}}),
    "mpeg4": ("a.mp4", {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}}),
    "two streams": ("a.mp4", {"options": CLOSED_GOPS, "num_streams": 2}),
    "gif": ("a.gif", {"codec": "gif", "pixel_format": "rgb8", "fps": 25}),
}
BY_DECORD = {"closed GOPs", "matroska", "vp9", "full chroma", "varying rate"}


@pytest.mark.parametrize("kind", FILES)
def test_every_decoder_gives_the_frames_of_sequential_decoding(
    kind: str, tmp_path: Path, pictures: Draw, encode_file: EncodeFile
) -> None:
    name, settings = FILES[kind]
    path = encode_file(tmp_path / name, pictures(48, 48, 64), **settings)
    expected = sequential(path)
    decoders = ["pyav", "auto", "decord"] if kind in BY_DECORD else ["pyav", "auto"]
    assert choose_decoder(path)[0] == ("decord" if kind in BY_DECORD else "pyav")
    source = probe_video(path)
    assert source.frames == len(expected) == 48
    rng = np.random.default_rng(0)
    for decoder in decoders:
        whole, _ = read_video(path, decoder=decoder)
        assert np.array_equal(whole, expected)
        for _ in range(3):
            start = rng.uniform(0, 0.7 * source.seconds)
            window = {"start_seconds": start, "end_seconds": rng.uniform(start + 0.2, source.seconds)}
            for fps in (None, 10.0):
                indices, _ = pick_frames(source, num_frames=None, fps=fps, **window)
                frames, _ = read_video(path, fps=fps, decoder=decoder, **window)
                assert np.array_equal(frames, expected[indices]), (decoder, window, fps)


def test_decoding_starts_at_key_frames_where_the_container_finds_them(
    tmp_path: Path, pictures: Draw, encode_file: EncodeFile
) -> None:
    """Also of codecs whose packets do not tell which frames there are; transport streams do not find theirs."""
    for kind, inside in (
        ("vp8", True),
        ("mpeg4", True),
        ("intra refresh", False),
        ("transport stream", False),
    ):
        name, settings = FILES[kind]
        video = probe_video(encode_file(tmp_path / name, pictures(48, 48, 64), **settings))
        assert (len(video.keyframe_pts) >= 4) == inside
        assert set(video.keyframe_pts) <= set(video.pts or ())


def test_open_gops_are_why_decord_is_not_trusted(
    tmp_path: Path, pictures: Draw, encode_file: EncodeFile
) -> None:
    path = encode_file(tmp_path / "open.mp4", pictures(48, 48, 64), options=OPEN_GOPS)
    expected, source = sequential(path), probe_video(path)
    wrong = [i for i in range(48) if not np.array_equal(decode_with_decord(source, [i])[0], expected[i])]
    assert wrong, "decord seeks right in open GOPs now: probe.py may trust it there"
    with pytest.raises(VideoError, match="decord would not give the right frames"):
        read_video(path, decoder="decord")


def test_recovery_points_of_intra_refresh_are_no_key_frames(
    tmp_path: Path, pictures: Draw, encode_file: EncodeFile
) -> None:
    path = encode_file(tmp_path / "a.mp4", pictures(48, 48, 64), options=INTRA_REFRESH)
    with av.open(str(path)) as file:
        assert sum(packet.is_keyframe for packet in file.demux(video=0)) == 4
    source = probe_video(path)
    assert source.keyframe_pts == source.pts[:1]
    assert source.decord_objection == "its pictures are refreshed part by part"
    whole, _ = read_video(path)
    for index in range(48):
        assert np.array_equal(
            read_video(path, start_seconds=index / 24, num_frames=1, fps=24)[0][0], whole[index]
        )
    for options in (CLOSED_GOPS, OPEN_GOPS):  # intra pictures are, those that are no IDR among them
        path = encode_file(tmp_path / "b.mkv", pictures(48, 48, 64), options=options)
        assert len(probe_video(path).keyframe_pts) == 4
        assert probe_video(path).decord_objection != "its pictures are refreshed part by part"


@pytest.mark.parametrize(
    ("rotation", "hflip", "degrees"),
    [(-90, False, 90), (90, False, 270), (180, False, 180), (0, True, 0)],
)
def test_pictures_are_turned_the_way_players_show_them(
    rotation: int, hflip: bool, degrees: int, tmp_path: Path, pictures: Draw, encode_file: EncodeFile
) -> None:
    scene = pictures(4, 32, 48)
    path = encode_file(tmp_path / "turned.mp4", scene, rotation=rotation, hflip=hflip)
    frames, _ = read_video(path)
    shown = scene[:, :, ::-1] if hflip else np.rot90(scene, -degrees // 90, axes=(1, 2))
    info = probe_video(path)
    assert info.rotation == degrees
    assert (info.height, info.width) == frames.shape[1:3] == shown.shape[1:3]
    assert np.abs(frames.astype(int) - shown).mean() < 12
    assert choose_decoder(path) == ("pyav", "it is rotated or mirrored")


def test_display_matrices_are_right_angles_give_or_take_a_rounding(
    tmp_path: Path, pictures: Draw, encode_file: EncodeFile
) -> None:
    content = bytearray(encode_file(tmp_path / "a.mp4", pictures(2, 32, 48)).read_bytes())
    at = content.find(b"tkhd") + 44
    one = 1 << 16
    assert struct.unpack(">9i", content[at : at + 36]) == (one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    for (a, b, c, d), expected in {
        (2, one, -one, -3): (90, False),
        (-one, 1, 2, -one): (180, False),
        (-1, -one, one, 1): (270, False),
        (-one, 1, 1, one): (0, True),
        (one, 2, 2, -one): (180, True),
        (3, one, one, 3): (90, True),
        (2 * one, 0, 0, one): (0, False),
        (0, 0, 0, 0): (0, False),
        (one, one // 400, -one // 400, one): None,
        (one, one, -one, one): None,
        (one, 0, one, 0): None,
    }.items():
        content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
        path = tmp_path / "b.mp4"
        path.write_bytes(content)
        if expected is None:
            with pytest.raises(VideoError, match="no multiple of 90 degrees"):
                probe_video(path)
        else:
            video = probe_video(path)
            assert (video.rotation, video.mirrored) == expected
            assert (video.height, video.width) == ((48, 32) if expected[0] % 180 else (32, 48))
        path.unlink()


@pytest.mark.parametrize(("first", "last"), [(0, 6), (3, 27), (14, 20)])
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_an_edit_list_hides_frames_from_both_ends(
    codec: str, first: int, last: int, tmp_path: Path, pictures: Draw, encode_file: EncodeFile
) -> None:
    """Whole GOPs among them, whose frames the container still counts."""
    options = {"g": "6", "bf": "2", "x264-params": "scenecut=0"}
    path = encode_file(tmp_path / "whole.mp4", pictures(40, 48, 64), codec=codec, options=options)
    whole, _ = read_video(path)
    content = bytearray(path.read_bytes())
    at = content.find(b"elst") + 12
    _, media_time = struct.unpack(">Ii", content[at : at + 8])
    time_base = 24 * 512  # of 24 fps in FFmpeg's MP4
    milliseconds = (last - first) * 1000 // 24
    content[at : at + 8] = struct.pack(">Ii", milliseconds, media_time + first * time_base // 24)
    trimmed = tmp_path / "trimmed.mp4"
    trimmed.write_bytes(content)
    frames, _ = read_video(trimmed)
    assert np.array_equal(frames, whole[first:last])
    assert probe_video(trimmed).seconds == pytest.approx((last - first) / 24)
    assert np.array_equal(read_video(trimmed, start_seconds=4 / 24)[0], whole[first + 4 : last])
    assert choose_decoder(trimmed)[0] == "pyav"
    assert codec == "mpeg4" or choose_decoder(trimmed)[1] == "its edit list hides frames"


@pytest.mark.parametrize(("codec", "pixel_format"), [("mjpeg", "yuvj420p"), ("mpeg4", "yuv420p")])
def test_avi_with_dropped_frames_shows_the_others_longer(
    codec: str, pixel_format: str, tmp_path: Path, pictures: Draw, encode_file: EncodeFile
) -> None:
    """An empty chunk stands for a frame that was dropped, and the file counts it."""
    times = [0, 1, 2, 3, 6, 7, 8]
    path = encode_file(
        tmp_path / "a.avi",
        pictures(7, 48, 64),
        codec=codec,
        pixel_format=pixel_format,
        milliseconds=[125 * time for time in times],
        tick=Fraction(1, 8),
    )
    video = probe_video(path)
    assert np.array_equal(video.starts * 8, times)
    assert video.seconds == 9 / 8
    whole, _ = read_video(path)
    assert np.array_equal(read_video(path, fps=8)[0], whole[[0, 1, 2, 3, 3, 3, 4, 5, 6]])


def test_where_decord_fails_pyav_steps_in(tmp_path: Path, pictures: Draw, encode_file: EncodeFile) -> None:
    path = encode_file(tmp_path / "narrow.mp4", pictures(5, 32, 48))
    with pytest.raises(VideoError, match="decord fails"):
        read_video(path, decoder="decord")
    assert np.array_equal(read_video(path)[0], sequential(path))


def test_odd_sizes(tmp_path: Path, pictures: Draw, encode_file: EncodeFile) -> None:
    scene = pictures(10, 45, 61)
    subsampled = encode_file(tmp_path / "a.webm", scene, codec="libvpx-vp9", options={"cpu-used": "8"})
    full = encode_file(tmp_path / "a.mp4", scene, pixel_format="yuv444p")
    assert choose_decoder(subsampled) == ("pyav", "it has an odd size and subsampled chroma")
    assert choose_decoder(full)[0] == "decord"
    for path in (subsampled, full):
        assert np.array_equal(read_video(path)[0], sequential(path))
        assert read_video(path)[0].shape == (10, 45, 61, 3)


def test_varying_rate_is_resampled_by_what_is_on_display(
    tmp_path: Path, pictures: Draw, encode_file: EncodeFile
) -> None:
    times = [0, 100, 200, 700, 800, 900]
    path = encode_file(tmp_path / "vfr.mp4", pictures(6, 48, 64), milliseconds=times)
    whole, mean_fps = read_video(path)
    frames, fps = read_video(path, fps=10)
    assert fps == 10
    assert mean_fps == pytest.approx(6 / probe_video(path).seconds)
    assert np.array_equal(frames[:9], whole[[0, 1, 2, 2, 2, 2, 2, 3, 4]])


@pytest.mark.parametrize(("name", "rate", "fps"), [("a.mkv", 60, 30), ("a.mkv", 48, 24), ("a.mp4", 60, 15)])
def test_resampling_by_an_even_ratio_takes_evenly_spaced_frames(
    name: str, rate: int, fps: int, tmp_path: Path, pictures: Draw, encode_file: EncodeFile
) -> None:
    """There a frame appears in the middle of every interval, which Matroska rounds to a millisecond."""
    path = encode_file(tmp_path / name, pictures(2 * rate, 16, 16), fps=rate, options={"preset": "ultrafast"})
    video = probe_video(path)
    ratio = rate // fps
    for first in range(rate // 2):
        for start in (first / rate, round(first / rate, 3)):  # as people write it
            picked, _ = pick_frames(video, start_seconds=start, end_seconds=None, num_frames=fps, fps=fps)
            assert np.array_equal(picked, first + ratio // 2 + ratio * np.arange(fps)), (first, start)
    # Spread evenly over the clip, it is the same; and nothing moves at the file's own rate or above.
    assert np.array_equal(
        pick_frames(video, start_seconds=0, end_seconds=1, num_frames=fps, fps=None)[0],
        ratio // 2 + ratio * np.arange(fps),
    )
    for factor in (1, 2, 4):
        picked, _ = pick_frames(video, start_seconds=0, end_seconds=1, num_frames=None, fps=factor * rate)
        assert np.array_equal(picked, np.arange(factor * rate) // factor)


def test_frames_of_a_millisecond_do_not_count_before_they_appear(
    tmp_path: Path, pictures: Draw, encode_file: EncodeFile
) -> None:
    times = [0, 50, 51, 52, 101, 151, 200]
    video = probe_video(encode_file(tmp_path / "a.mkv", pictures(7, 48, 64), milliseconds=times))
    picked, _ = pick_frames(video, start_seconds=0, end_seconds=0.1, num_frames=None, fps=1000)
    assert list(picked) == [0] * 50 + [1, 2] + [3] * 48
    picked, _ = pick_frames(video, start_seconds=0, end_seconds=None, num_frames=2, fps=10)
    assert list(picked) == [1, 5], "frames that are close to each other change nothing elsewhere"


def test_animated_webp_is_laid_over_white(emoji: Path) -> None:
    for name, frames_expected in (("droplet", 56), ("clapping", 28)):
        path = emoji / f"{name}.webp"
        frames, fps = read_video(path)
        info = probe_video(path)
        assert choose_decoder(path)[0] == "pillow"
        assert frames.shape == (frames_expected, 256, 256, 3) == (info.frames, info.height, info.width, 3)
        assert fps == pytest.approx(info.frames / info.seconds)
        assert (frames[0, 0, 0] == 255).all()
        with Image.open(path) as image:
            image.seek(frames_expected - 1)
            canvas = Image.new("RGBA", image.size, "white")
            canvas.alpha_composite(image.convert("RGBA"))
        difference = np.abs(frames[-1].astype(int) - np.asarray(canvas.convert("RGB")))
        assert difference.max() <= 1
        assert len(np.unique(frames[-1])) > 50


def test_webp_frame_durations_count(emoji: Path) -> None:
    source = probe_video(emoji / "droplet.webp")
    gaps = np.diff(source.starts)
    assert gaps.min() == pytest.approx(0.042)
    assert gaps.max() == pytest.approx(0.252)
    clip, _ = read_video(emoji / "clapping.webp", fps=12, num_frames=9)
    whole, _ = read_video(emoji / "clapping.webp")
    # Frames that appear a millisecond after the middle count as there.
    assert np.array_equal(clip, whole[[int(((k + 0.5) / 12 + 0.0015) / 0.042) for k in range(9)]])


def test_transparent_gif_is_laid_over_white(tmp_path: Path) -> None:
    image = Image.new("P", (16, 12), 0)
    image.putpalette([10, 20, 30, 200, 40, 40])
    image.paste(1, (0, 0, 8, 12))
    image.save(tmp_path / "a.gif", transparency=0)
    frames, _ = read_video(tmp_path / "a.gif")
    assert (frames[0, :, 8:] == 255).all()
    assert (frames[0, :, :8] == (200, 40, 40)).all()


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
def test_hasty_animations_are_shown_as_browsers_do(name: str, tmp_path: Path, pictures: Draw) -> None:
    first, *others = [Image.fromarray(picture) for picture in pictures(5, 12, 16)]
    durations = [10, 20, 0, 50, 10]
    first.save(tmp_path / name, save_all=True, append_images=others, duration=durations, loop=0)
    video = probe_video(tmp_path / name)
    assert np.allclose(video.starts, [0, 0.1, 0.12, 0.22, 0.27])
    assert video.seconds == pytest.approx(0.37)


def test_over_white_rounds_to_nearest() -> None:
    pixels = np.array([[[0, 0, 0, 0], [0, 0, 0, 255], [100, 200, 50, 128]]], np.uint8)
    exact = 255 + (pixels[..., :3].astype(float) - 255) * pixels[..., 3:] / 255
    assert np.array_equal(over_white(pixels), np.rint(exact).astype(np.uint8))


@pytest.mark.parametrize(
    ("name", "num_frames", "fps"), [("last_tick.mp4", 12, 12), ("fps1000.mp4", 17, 1000)]
)
def test_the_shortest_frames_count(name: str, num_frames: int, fps: int) -> None:
    whole, rate = read_video(CASES / name)
    bars = whole[:, 20, 8:96:16, 1] > 125
    assert [int(bits @ (1 << np.arange(6))) for bits in bars] == list(range(num_frames))
    assert rate == pytest.approx(fps)
    seconds = probe_video(CASES / name).seconds
    assert seconds == pytest.approx(num_frames / fps)
    assert np.array_equal(read_video(CASES / name, fps=fps)[0], whole)
    assert np.array_equal(read_video(CASES / name, end_seconds=seconds)[0], whole)
    window = {"start_seconds": 3 / fps, "end_seconds": 7 / fps}
    assert np.array_equal(read_video(CASES / name, **window)[0], whole[3:7])


def test_interlaced_pictures_are_deinterlaced_from_anywhere(
    tmp_path: Path, pictures: Draw, encode_file: EncodeFile
) -> None:
    path = CASES / "interlaced.mp4"
    assert choose_decoder(path) == ("pyav", "it is interlaced, or may be")
    assert probe_video(path).frames == 24
    whole, _ = read_video(path)
    rows = whole[:, 10:80, :, 1].astype(int)
    combs = np.abs(rows[:, 1:-1] - (rows[:, :-2] + rows[:, 2:]) / 2)
    assert combs.max() <= 3
    stored = sequential(path)[:, 10:80, :, 1].astype(int)
    assert np.abs(stored[:, 1:-1] - (stored[:, :-2] + stored[:, 2:]) / 2).max() > 100
    for first, last in ((0, 2), (5, 6), (11, 20), (23, 24)):
        frames, _ = read_video(path, start_seconds=first / 25, end_seconds=last / 25)
        assert np.array_equal(frames, whole[first:last])
    # In a container whose packets are not trusted, too, and from a key frame, before which decoding cannot start.
    stream = remux(path, tmp_path / "a.ts")
    assert np.array_equal(read_video(stream)[0], whole)
    fields = {"flags": "+ildct+ilme", "x264-params": "tff=1:keyint=6:min-keyint=6:scenecut=0"}
    moving = pictures(20, 48, 64)
    moving[:, 1::2] = np.roll(moving, -1, axis=0)[:, 1::2]
    path = encode_file(tmp_path / "a.mp4", moving[:18], options=fields)
    assert 6 in np.searchsorted(probe_video(path).pts, probe_video(path).keyframe_pts)
    whole, _ = read_video(path)
    assert np.array_equal(read_video(path, start_seconds=6 / 24)[0], whole[6:])


def remux(source: Path, target: Path) -> Path:
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.size:
                packet.stream = stream
                made.mux(packet)
    return target


def test_the_cover_of_a_song_is_no_video(tmp_path: Path) -> None:
    cover = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(cover, "PNG")
    song = io.BytesIO()
    # FLAC without a sample; a block of type 6 holds a picture.
    information = bytes.fromhex("1000100000000000000000ac4400f000000000") + bytes(15)
    picture = (
        struct.pack(">II", 3, 9) + b"image/png" + struct.pack(">6I", 0, 32, 32, 24, 0, len(cover.getvalue()))
    )
    song.write(b"fLaC\x00" + len(information).to_bytes(3, "big") + information)
    song.write(b"\x86" + len(picture + cover.getvalue()).to_bytes(3, "big") + picture + cover.getvalue())
    (tmp_path / "a.flac").write_bytes(song.getvalue())
    with av.open(str(tmp_path / "a.flac")) as file:
        assert len(file.streams.video) == 1
    with pytest.raises(VideoError, match="has no video stream"):
        probe_video(tmp_path / "a.flac")


def test_a_size_that_changes_is_named(tmp_path: Path, pictures: Draw, encode_file: EncodeFile) -> None:
    names = [encode_file(tmp_path / f"{w}.h264", pictures(4, 48, w)) for w in (64, 96)]
    (tmp_path / "a.h264").write_bytes(b"".join(name.read_bytes() for name in names))
    with pytest.raises(VideoError, match="has another size than the first one"):
        read_video(tmp_path / "a.h264")


def test_damaged_pictures_are_not_passed_on(tmp_path: Path, pictures: Draw, encode_file: EncodeFile) -> None:
    path = encode_file(tmp_path / "whole.mp4", pictures(40, 96, 128))
    content = bytearray(path.read_bytes())
    middle = content.find(b"mdat") + 4000
    content[middle : middle + 40] = np.random.default_rng(0).integers(0, 256, 40, np.uint8).tobytes()
    path.write_bytes(content)
    with pytest.raises(VideoError, match=r"damaged|decoding fails"):
        read_video(path, decoder="pyav")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"a fox jumps\n" * 50, "cannot be read as video"),
        (b"RIFF\x30\x00\x00\x00WEBPVP8 " + bytes(40), "cannot be read as WebP"),
    ],
)
def test_what_is_no_video_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "fox.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError, match=message) as caught:
        read_video(path)
    assert str(path) in str(caught.value)
    assert str(path) not in caught.value.reason


def test_missing_file_and_sound_only(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="No such file"):
        probe_video(tmp_path / "none.mp4")
    sound = io.BytesIO()
    with av.open(sound, "w", format="wav") as file:
        stream = file.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        file.mux(stream.encode(frame))
    (tmp_path / "a.wav").write_bytes(sound.getvalue())
    with pytest.raises(VideoError, match="has no video stream"):
        probe_video(tmp_path / "a.wav")


def test_paths_that_lead_to_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    for path, message in [
        (tmp_path, "is a folder, expected a file"),
        (tmp_path / "pipe.mp4", "is a pipe, a socket or a device"),
        (Path("/dev/zero"), "is a pipe, a socket or a device"),
        (tmp_path / "a\0b.mp4", "embedded null byte"),
        (tmp_path / "\ud83d.mp4", "surrogates not allowed"),
        (tmp_path / f"{'n' * 300}.mp4", "File name too long"),
        (tmp_path / "pipe.mp4" / "a.mp4", "Not a directory"),
    ]:
        with pytest.raises(VideoError, match=message):
            probe_video(path)


def test_windows_and_counts(tmp_path: Path, pictures: Draw, encode_file: EncodeFile) -> None:
    path = encode_file(tmp_path / "a.mp4", pictures(48, 48, 64))
    whole, fps = read_video(path)
    assert fps == 24
    assert np.array_equal(read_video(path, start_seconds=0.5, end_seconds=1.0)[0], whole[12:24])
    assert np.array_equal(read_video(path, start_seconds=1.5)[0], whole[36:])
    assert np.array_equal(read_video(path, fps=12, num_frames=5, start_seconds=1)[0], whole[25:34:2])
    spread, rate = read_video(path, num_frames=6)
    assert np.array_equal(spread, whole[4::8])
    assert rate == 3
    assert np.array_equal(read_video(path, fps=48, num_frames=4)[0], whole[[0, 0, 1, 1]])
    with pytest.raises(VideoError, match=r"has 24 frames at 12 fps from 0 s to 2 s, fewer than the 33"):
        read_video(path, fps=12, num_frames=33)
    with pytest.raises(VideoError, match=r"is 2 s long, but the clip is to end at 3 s"):
        read_video(path, end_seconds=3)
    with pytest.raises(VideoError, match="has 12 frames"):
        read_video(path, end_seconds=0.5, num_frames=13)
    with pytest.raises(VideoError, match="0 <= start < end"):
        read_video(path, start_seconds=1, end_seconds=1)
    with pytest.raises(VideoError, match="num_frames 0"):
        read_video(path, num_frames=0)
    with pytest.raises(VideoError, match="fps nan"):
        read_video(path, fps=float("nan"))


def test_probe_sees_a_file_change(tmp_path: Path, pictures: Draw, encode_file: EncodeFile) -> None:
    path = encode_file(tmp_path / "a.mp4", pictures(12, 48, 64))
    assert probe_video(path).frames == 12
    encode_file(path, pictures(20, 32, 64), pixel_aspect=Fraction(4, 3))
    info = probe_video(path)
    assert (info.frames, info.height, info.width, info.fps, info.codec) == (20, 32, 64, 24, "h264")
    assert info.pixel_aspect == pytest.approx(4 / 3)
    assert info.seconds == pytest.approx(20 / 24)
