"""Which takes of a script are meant: those that a text names, and those that were picked by hand, in `picks.json`."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from swd_video.files import write_beside_runs
from swd_video.plain_text import did_you_mean, first_line, read_text, sentence
from swd_video.studio.folder import DRAFTS_FOLDER, PICKS_NAME
from swd_video.studio.script import MAX_TAKES, Script, Take, shot_and_take

_NONE = "none"


def select_takes(
    takes: Sequence[Take], only: Iterable[str], skip: Iterable[str], further: str = ""
) -> set[str]:
    """The names of the takes that are asked for.

    Of `only` these shots, or single takes of them, or of all where nothing is given; less `skip`. `further` says how a
    take that is none of these becomes one, as a sentence.

    Raises:
        ValueError: One of the texts names no take, or none is left.
    """
    everything = {take.name for take in takes}
    wanted = set().union(*(_named_takes(takes, text, "--only", further) for text in only)) or everything
    left = wanted.difference(*(_named_takes(takes, text, "--skip", further) for text in skip))
    if not left:
        raise ValueError("--only and --skip: no take is left. Drop one of them.")
    return left


def _named_takes(takes: Sequence[Take], text: str, flag: str, further: str) -> set[str]:
    """The names of the takes that a text means: `tiger` all takes of the shot, `tiger:3` its third."""
    shot_id, colon, number = text.partition(":")
    of_shot = {str(take.take): take.name for take in takes if take.shot.id == shot_id}
    if not of_shot:
        raise _no_such_shot(f"{flag} {text}", shot_id, {take.shot.id for take in takes})
    if not colon:
        return set(of_shot.values())
    if number not in of_shot:
        raise _no_such_take(f"{flag} {text}", shot_id, number, of_shot, further)
    return {of_shot[number]}


def named_shot(script: Script, text: str, flag: str) -> str:
    """The id of the shot that a text means.

    Raises:
        ValueError: It is none, or a take of one; the message begins with the flag.
    """
    shot_id, colon, _ = text.partition(":")
    known = [shot.id for shot in script.shots]
    if shot_id not in known:
        raise _no_such_shot(f"{flag} {text}", shot_id, known)
    if colon:
        raise ValueError(f"{flag} {text}: names a take, expected a shot. Give {flag} {shot_id}.")
    return shot_id


def takes_in(out: Path, script: Script) -> set[Take]:
    """The takes of a script that a folder has clips or drafts of, of whatever version of it."""
    shots = {shot.id: shot for shot in script.shots}
    found = {
        shot_and_take(path.stem) for place in (out, out / DRAFTS_FOLDER) for path in place.glob("*.json")
    }
    return {script.take(shots[shot_id], take) for shot_id, take in found if shot_id in shots}


def read_picks(out: Path) -> dict[str, tuple[int, ...]]:
    """Numbers of the takes that were picked by hand, by shot; a shot may have one alone or a list of them.

    Raises:
        ValueError: The file, which people may edit, cannot be understood.
    """
    path = out / PICKS_NAME
    cure = "Correct it, or delete it to pick anew."
    try:
        found = json.loads(read_text(path))
    except (FileNotFoundError, NotADirectoryError):  # that there can be no folder is told elsewhere
        return {}
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read: {sentence(first_line(error))} {cure}") from None
    if not isinstance(found, dict):
        raise ValueError(f'{path}: expected takes by shot, such as {{"tiger": [3]}}. {cure}')
    picks = {}
    for shot_id, value in found.items():
        numbers = value if isinstance(value, list) else [value]
        if not all(type(number) is int and 1 <= number <= MAX_TAKES for number in numbers):
            raise ValueError(
                f"{path}: {shot_id}: got {json.dumps(value)}, expected numbers of takes, from 1 to {MAX_TAKES}. {cure}"
            )
        picks[shot_id] = tuple(sorted({*numbers}))
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

    `tiger:3` is a take that the script asks for, or that is there as a draft or a clip; several for a shot are several
    takes; `tiger:none` picks none any more.

    Returns:
        All that is picked now, by shot.

    Raises:
        ValueError: A text names no such take, or the script itself says `pick`; nothing has been written then.
        OSError: The file cannot be written.
    """
    before, there = read_picks(out), takes_in(out, script)
    picked: dict[str, list[int]] = {}
    for text in texts:
        shot_id, number = _read(script, text, there, before)
        picked.setdefault(shot_id, []).extend([] if number is None else [number])
    picks = before | {shot_id: tuple(sorted({*numbers})) for shot_id, numbers in picked.items()}
    picks = {shot_id: numbers for shot_id, numbers in picks.items() if numbers}
    out.mkdir(parents=True, exist_ok=True)
    write_beside_runs(out / PICKS_NAME, json.dumps(picks, indent=2) + "\n")
    return picks


def _read(
    script: Script, text: str, there: Iterable[Take], before: Mapping[str, Sequence[int]]
) -> tuple[str, int | None]:
    shot_id, _, number = text.partition(":")
    shots = {shot.id: shot for shot in script.shots}
    if shot_id not in shots:
        raise _no_such_shot(f"--pick {text}", shot_id, shots)
    if number != _NONE and not (number.isascii() and number.isdigit() and 1 <= int(number) <= MAX_TAKES):
        raise ValueError(
            f"--pick {text}: expected the number of a take, from 1 to {MAX_TAKES}, as in {shot_id}:3, or "
            f"{shot_id}:{_NONE}."
        )
    if shots[shot_id].pick:
        raise ValueError(
            f"--pick {text}: the script says `pick` for {shot_id}, which counts. Change it there."
        )
    if number == _NONE:
        return shot_id, None
    known = {take.take for take in there if take.shot.id == shot_id}
    known |= {*range(1, shots[shot_id].takes + 1), *before.get(shot_id, ())}
    if int(number) not in known:
        further = f"--again {shot_id} drafts more of it."
        raise _no_such_take(f"--pick {text}", shot_id, number, map(str, sorted(known)), further)
    return shot_id, int(number)


def _no_such_take(where: str, shot_id: str, number: str, known: Iterable[str], further: str) -> ValueError:
    numbers = list(known)
    shown = ", ".join(numbers if len(numbers) < 10 else [*numbers[:8], "...", numbers[-1]])
    problem = f"{shot_id} has no take {number!r}, only {shown}. Take one of them. {further}"
    return ValueError(f"{where}: {problem.rstrip()}")


def _no_such_shot(where: str, shot_id: str, known: Collection[str]) -> ValueError:
    of_file, take = shot_and_take(shot_id)
    cure = did_you_mean(shot_id, known, "Look up its `id` in the script.")
    if take > 1 and of_file in known:
        cure = f"Did you mean `{of_file}:{take}`?"
    return ValueError(f"{where}: there is no shot {shot_id!r}. {cure}")
