"""Scripts of any form as files."""

from pathlib import Path

from swd_video.studio.script import Script, load_script


def read(text: str, suffix: str, folder: Path) -> Script:
    """The script that a file of this suffix holds; line ends stay as they are."""
    path = folder / f"film.{suffix}"
    path.write_bytes(text.encode())
    return load_script(path)
