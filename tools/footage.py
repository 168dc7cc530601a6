"""Write a manifest of stretches spread evenly over long videos, for `swd-video encode`.

    python -m tools.footage --videos film.mp4 walk.mp4 --clips 32 --out out/footage/manifest.jsonl

Paths in it are absolute: the videos stay where they are.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from swd_video.data.manifest import Clip
from swd_video.data.video import probe_video
from swd_video.files import write_text


@dataclass(frozen=True)
class Arguments:
    """Which videos, how many stretches of each, and where to write."""

    videos: tuple[Path, ...]
    """Video files."""
    out: Path
    """The manifest, JSON lines; its folder is made."""
    clips: int = 32
    """Stretches of each video. They do not overlap: a video too short for so many gives fewer."""
    seconds: float = 1.5
    """Length of a stretch."""


def cut(video: Path, count: int, seconds: float) -> list[Clip]:
    """Stretches of `seconds`, the middle of each of `count` equal parts of a video.

    Raises:
        VideoError: if the video cannot be read.
    """
    length = probe_video(video).seconds
    parts = min(count, int(length / seconds))
    starts = [round((part + 0.5) * length / parts - seconds / 2, 3) for part in range(parts)]
    return [Clip(video, video.stem, start, round(start + seconds, 3), str(video)) for start in starts]


def main() -> None:
    """Cut every video and write the manifest."""
    arguments = tyro.cli(Arguments, description=__doc__)
    clips = [
        clip
        for video in arguments.videos
        for clip in cut(video.resolve(), arguments.clips, arguments.seconds)
    ]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(arguments.out, "".join(json.dumps(clip.as_dict()) + "\n" for clip in clips))
    print(f"{len(clips)} clips: {arguments.out}")


if __name__ == "__main__":
    main()
