"""Some takes of a script, named `ID` or `ID:TAKE`."""

import difflib
from collections.abc import Iterable, Sequence

from swd_video.studio.script import Take


def select_takes(takes: Sequence[Take], only: Iterable[str], skip: Iterable[str]) -> set[str]:
    """The names of the takes that are asked for.

    Of `only` these shots, or single takes of them, or of all where nothing is given; less `skip`.

    Raises:
        ValueError: One of the texts names no take, or none is left.
    """
    everything = {take.name for take in takes}
    wanted = set().union(*(named_takes(takes, text, "--only") for text in only)) or everything
    left = wanted.difference(*(named_takes(takes, text, "--skip") for text in skip))
    if not left:
        raise ValueError("--only and --skip: no take is left. Drop one of them.")
    return left


def named_takes(takes: Sequence[Take], text: str, flag: str) -> set[str]:
    """The names of the takes that a text means: `tiger` all takes of the shot, `tiger:3` its third.

    Raises:
        ValueError: There is no such take; the message begins with the flag.
    """
    shot_id, colon, number = text.partition(":")
    of_shot = {str(take.take): take.name for take in takes if take.shot.id == shot_id}
    if not of_shot:
        close = difflib.get_close_matches(shot_id, {take.shot.id for take in takes}, n=1)
        cure = f"Did you mean `{close[0]}`?" if close else "Look up its `id` in the script."
        raise ValueError(f"{flag} {text}: there is no shot {shot_id!r}. {cure}")
    if not colon:
        return set(of_shot.values())
    if number not in of_shot:
        numbers = list(of_shot)
        known = ", ".join(numbers if len(numbers) < 10 else [*numbers[:8], "...", numbers[-1]])
        raise ValueError(f"{flag} {text}: {shot_id} has no take {number!r}, only {known}. Take one of them.")
    return {of_shot[number]}
