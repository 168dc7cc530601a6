"""Parts that come from outside of the package: an installed package's entry points, or any `module:Class`.

A group is the kind of part: "encoders", "objectives", "metrics", "adapters" or "script_readers". An installed package
offers one by an entry point in the group `swd_video.GROUP`; a config may also name any importable one as
`module:Class`.
"""

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any


def offered(group: str) -> dict[str, str]:
    """What installed packages offer: name to `module:Class`."""
    return {point.name: point.value for point in entry_points(group=f"swd_video.{group}")}


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
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{name}: {error}; expected module:Class, importable from where the command runs."
        ) from error
