"""Which takes of a shot are to be finished: as its script says, else as was picked by hand, in `picks.json`."""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from swd_video.files import write_beside_runs
from swd_video.studio.folder import PICKS_NAME, read_object
from swd_video.studio.script import MAX_TAKES, Script

_NONE = "none"


def read_picks(out: Path) -> dict[str, tuple[int, ...]]:
    """Numbers of the takes that were picked by hand, by shot; what cannot be understood is not there."""
    found = read_object(out / PICKS_NAME)
    picks = {shot_id: _numbers(numbers) for shot_id, numbers in found.items()}
    return {shot_id: numbers for shot_id, numbers in picks.items() if numbers}


def with_picks(script: Script, out: Path) -> Script:
    """The script with what was picked by hand for the shots of which it says nothing."""
    picks = read_picks(out)
    if not picks:
        return script
    shots = tuple(
        shot if shot.pick or shot.id not in picks else replace(shot, pick=picks[shot.id])
        for shot in script.shots
    )
    return replace(script, shots=shots)


def pick_takes(script: Script, out: Path, texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Pick takes, in the place of those that were picked of the same shots before.

    `tiger:3` is a take; several for a shot are several takes; `tiger:none` picks none any more.

    Returns:
        All that is picked now, by shot.

    Raises:
        ValueError: A text names no take of the script, or the script itself says `pick`.
        OSError: The file cannot be written.
    """
    picked: dict[str, list[int]] = {}
    for text in texts:
        shot_id, number = _read(script, text)
        picked.setdefault(shot_id, []).extend([] if number is None else [number])
    picks = {**read_picks(out), **{shot_id: tuple(sorted({*numbers})) for shot_id, numbers in picked.items()}}
    _write(out, picks)
    return read_picks(out)


def _read(script: Script, text: str) -> tuple[str, int | None]:
    shot_id, _, number = text.partition(":")
    shots = {shot.id: shot for shot in script.shots}
    if shot_id not in shots:
        close = difflib.get_close_matches(shot_id, shots, n=1)
        cure = f"Did you mean `{close[0]}`?" if close else "Look up its `id` in the script."
        raise ValueError(f"--pick {text}: there is no shot {shot_id!r}. {cure}")
    if number != _NONE and not (number.isascii() and number.isdigit() and 1 <= int(number) <= MAX_TAKES):
        raise ValueError(
            f"--pick {text}: expected the number of a take, from 1 to {MAX_TAKES}, as in {shot_id}:3, or "
            f"{shot_id}:{_NONE}."
        )
    if shots[shot_id].pick:
        raise ValueError(
            f"--pick {text}: the script says `pick` for {shot_id}, which counts. Change it there."
        )
    return shot_id, None if number == _NONE else int(number)


def _write(out: Path, picks: Mapping[str, Sequence[int]]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    known = {shot_id: list(numbers) for shot_id, numbers in picks.items() if numbers}
    write_beside_runs(out / PICKS_NAME, json.dumps(known, indent=2) + "\n")


def _numbers(value: object) -> tuple[int, ...]:
    listed = value if isinstance(value, list) else []
    return tuple(sorted({number for number in listed if type(number) is int and 1 <= number <= MAX_TAKES}))
