"""Parts that come from outside of the package: an installed package's entry points, or any `module:Class`.

A group is the kind of part: "encoders", "objectives", "metrics", "adapters" or "script_readers". An installed package
offers one by an entry point in the group `swd_video.GROUP`; a config may also name any importable one as
`module:Class`.
"""

import os
import sys
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoints, entry_points
from typing import Any


def offered(group: str) -> dict[str, str]:
    """What installed packages offer: name to `module:Class`."""
    path = tuple((folder, _changed_ns(folder)) for folder in sys.path)
    return {point.name: point.value for point in _entry_points(f"swd_video.{group}", path)}


@cache
def _entry_points(group: str, path: tuple[tuple[str, int], ...]) -> EntryPoints:
    """Those of the packages on a path, each of which is a file to read."""
    return entry_points(group=group)


def _changed_ns(folder: str) -> int:
    try:
        return os.stat(folder or ".").st_mtime_ns
    except OSError:
        return 0


def find(group: str, name: str) -> Any | None:
    """The class that a name from outside stands for; None where it stands for nothing.

    Raises:
        ValueError: if the module cannot be imported, or holds no such class.
    """
    address = offered(group).get(name, name)
    module_name, colon, class_name = address.partition(":")
    if not colon:
        return None
    try:
        return getattr(import_module(module_name), class_name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{name}: {error}; expected module:Class, importable from where the command runs."
        ) from error
