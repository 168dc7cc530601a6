"""No network may both train a student and judge it: what students say they were trained with."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from swd_video.core.decoder import StreamingDecoder
from swd_video.evaluation.clip_features import PACKAGED
from swd_video.models.fingerprint import fingerprint_folders
from swd_video.models.loading import DECODER_FILE_NAME, STUDENT_FILE_NAME
from swd_video.plain_text import first_line
from swd_video.student.student import Student
from swd_video.student.student_file import PixelNetwork

RECORD_NAME = "config.yaml"
_LOSS_KEY = "loss"


def check_overlap(
    student: str | os.PathLike[str], networks: Mapping[str, str], *, own_decoder: bool = True
) -> bool:
    """Refuse to judge a student with a network that its training used.

    The networks of a training are those in its `student.json`, and all the names in the `loss` section of the config
    beside it. Two names are one network if they are equal, if they are folders with the same files, or if one is a hub
    name whose last part is the other's; every EfficientNet is the packaged one.

    `networks` are packaged names, folders or hub names by the config key that names them; `own_decoder` tells whether
    clips are shown through the decoder that the student carries.

    Returns:
        Whether there is a record; without one nothing is known.

    Raises:
        ValueError: Naming the student, the network and the record.
    """
    known = False
    for where, used in _training_networks(Path(student), own_decoder):
        known = True
        _refuse_judges(student, where, used, networks)
    return known


def check_decoder(file: Path, networks: Mapping[str, str]) -> None:
    """Refuse to judge clips through a decoder with a network that its training looked through.

    Raises:
        ValueError: as for `check_overlap`.
    """
    try:
        decoder = StreamingDecoder.load(file)
    except ValueError:
        return  # published decoders say nothing of that, and what is none is refused later
    for network in _networks_of(decoder):
        _refuse_judges(file, "trained_through", network, networks)


def _refuse_judges(
    what: str | os.PathLike[str], where: str, used: PixelNetwork | None, networks: Mapping[str, str]
) -> None:
    for key, network in networks.items():
        if used is not None and _judges_what_it_trained(used, network):
            raise ValueError(
                f"{key}: {network!r} trained {what} ({where}: {used.name!r}), and a network "
                "must not judge what it trained; choose another."
            )


def _networks_of(decoder: StreamingDecoder) -> list[PixelNetwork]:
    return [PixelNetwork(**network) for network in (decoder.made_of or {}).get("trained_through", ())]


def _training_networks(student: Path, own_decoder: bool) -> Iterator[tuple[str, PixelNetwork | None]]:
    """What a student's files say, and where; None for a file that names no network."""
    if (student / STUDENT_FILE_NAME).is_file():
        loaded = Student.load(student)
        if loaded.trained_through is not None:
            where = f"{student / STUDENT_FILE_NAME}: encoders"
            yield where, None
            yield from ((where, network) for network in loaded.trained_through)
        if loaded.decoder is not None and own_decoder:
            where = f"{student / DECODER_FILE_NAME}: trained_through"
            yield from ((where, network) for network in _networks_of(loaded.decoder))
    # In its folder, or where `swd-video distill` leaves it, one above.
    places = (student / RECORD_NAME, student.parent / RECORD_NAME)
    record = next((path for path in places if path.is_file()), None)
    try:
        content = None if record is None else yaml.safe_load(record.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(
            f"{record}: cannot be read ({first_line(error)}), and says what trained the student."
        ) from error
    if isinstance(content, Mapping) and _LOSS_KEY in content:
        yield str(record), None
        for key, name in _names(content[_LOSS_KEY], _LOSS_KEY):
            yield f"{record}: {key}", PixelNetwork(name)


def _names(value: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _names(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _names(inner, f"{where}[{index}]")


def _judges_what_it_trained(used: PixelNetwork, network: str) -> bool:
    if (
        used.fingerprint
        and Path(network).is_dir()
        and fingerprint_folders([Path(network)]) == used.fingerprint
    ):
        return True
    folders = [Path(name) for name in (used.name, network) if os.sep in name and Path(name).is_dir()]
    if len(folders) == 2:
        return folders[0].samefile(folders[1]) or len({fingerprint_folders([one]) for one in folders}) == 1
    one, other = used.name.casefold(), network.casefold()
    if one == other or (PACKAGED in one and PACKAGED in other):
        return True
    # A hub name, and a copy of it in a folder or another organisation's copy.
    return "/" in one and "/" in other and Path(one).name == Path(other).name
