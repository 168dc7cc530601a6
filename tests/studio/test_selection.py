"""Takes that are named on the command line."""

import pytest

from swd_video.studio.picks import select_takes
from swd_video.studio.yaml_script import parse_script

TAKES = list(
    parse_script("- {id: tiger, prompt: a, takes: 3}\n- {id: Fish, prompt: b}\n", "film.yaml").takes()
)


@pytest.mark.parametrize(
    ("only", "skip", "names"),
    [
        ((), (), {"tiger", "tiger-take2", "tiger-take3", "Fish"}),
        (("Fish",), (), {"Fish"}),
        (("tiger:2", "tiger:1"), (), {"tiger", "tiger-take2"}),
        ((), ("tiger:1",), {"tiger-take2", "tiger-take3", "Fish"}),
        (("tiger",), ("tiger:3",), {"tiger", "tiger-take2"}),
    ],
)
def test_takes_are_chosen(only: tuple[str, ...], skip: tuple[str, ...], names: set[str]) -> None:
    assert select_takes(TAKES, only, skip) == names


@pytest.mark.parametrize(
    ("only", "skip", "message"),
    [
        (("tigr",), (), r"^--only tigr: there is no shot 'tigr'\. Did you mean `tiger`\?$"),
        ((), ("cat",), r"^--skip cat: there is no shot 'cat'\. Look up"),
        (("tiger:4",), (), r"^--only tiger:4: tiger has no take '4', only 1, 2, 3\."),
        (("tiger:",), (), r"tiger has no take ''"),
        (("Fish",), ("Fish",), r"no take is left"),
    ],
)
def test_what_names_no_take_is_refused(only: tuple[str, ...], skip: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select_takes(TAKES, only, skip)
