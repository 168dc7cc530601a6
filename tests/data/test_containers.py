"""Cut and damaged files are noticed in every container, and no name means anything but a file."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

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

CASES = Path(__file__).parents[1] / "cases"
Draw = Callable[[int, int, int], np.ndarray]
EncodeFile = Callable[..., Path]

GOPS_OF_8 = {"g": "8", "bf": "0", "x264-params": "scenecut=0"}
# The codec, the pixel format, and whether a gap in the middle shows when the file is probed (else when it is read).
CONTAINERS = {
    "mp4": ("libx264", "yuv420p", False),
    "mov": ("libx264", "yuv420p", False),
    "mkv": ("libx264", "yuv420p", True),
    "webm": ("libvpx-vp9", "yuv420p", True),
    "avi": ("mpeg4", "yuv420p", True),
    "ts": ("libx264", "yuv420p", False),
    "m2ts": ("libx264", "yuv420p", False),
    "flv": ("flv", "yuv420p", True),
    "wmv": ("wmv2", "yuv420p", None),
    "ivf": ("libvpx", "yuv420p", None),
    "gif": ("gif", "rgb8", True),
    "apng": ("apng", "rgb24", True),
    "mxf": ("mpeg2video", "yuv420p", True),
    "ogv": ("libvpx", "yuv420p", None),
    "mpg": ("mpeg2video", "yuv420p", None),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_cut_or_damaged_file_is_noticed(
    container: str, tmp_path: Path, pictures: Draw, encode_file: EncodeFile
) -> None:
    codec, pixel_format, gap_shows = CONTAINERS[container]
    options = {"g": "6", "preset": "ultrafast", "cpu-used": "8"}
    path = tmp_path / f"a.{container}"
    encode_file(path, pictures(16, 64, 96), codec=codec, pixel_format=pixel_format, fps=25, options=options)
    whole = path.read_bytes()
    assert probe_video(path).frames == len(read_video(path)[0]) == 16
    # With their last bytes these lose only stuffing, or an index.
    for share in (0.35, 0.6) if container in ("mpg", "mxf") else (0.01, 0.35, 0.6, 0.9, 0.9999):
        path.write_bytes(whole[: min(int(share * len(whole)) | 1, len(whole) - 1)])
        with pytest.raises(VideoError, match=r"cut short|damaged|has no frame|cannot be read"):
            probe_video(path)
    if gap_shows is not None:
        damaged = bytearray(whole)
        middle = len(whole) // 2
        damaged[middle : middle + len(whole) // 4] = bytes(len(whole) // 4)
        path.write_bytes(damaged)
        with pytest.raises(VideoError):
            probe_video(path) if gap_shows else read_video(path, decoder="pyav")
    # What a download appended is no part of a file that says where it ends.
    tail = bytes(1000) if container in ("mp4", "mkv", "webm", "avi", "gif") else b""
    path.write_bytes(whole + tail)
    assert probe_video(path).frames == len(read_video(path)[0]) == 16


def test_matroska_without_a_length_is_measured_by_its_blocks(
    tmp_path: Path, pictures: Draw, encode_file: EncodeFile
) -> None:
    """As browsers record it: the segment's length is not known."""
    path = encode_file(tmp_path / "a.mkv", pictures(12, 64, 96))
    content = bytearray(path.read_bytes())
    at = content.find(b"\x18\x53\x80\x67") + 4
    content[at : at + 8] = b"\x01" + b"\xff" * 7
    path.write_bytes(content)
    assert probe_video(path).frames == 12
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(VideoError, match="cut short"):
        probe_video(path)


