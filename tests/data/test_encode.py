import errno
import json
import os
import resource
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from swd_video.core.grid import LatentSize, PixelSize
from swd_video.core.resize import resize_pixels
from swd_video.core.schedule import ScaleSchedule
from swd_video.data.clips import clip_pixels, crop_to_shape, pixels_or_reason
from swd_video.data.encode import encode_manifest
from swd_video.data.latent_cache import CacheError, LatentCache
from swd_video.data.latent_cache_filling import CacheReport
from swd_video.data.manifest import Clip, read_manifest
from swd_video.data.share import Share
from swd_video.data.video import VideoError, read_video
from swd_video.files import FolderInUseError, alone_in, together_in
from swd_video.models.base import VideoModel
from swd_video.models.loading import load_teacher

from ..forked import start_forked

Draw = Callable[[int, int, int], np.ndarray]
EncodeFile = Callable[..., Path]
# The tiny model's frame rate is 16: 9 frames, the tiny schedule's target, last 0.5625 s.
TARGET = PixelSize(9, 48, 64)


@pytest.fixture(scope="module")
def model(tiny_wan_folder: Path) -> VideoModel:
    return load_teacher(tiny_wan_folder)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, pictures: Draw, encode_file: EncodeFile) -> Path:
    """A folder of readable and unreadable clips, with a manifest."""
    folder = tmp_path_factory.mktemp("videos")
    encode_file(folder / "wide.mp4", pictures(30, 64, 128))
    encode_file(folder / "tall.webm", pictures(20, 96, 64), codec="libvpx-vp9", options={"cpu-used": "8"})
    encode_file(folder / "short.mp4", pictures(8, 64, 128))
    encode_file(folder / "small.mp4", pictures(20, 32, 64))
    (folder / "cut.mp4").write_bytes((folder / "wide.mp4").read_bytes()[:-500])
    lines = [
        {"path": "wide.mp4", "caption": "discs"},
        {"path": "cut.mp4", "caption": "cut"},
        {"path": "tall.webm", "caption": "tall discs"},
        {"path": "short.mp4", "caption": "discs"},
        {"path": "wide.mp4", "caption": "late discs", "start": 0.5, "end": 1.1},
        {"path": "small.mp4", "caption": "discs"},
        {"path": "none.mp4", "caption": "nothing"},
        {"path": "tall.webm", "caption": "discs", "start": 0.2},
    ]
    (folder / "clips.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def not_needed() -> VideoModel:
    raise AssertionError("the model is loaded although nothing is to be encoded")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_grid_holds_what_the_vae_sees_of_the_shrunk_clip(
    model: VideoModel, tiny_schedule: ScaleSchedule, videos: Path, tmp_path: Path
) -> None:
    clips = read_manifest(videos / "clips.jsonl")
    said: list[str] = []
    progress: list[tuple[int, int]] = []
    report = encode_manifest(
        clips,
        lambda: model,
        tiny_schedule.grids,
        tmp_path,
        model_name="tiny",
        batch_size=2,
        shard_size=3,
        progress=lambda done, total: progress.append((done, total)),
        say=said.append,
    )
    assert (report["num_clips"], report["samples"], report["num_captions"], report["reused"]) == (8, 4, 5, 0)
    skipped = report["skipped"]
    assert said[:-1] == [f"skipped {clip['path']}: {clip['reason']}" for clip in skipped]
    assert [clip["path"] for clip in skipped] == ["cut.mp4", "short.mp4", "small.mp4", "none.mp4"]
    reasons = [clip["reason"] for clip in skipped]
    assert "is cut short" in reasons[0]
    assert "has 5 frames at 16 fps from 0 s to 0.3333 s, fewer than the 9 asked for" in reasons[1]
    assert "shows 64x32 pixels, fewer than the 64x48" in reasons[2]
    assert "No such file" in reasons[3]
    assert progress == [(done, 8) for done in range(9)]
    cache = LatentCache(tmp_path)
    assert cache.index["skipped"] == skipped
    assert [cache.get(i)["key"] for i in range(4)] == ["00000000", "00000002", "00000004", "00000007"]
    # The third shard holds two clips, one of them unreadable; clip 4 shares a shard with two unreadable ones.
    for position, number in enumerate([0, 2, 4, 7]):
        sample, clip = cache.get(position), clips[number]
        assert sample["caption"] == clip.caption
        expected = model.encode_prompt([clip.caption])[0]
        torch.testing.assert_close(sample["prompt_embeds"].float(), expected, rtol=2e-3, atol=2e-3)
        pixels = clip_pixels(clip, TARGET, 16)
        for grid in tiny_schedule.distinct_grids:
            shrunk = resize_pixels(pixels, model.spec.compression.pixel_size(grid))
            expected = model.encode_video(shrunk)[0]
            torch.testing.assert_close(sample["latents"][grid].float(), expected, rtol=2e-3, atol=2e-3)


def test_a_clip_is_the_right_frames_cropped_to_the_right_place(videos: Path) -> None:
    clip = Clip(videos / "wide.mp4", "", start=0.5)
    pixels = clip_pixels(clip, TARGET, 16)
    frames, _ = read_video(videos / "wide.mp4", start_seconds=0.5, fps=16, num_frames=9)
    # 128x64 pictures: the middle 85 columns have the shape of 64x48.
    middle = torch.from_numpy(frames[:, :, 21:106].copy()).permute(3, 0, 1, 2)[None] / 127.5 - 1
    assert pixels.shape == (1, 3, 9, 48, 64)
    torch.testing.assert_close(pixels, resize_pixels(middle, TARGET), rtol=0, atol=1e-5)
    with pytest.raises(VideoError, match=r"is 1\.25 s long, but the clip is to end at 2 s"):
        clip_pixels(Clip(videos / "wide.mp4", "", start=0.5, end=2), TARGET, 16)


def test_crops(pictures: Draw) -> None:
    square = PixelSize(1, 32, 32)
    wide = pictures(2, 40, 64)
    assert np.array_equal(crop_to_shape(wide, square), wide[:, :, 12:52])
    tall = pictures(2, 64, 40)
    assert np.array_equal(crop_to_shape(tall, square), tall[:, 12:52])
    # Pixels twice as wide as high: 40x80 shown; 20 columns of 40 rows are square.
    assert np.array_equal(crop_to_shape(pictures(2, 40, 40), square, 2.0), pictures(2, 40, 40)[:, :, 10:30])
    exact = pictures(2, 32, 32)
    assert np.array_equal(crop_to_shape(exact, square), exact)
    with pytest.raises(ValueError, match="shows 40x31 pixels, fewer than the 32x32"):
        crop_to_shape(pictures(2, 31, 40), square)


def test_a_finished_cache_serves_and_another_is_refused(
    model: VideoModel, tiny_schedule: ScaleSchedule, videos: Path, tmp_path: Path
) -> None:
    clips = read_manifest(videos / "clips.jsonl")[:1]
    grids = tiny_schedule.distinct_grids
    first = encode_manifest(clips, lambda: model, grids, tmp_path, model_name="tiny", encoders="e")
    before = contents(tmp_path)
    for wanted in (grids, grids[-1:], tiny_schedule.grids):
        again = encode_manifest(clips, not_needed, wanted, tmp_path, model_name="tiny", encoders="e")
        assert (again["samples"], again["reused"]) == (first["samples"], 1)
    moved = encode_manifest(clips, not_needed, grids, tmp_path, model_name="moved/tiny", encoders="e")
    assert moved["reused"] == 1 and contents(tmp_path) == before
    # Another target means other crops and sizes, although its latents lie in the cache.
    with pytest.raises(CacheError, match="another grids"):
        encode_manifest(clips, lambda: model, grids[:1], tmp_path, model_name="tiny", encoders="e")
    with pytest.raises(CacheError, match="of another VAE, text encoder or adapter"):
        encode_manifest(clips, lambda: model, grids, tmp_path, model_name="tiny", encoders="retrained")
    with pytest.raises(CacheError, match="of other clips or captions"):
        encode_manifest(clips * 2, lambda: model, grids, tmp_path, model_name="tiny", encoders="e")


def test_wrong_grids_are_named(model: VideoModel, videos: Path, tmp_path: Path) -> None:
    clips = read_manifest(videos / "clips.jsonl")
    with pytest.raises(
        ValueError, match="schedule: latent size 3x5x8 is not a whole number of 1x2x2 patches"
    ):
        encode_manifest(clips, lambda: model, [LatentSize(3, 5, 8)], tmp_path / "a", model_name="tiny")
    grids = [LatentSize(3, 8, 4), LatentSize(3, 6, 8)]
    with pytest.raises(ValueError, match="latent grid 3x8x4 is larger than the last one, 3x6x8"):
        encode_manifest(clips, lambda: model, grids, tmp_path / "a", model_name="tiny")
    assert not (tmp_path / "a").exists()


def test_nothing_readable_still_makes_a_cache(
    model: VideoModel, tiny_schedule: ScaleSchedule, tmp_path: Path
) -> None:
    clips = [Clip(tmp_path / f"{name}.mp4", name) for name in "abc"]
    out = tmp_path / "cache"
    report = encode_manifest(clips, lambda: model, tiny_schedule.grids, out, model_name="tiny", shard_size=2)
    assert (report["samples"], len(report["skipped"])) == (0, 3)
    assert len(LatentCache(out)) == 0


CASES = Path(__file__).parents[1] / "cases"


class _Strange(type(Path())):  # type: ignore[misc]
    """Stands for what nobody has thought of."""

    def __fspath__(self) -> str:
        raise KeyError("unheard of\nin files")


def test_no_bad_file_ends_an_encode(
    model: VideoModel, tiny_schedule: ScaleSchedule, videos: Path, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket.mp4"))
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video\n" * 1000)
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 64)
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "riff.mp4").write_bytes(b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0" + b"\xff" * 6)
    bad = {
        "folder.mp4": "is a folder",
        "pipe.mp4": "is a pipe, a socket or a device",
        "socket.mp4": "is a pipe, a socket or a device",
        "/dev/zero": "is a pipe, a socket or a device",
        "empty.mp4": "is empty",
        "text.mp4": "cannot be read as video",
        "noise.mp4": "cannot be read as video",
        "riff.mp4": "cannot be read as WebP: Image size",
        "loop.mp4": "Too many levels of symbolic links",
        "n" * 300: "File name too long",
        "\ud83d\nfox\x1b.mp4": "surrogates not allowed",
    }
    lines = [(CASES / f"{name}.jsonl").read_text() for name in ("folder", "nul_path", "surrogate_caption")]
    lines += [json.dumps({"path": path, "caption": reason}) for path, reason in bad.items()]
    lines += [json.dumps({"path": str(videos / "wide.mp4"), "caption": "a \x08 bell"})]
    lines += [json.dumps({"path": str(videos / "wide.mp4"), "caption": "discs"})]
    (tmp_path / "clips.jsonl").write_text("\n".join(lines))
    told: list[str] = []
    out = tmp_path / "cache"
    clips = read_manifest(tmp_path / "clips.jsonl")
    clips.insert(0, Clip(_Strange("a.mp4"), "discs", written_path="a.mp4"))
    report = encode_manifest(
        clips, lambda: model, tiny_schedule.grids[:1], out, model_name="tiny", say=told.append, shard_size=9
    )
    assert (report["num_clips"], report["samples"]) == (len(bad) + 6, 1)
    assert told[:-1] == [f"skipped {clip['path']}: {clip['reason']}" for clip in report["skipped"]]
    reasons = [clip["reason"] for clip in report["skipped"]]
    expected = ["KeyError: ", "is a folder", "embedded null byte", "U+D83D", *bad.values(), "U+0008"]
    assert [known in reason for known, reason in zip(expected, reasons, strict=True)] == [True] * len(reasons)
    assert reasons[3].startswith("line 5 of the manifest: caption holds half a character")
    assert all(text.isprintable() for clip in report["skipped"] for text in clip.values())
    assert [LatentCache(out)[0][key] for key in ("key", "caption")] == [f"{len(clips) - 1:08d}", "discs"]
    assert told[-1].startswith(f"{len(bad) + 5} of {len(bad) + 6} clips are skipped: 3 x is a pipe,")


@pytest.mark.parametrize("name", ["EIO", "ENODEV", "ENXIO", "EHOSTDOWN", "ENETDOWN", "ENOMEM"])
def test_a_disk_that_fails_is_no_clip_that_does(
    name: str, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, stat = getattr(errno, name), os.stat

    def fail(path: Any, *arguments: Any, **settings: Any) -> os.stat_result:
        if Path(path).name == "wide.mp4":
            raise OSError(code, os.strerror(code), path)
        return stat(path, *arguments, **settings)

    monkeypatch.setattr(os, "stat", fail)
    with pytest.raises(OSError, match=os.strerror(code)):
        pixels_or_reason(Clip(videos / "wide.mp4", "discs"), TARGET, 16)


def test_a_folder_that_goes_away_is_no_missing_clip(videos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "disk" / "clips"
    shutil.copytree(videos, folder)
    good, missing = Clip(folder / "wide.mp4", "discs"), Clip(folder / "none.mp4", "discs")
    nowhere = Clip(tmp_path / "never" / "wide.mp4", "discs")
    assert isinstance(pixels_or_reason(good, TARGET, 16), torch.Tensor)
    for clip in (missing, nowhere):
        assert pixels_or_reason(clip, TARGET, 16) == "No such file or directory."
    shutil.rmtree(folder)
    for clip in (good, missing):
        with pytest.raises(OSError, match=rf"{folder} was there and is gone: '.*{clip.path.name}'"):
            pixels_or_reason(clip, TARGET, 16)
    assert pixels_or_reason(nowhere, TARGET, 16) == "No such file or directory."


def test_a_failure_of_the_machine_ends_it_and_is_gone_on_from(
    model: VideoModel, tiny_schedule: ScaleSchedule, videos: Path, tmp_path: Path
) -> None:
    clips = [Clip(videos / "wide.mp4", f"discs {number}", start=number / 10) for number in range(6)]
    arguments = (clips, lambda: model, tiny_schedule.grids[:1])
    settings: dict[str, Any] = {"model_name": "tiny", "shard_size": 3, "batch_size": 1}
    for limit, allowed, clips_before, message in [
        # With three handles open already, none is left for the fourth clip's successors, which are read ahead.
        (resource.RLIMIT_NOFILE, 3, 4, r"Too many open files: '.*wide\.mp4'"),
        (resource.RLIMIT_FSIZE, 100, 5, r"File too large: '.*latents-00001\.safetensors'"),
    ]:
        before = resource.getrlimit(limit)

        def spoil(
            done: int,
            _: int,
            limit: int = limit,
            allowed: tuple[int, int] = (allowed, before[1]),
            clips_before: int = clips_before,
        ) -> None:
            if done == clips_before:
                resource.setrlimit(limit, allowed)

        out = tmp_path / str(limit)
        try:
            with pytest.raises(OSError, match=message):
                encode_manifest(*arguments, out, progress=spoil, **settings)
        finally:
            resource.setrlimit(limit, before)
        report = encode_manifest(*arguments, out, **settings)
        assert (report["samples"], report["skipped"], report["reused"]) == (6, [], 3)
    assert contents(tmp_path / str(resource.RLIMIT_NOFILE)) == contents(out)


def test_numbers_that_do_not_fit_are_a_clips_own_unless_a_plain_clip_has_them_too(
    tiny_wan_folder: Path, tiny_schedule: ScaleSchedule, tmp_path: Path, encode_file: EncodeFile
) -> None:
    model, grids = load_teacher(tiny_wan_folder), tiny_schedule.grids[:1]
    encode_file(tmp_path / "grey.mp4", np.full((30, 48, 64, 3), 128, np.uint8))
    noise = np.random.default_rng(0).integers(0, 256, (30, 48, 64, 3), np.uint8)
    encode_file(tmp_path / "noise.mp4", noise, options={"crf": "1"})
    clips = [Clip(tmp_path / f"{name}.mp4", name) for name in ("noise", "grey")]
    size = model.spec.compression.pixel_size(grids[0])
    loud, plain = (float(model.encode_video(clip_pixels(clip, size, 16)).abs().max()) for clip in clips)
    assert loud > 1.05 * plain
    spread = model.vae.config.latents_std

    def encode(factor: float) -> CacheReport:
        model.vae.register_to_config(latents_std=[value / factor for value in spread])
        return encode_manifest(
            clips, lambda: model, grids, tmp_path / f"{factor}", model_name="tiny", batch_size=1
        )

    report = encode(65000 / plain)
    reason = "latents on 2x4x4: infinite or nan in float16; use dtype bfloat16"
    assert [(clip["path"], clip["reason"]) for clip in report["skipped"]] == [
        (str(clips[0].path), f"{reason}.")
    ]
    assert report["samples"] == 1
    with pytest.raises(CacheError, match=reason):
        encode(70000 / plain)


def test_what_is_missing_of_a_finished_cache_is_encoded_again(
    model: VideoModel, tiny_schedule: ScaleSchedule, videos: Path, tmp_path: Path
) -> None:
    clips, grids = read_manifest(videos / "clips.jsonl"), tiny_schedule.distinct_grids
    settings: dict[str, Any] = {"model_name": "tiny", "shard_size": 2}
    first = encode_manifest(clips, lambda: model, grids, tmp_path, **settings)
    before, said = contents(tmp_path), []
    (tmp_path / "latents-00001.safetensors").unlink()
    (tmp_path / "prompts-00002.safetensors").write_bytes(b"")
    # Asked for one grid, it keeps what the cache has, and its own size of shards.
    again = encode_manifest(clips, lambda: model, grids[-1:], tmp_path, model_name="tiny", say=said.append)
    assert said[:1] == ["missing or damaged, so made again: latents-00001.safetensors and 1 more"]
    assert (again["reused"], again["made"]) == (6, 2) and {**again, "reused": 0, "made": 8} == first
    assert contents(tmp_path) == before
    with alone_in(tmp_path), pytest.raises(FolderInUseError, match="another run is writing there"):
        encode_manifest(clips, lambda: model, grids, tmp_path, retry_skipped=True, **settings)
    with alone_in(tmp_path / "part"), pytest.raises(FolderInUseError):
        encode_manifest(clips, lambda: model, grids, tmp_path / "part", share=Share(0, 2), **settings)
    with together_in(tmp_path / "part"), pytest.raises(FolderInUseError):
        encode_manifest(clips, lambda: model, grids, tmp_path / "part", **settings)


def test_what_another_share_has_made_again_stays(
    model: VideoModel, tiny_schedule: ScaleSchedule, videos: Path, tmp_path: Path
) -> None:
    clips, grids = read_manifest(videos / "clips.jsonl"), tiny_schedule.distinct_grids
    settings: dict[str, Any] = {"model_name": "tiny", "shard_size": 2}
    encode_manifest(clips, lambda: model, grids, tmp_path, **settings)
    before = contents(tmp_path)
    (tmp_path / "latents-00000.safetensors").write_bytes(b"")

    def load_slowly() -> VideoModel:
        # The other share finds the same file damaged, and is done before this one has its model.
        encode_manifest(clips, lambda: model, grids, tmp_path, share=Share(0, 2), **settings)
        return model

    last = encode_manifest(clips, load_slowly, grids, tmp_path, share=Share(1, 2), **settings)
    assert last["complete"] and contents(tmp_path) == before


_ENCODE = """
import sys
import torch
from swd_video.core.grid import LatentSize
from swd_video.data.encode import encode_manifest
from swd_video.data.manifest import read_manifest
from swd_video.models.loading import load_teacher
torch.set_num_threads(int(sys.argv[1]))
manifest, model, out = sys.argv[2:5]
grids = [LatentSize.parse(text) for text in sys.argv[5:]]
encode_manifest(
    read_manifest(manifest), lambda: load_teacher(model), grids, out, model_name="tiny", batch_size=2, shard_size=1
)
"""


def test_killed_and_started_again_ends_with_the_same_bytes(
    model: VideoModel, tiny_wan_folder: Path, tiny_schedule: ScaleSchedule, videos: Path, tmp_path: Path
) -> None:
    manifest = videos / "clips.jsonl"
    grids = [str(grid) for grid in tiny_schedule.distinct_grids]
    killed = tmp_path / "killed"
    killed.mkdir()  # or the run makes it, takes it away and makes it again while it is watched
    process = start_forked(_ENCODE, torch.get_num_threads(), manifest, tiny_wan_folder, killed, *grids)
    while process.poll() is None and len(list(killed.glob("latents-*"))) < 2:
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "the run came to its end before it could be killed"
    assert 2 <= len(list(killed.glob("latents-*"))) < 8
    with pytest.raises(CacheError, match="not finished"):
        LatentCache(killed)
    # What a kill in the middle of a write leaves behind.
    (killed / ".latents-00007.safetensors.0123456789abcdef.draft").write_bytes(b"half")

    clips = read_manifest(manifest)
    settings = {"model_name": "tiny", "batch_size": 2, "shard_size": 1}
    resumed = encode_manifest(clips, lambda: model, tiny_schedule.distinct_grids, killed, **settings)
    whole = encode_manifest(
        clips, lambda: model, tiny_schedule.distinct_grids, tmp_path / "whole", **settings
    )
    assert resumed["reused"] >= 2
    assert (resumed["samples"], resumed["skipped"]) == (whole["samples"], whole["skipped"])
    assert contents(killed) == contents(tmp_path / "whole")


def test_parts_make_the_cache_that_one_run_makes(
    model: VideoModel, tiny_schedule: ScaleSchedule, videos: Path, tmp_path: Path
) -> None:
    clips, grids = read_manifest(videos / "clips.jsonl"), tiny_schedule.distinct_grids
    settings: dict[str, Any] = {"model_name": "tiny", "batch_size": 2, "shard_size": 2}
    seen: list[tuple[int, int]] = []
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    second = encode_manifest(
        clips,
        lambda: model,
        grids,
        parts,
        share=Share(1, 2),
        progress=lambda *counts: seen.append(counts),
        **settings,
    )
    assert not second["complete"] and seen[-1] == (4, 4)
    with pytest.raises(CacheError, match="not finished"):
        LatentCache(parts)
    with pytest.raises(ValueError, match="encode without a shard"):
        encode_manifest(clips, lambda: model, grids, parts, share=Share(0, 2), retry_skipped=True, **settings)
    first = encode_manifest(clips, lambda: model, grids, parts, share=Share(0, 2), **settings)
    assert {**first, "reused": 0, "made": 8} == encode_manifest(
        clips, lambda: model, grids, whole, **settings
    )
    assert contents(parts) == contents(whole)
