"""Shots that go on where another one ends: in which order they are made, the picture they start from, their colours.

The first picture of such a clip shows once more what the last one of the other shows, so a film drops it. A model and
its decoder give colours back a little off; what is off between the two pictures that follow each other in a film is
drift, and is taken out of the whole clip.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Float64, UInt8
from PIL import Image
from torch import Tensor

from swd_video.data.video import probe_video, read_video, write_video
from swd_video.studio.clips import PlannedClip, hash_content
from swd_video.studio.folder import object_at, read_object, sidecar_file
from swd_video.studio.pictures import fit_picture, open_picture, picture_as_pixels

REPEATED_FRAMES = 1
"""At the start of a clip that continues another: a film drops them where the two follow each other."""

LARGEST_DRIFT = 32.0
"""Levels, of 255, that the mean of a channel may be off; more is another picture, and its colours are its own."""

LARGEST_GAIN = 1.5
"""The same of the deviation of a channel, as a factor in either direction."""

_FLAT = 2.0
"""Levels: a channel that deviates less has no contrast to compare."""

_Levels: TypeAlias = Float64[np.ndarray, "3"]
_Frame: TypeAlias = UInt8[np.ndarray, "height width 3"]


def in_chain_order(clips: Iterable[PlannedClip]) -> list[PlannedClip]:
    """The same clips, each behind the one that it continues, and else as they were."""
    known = {clip.name: clip for clip in clips}
    placed: dict[str, PlannedClip] = {}
    for first in known.values():
        chain: list[PlannedClip] = []
        clip: PlannedClip | None = first
        while clip is not None and clip.name not in placed:
            chain.append(clip)
            clip = None if clip.continues is None else known.get(clip.continues)
        placed.update({clip.name: clip for clip in reversed(chain)})
    return list(placed.values())


def joined(clip: PlannedClip, videos: Mapping[str, str], out: Path) -> PlannedClip | None:
    """The clip with the file whose last picture it starts from, and with hashes that depend on that file's bytes.

    `videos` are the hashes of the videos of all finished clips, by name; they lie in `out`.

    Returns:
        The clip itself if it continues none; None if the one that it continues is not finished.
    """
    if clip.continues is None:
        return clip
    if clip.continues not in videos:
        return None
    after = {"after": videos[clip.continues]}
    return replace(
        clip,
        after=out / f"{clip.continues}.mp4",
        content_hash=hash_content({"clip": clip.content_hash, **after}),
        stages_hash=hash_content({"clip": clip.stages_hash, **after}),
        made_of={**clip.made_of, **after},
    )


def finished_videos(clips: Iterable[PlannedClip], out: Path) -> dict[str, str]:
    """The hashes of the videos of finished clips, by name, as their sidecars have it; the files are not looked at."""
    videos: dict[str, str] = {}
    for planned in in_chain_order(clips):
        clip = joined(planned, videos, out)
        sidecar = read_object(sidecar_file(planned.name, out))
        is_kept = bool(sidecar) and planned.take.shot.keeps(planned.take.take)
        if is_kept or (clip is not None and sidecar.get("content_hash") == clip.content_hash):
            videos[planned.name] = video_hash(planned.name, out)
    return videos


def video_hash(name: str, out: Path) -> str:
    """The hash of a clip's video that its sidecar holds; empty where it does not."""
    return str(object_at(read_object(sidecar_file(name, out)), "files").get(f"{name}.mp4", ""))


def start_picture(clip: PlannedClip) -> Float[Tensor, "1 3 height width"] | None:
    """The picture in [-1, 1] that a clip of `joined` starts with: the shot's, or the last of the one continued."""
    if clip.take.shot.picture is not None:
        return picture_as_pixels(open_picture(clip.take.shot.picture, clip.size))
    if clip.after is None:
        assert clip.continues is None
        return None
    return picture_as_pixels(fit_picture(Image.fromarray(last_frame(clip.after)), clip.size))


def join_of(clip: PlannedClip) -> "Join | None":
    """What takes the drift out of a clip that continues another."""
    if clip.after is None or clip.continues is None:
        return None
    return Join(clip.continues, last_frame(clip.after), clip.fps)


def last_frame(video: Path) -> _Frame:
    """The last picture of a video file."""
    start = float(probe_video(video).starts[-1])
    frames, _ = read_video(video, start_seconds=start, num_frames=1, decoder="pyav")
    return frames[0]


@dataclass
class Join:
    """Takes the drift in colour at a join out of a clip, and tells what it was.

    Each channel is stretched and moved by the same numbers in all frames, so that its mean and its deviation in the
    first frame that a film shows are those of the picture before. Both are looked at as they are read from a video
    file: what that changes (a level or so) would add up along a chain.

    Attributes:
        name: Of the clip that is continued.
        before: Its last picture.
        fps: Frames per second of both.
        measured: After the first frames have passed: what sidecars say of the join.
    """

    name: str
    before: _Frame
    fps: float
    measured: dict[str, Any] = field(default_factory=dict)

    def correct(self, frames: Iterator[_Frame]) -> Iterator[_Frame]:
        """The same frames, less the drift."""
        head = list(islice(frames, REPEATED_FRAMES + 1))
        table = self._measure(head[-1], repeated=len(head) - 1)
        for part in (head, frames):
            for frame in part:
                yield frame if table is None else _look_up(table, frame)

    def _measure(self, shown: _Frame, repeated: int) -> UInt8[np.ndarray, "256 3"] | None:
        mean, deviation = _statistics(self.before)
        own_mean, own_deviation = _statistics(_from_a_file(shown, self.fps))
        flat = (deviation < _FLAT) | (own_deviation < _FLAT)
        gain = np.where(flat, 1.0, deviation / np.maximum(own_deviation, _FLAT))
        drifted = (np.abs(own_mean - mean) <= LARGEST_DRIFT) & (np.abs(np.log(gain)) <= np.log(LARGEST_GAIN))
        table = None
        if drifted.all():
            made_mean = _statistics(shown)[0]
            levels = (np.arange(256.0)[:, None] - made_mean) * gain + mean + (made_mean - own_mean)
            table = levels.round().clip(0, 255).astype(np.uint8)
        after_mean, after_deviation = (
            (own_mean, own_deviation)
            if table is None
            else _statistics(_from_a_file(_look_up(table, shown), self.fps))
        )
        self.measured = {
            "clip": self.name,
            "drop_frames": repeated,
            "end": _described(mean, deviation),
            "start": _described(own_mean, own_deviation),
            "corrected": None if table is None else _described(after_mean, after_deviation),
        }
        return table


def _from_a_file(frame: _Frame, fps: float) -> _Frame:
    """A picture as it is read from a video of it."""
    with TemporaryDirectory() as folder:
        video = Path(folder) / "frame.mp4"
        write_video(video, iter([frame]), fps)
        return last_frame(video)


def _statistics(frame: _Frame) -> tuple[_Levels, _Levels]:
    levels = frame.reshape(-1, 3).astype(np.float64)
    return levels.mean(axis=0), levels.std(axis=0)


def _look_up(table: UInt8[np.ndarray, "256 3"], frame: _Frame) -> _Frame:
    return np.stack([table[frame[..., channel], channel] for channel in range(3)], axis=-1)


def _described(mean: _Levels, deviation: _Levels) -> dict[str, list[float]]:
    return {
        "mean": [round(float(value), 3) for value in mean],
        "deviation": [round(float(value), 3) for value in deviation],
    }