def test_a_transport_stream_with_losses_is_read_where_it_is_whole(
    tmp_path: Path, pictures: Draw, encode_file: EncodeFile
) -> None:
    scene = pictures(64, 64, 96)
    parts = [
        encode_file(
            tmp_path / f"{start}.ts", scene[start : start + 32], options=GOPS_OF_8, milliseconds=times
        )
        for start, times in ((0, range(0, 1280, 40)), (32, range(1280, 2560, 40)))
    ]
    content = b"".join(part.read_bytes() for part in parts)
    path = tmp_path / "joined.ts"
    path.write_bytes(content)
    whole, _ = read_video(path)
    assert np.array_equal(whole, np.concatenate([read_video(part)[0] for part in parts]))
    assert np.array_equal(read_video(path, start_seconds=1.2, end_seconds=1.4)[0], whole[30:35])
    # One packet of the video is lost, in the second GOP.
    packets = [content[at : at + 188] for at in range(0, len(content), 188)]
    video = [number for number, packet in enumerate(packets) if packet[1] & 0x1F == 1 and packet[2] == 0]
    starts = [number for number in video if packets[number][1] & 0x40]
    del packets[starts[12]]
    path.write_bytes(b"".join(packets))
    damaged = probe_video(path)
    assert [
        (round(damaged.starts[a] / 0.04), round(damaged.starts[b] / 0.04)) for a, b in damaged.damage
    ] == [(8, 16)]
    with pytest.raises(VideoError, match=r"is damaged from 0\.320 s to 0\.640 s\. Take another part"):
        read_video(path)
    assert np.array_equal(read_video(path, end_seconds=0.32)[0], whole[:8])
    assert np.array_equal(read_video(path, start_seconds=0.64)[0], whole[16:])


def test_a_zero_between_the_blocks_of_a_gif_is_no_damage(
    tmp_path: Path, pictures: Draw, encode_file: EncodeFile
) -> None:
    path = encode_file(tmp_path / "a.gif", pictures(4, 24, 32), codec="gif", pixel_format="rgb8")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"\x00;")
    assert probe_video(path).frames == len(read_video(path)[0]) == 4
    path.write_bytes(content[:-1] + bytes(20) + b";")
    with pytest.raises(VideoError, match="damaged at byte"):
        probe_video(path)


@pytest.mark.parametrize("name", ["meta_latin1.avi", "meta_latin1.mp4"])
def test_tags_that_are_no_utf8_cost_no_frame(name: str) -> None:
    frames, fps = read_video(CASES / name)
    bars = frames[:, 20, 8:96:16, 1] > 125
    assert [int(bits @ (1 << np.arange(6))) for bits in bars] == list(range(24))
    assert fps == 16
    assert read_video_metadata(CASES / name)["title"] == "Xam\ufffd\ufffd\ufffdier"


NAMES = [
    "file:a.mp4",
    "http:a.mp4",
    "concat:a.mp4|b.mp4",
    "data:,a.mp4",
    "pipe:0",
    "-",
    "%03d.png",
    "[a]*{b}?.jpg",
    "a\nb.mp4",
    " a.mp4",
    "狐.mp4",
    os.fsdecode(b"\xff.mp4"),
]


def test_any_name_is_a_file(tmp_path: Path, pictures: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scene = pictures(3, 48, 64)
    # Files that FFmpeg would find under these names.
    for decoy in ("a.mp4", "b.mp4"):
        write_video(decoy, 255 - scene, 12)
    for index, picture in enumerate(scene):
        Image.fromarray(255 - picture).save(f"{index:03d}.png")
    for name in NAMES:
        write_video(name, scene, 12, metadata={"prompt": "fox"})
        assert read_video_metadata(name) == {"prompt": "fox"}
        for decoder in ("pyav", "auto"):
            frames, _ = read_video(name, decoder=decoder)
            assert np.abs(frames.astype(int) - scene).mean() < 12, name
    for name in ("imageio:fox.webp", "http:x.gif", "%d.webp"):
        write_preview(name, scene, 12)
        assert probe_video(name).frames == 3
    assert not [name for name in os.listdir() if name.endswith(".draft")]


def test_a_file_that_names_others_opens_none(
    tmp_path: Path, pictures: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "a.mp4", pictures(3, 48, 64), 12)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/a.ts"
    for name, content in {
        "a.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}\n#EXT-X-ENDLIST\n",
        "b.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path}/a.mp4\n#EXT-X-ENDLIST\n",
        "a.ffconcat": f"ffconcat version 1.0\nfile {tmp_path}/a.mp4\n",
        "b.ffconcat": "ffconcat version 1.0\nfile a.mp4\n",
        "a.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    }.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(VideoError, match="cannot be read as video"):
            probe_video(tmp_path / name)
    with pytest.raises(BlockingIOError):
        listener.accept()
    listener.close()
