"""Packages of npm, as files. This is the only file that knows npm."""

import base64
import hashlib
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def npm_package(package: str, integrity: str) -> Iterator[tarfile.TarFile]:
    """The archive of a package, downloaded.

    Args:
        package: its name and version, as `name@1.0.0`.
        integrity: SHA-512 of the archive in base 64.

    Raises:
        ValueError: if it cannot be downloaded, or is another archive.
    """
    with tempfile.TemporaryDirectory() as scratch:
        command = ["npm", "pack", "--silent", package]
        try:
            subprocess.run(command, cwd=scratch, check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            raise ValueError(f"{package}: npm could not download it ({error}).") from error
        (path,) = Path(scratch).glob("*.tgz")
        got = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
        if got != integrity:
            raise ValueError(f"{package}: sha512 is {got}, expected {integrity}; nothing was unpacked.")
        with tarfile.open(path) as archive:
            yield archive
