"""Scripts: what is accepted, what is refused and where the message points, and how seeds are derived."""

from pathlib import Path

import pytest

from swd_video.studio.script import (
    DEFAULT_MODEL,
    FilmSettings,
    Transition,
    derive_seed,
    load_script,
)
from swd_video.studio.yaml_script import parse_script
from swd_video.yaml_source import SourceError
from tools.pocket.corpus import BACKGROUNDS, MOTIONS, parse_caption

GOOD = """\
title: A short film
model: some/student
seed: 7
defaults:
  seconds: 2.75
  takes: 2
shots:
  - id: tiger
    prompt: >
      a tiger walking left
      on a sky blue background
  - id: fish
    prompt: a fish staying on a pink background
    seconds: 1
    seed: 123
    takes: 3
"""


def check_error(script: str, old: str, new: str, line: int, key: str, words: str) -> None:
    """What is said of a script with something else in it."""
    assert old in script
    with pytest.raises(SourceError) as caught:
        parse_script(script.replace(old, new, 1), "film.yaml")
    message = str(caught.value)
    assert message.startswith(f"film.yaml:{line}: {key}: ")
    assert words in message
    assert "\n" not in message


def test_a_full_script_is_read_as_written() -> None:
    script = parse_script(GOOD, "film.yaml")

    assert (script.title, script.model, script.seed) == ("A short film", "some/student", 7)
    tiger, fish = script.shots
    assert tiger.prompt == "a tiger walking left on a sky blue background"
    assert (tiger.seconds, tiger.seed, tiger.takes, tiger.line, tiger.line_of("seconds")) == (
        2.75,
        None,
        2,
        8,
        5,
    )
    assert (fish.seconds, fish.seed, fish.takes, fish.line, fish.line_of("seconds")) == (1.0, 123, 3, 12, 14)


def test_everything_but_id_and_prompt_has_a_default() -> None:
    script = parse_script("shots: [{id: a, prompt: b}]", Path("folder") / "film.yaml")

    assert (script.title, script.model, script.seed) == ("film", DEFAULT_MODEL, 0)
    assert (script.shots[0].seconds, script.shots[0].takes) == (None, 1)


FULL = """\
title: Everything
size: 832x480
film:
  sound: music/song.wav
  order: [b, a, b]
  crossfade: 0.25
  titles: true
shots:
  - id: a
    prompt: a tiger
    frames: 17
    aspect: 16:9
    pick: [3, 1]
    keep: 3
    title: The tiger
    trim: [0.2, 0]
    transition: crossfade 1
    marker: "TIGER: Hello"
  - {id: b, prompt: a fish, picture: fish.png, keep: true, transition: cut}
  - {id: c, prompt: a fish, continues: b, transition: crossfade, pick: "2, 1", keep: no}
"""


def test_all_keys_are_read() -> None:
    script = parse_script(FULL, Path("folder") / "film.yaml")
    a, b, c = script.shots
    assert script.film == FilmSettings(Path("folder/music/song.wav"), ("b", "a", "b"), 0.25, titles=True)
    assert (a.frames, a.size, a.aspect, a.pick, a.keep, a.title) == (
        17,
        None,
        "16:9",
        (3, 1),
        (3,),
        "The tiger",
    )
    assert (a.trim, a.transition, a.marker) == ((0.2, 0.0), Transition("crossfade", 1.0), "TIGER: Hello")
    assert (b.size, b.aspect, b.picture, b.keep) == ((480, 832), None, Path("folder/fish.png"), True)
    assert (b.transition, c.transition) == (Transition("cut"), Transition("crossfade", 0.5))
    assert (c.continues, c.pick, c.keep) == ("b", (2, 1), False)
    assert [take.name for take in script.takes()] == ["a-take3", "a", "b", "c-take2", "c"]
    assert (a.line_of("trim"), a.line_of("seconds"), b.line_of("size")) == (16, 9, 2)
    assert (a.keeps(3), a.keeps(1), b.keeps(7)) == (True, False, True)


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "words"),
    [
        (
            "size: 832x480",
            "size: 832",
            2,
            "size",
            "expected WIDTHxHEIGHT in pixels, such as 832x480, got '832'",
        ),
        (
            "size: 832x480",
            "size: 832x480\naspect: 1:1",
            3,
            "aspect",
            "stands beside `size`, which says the same",
        ),
        ("size: 832x480", "fps: 24", 2, "fps", "a model makes clips of one frame rate. Drop it"),
        ("frames: 17", "seconds: 1\n    frames: 3", 12, "shots[0].frames", "stands beside `seconds`"),
        (
            "frames: 17",
            "negative: blurry",
            11,
            "shots[0].negative",
            "takes no guidance and no negative prompt",
        ),
        ("frames: 17", "steps: 20", 11, "shots[0].steps", "has the stages that it was distilled for"),
        (
            "aspect: 16:9",
            "aspect: wide",
            12,
            "shots[0].aspect",
            "expected WIDTH:HEIGHT, such as 16:9, got 'wide'",
        ),
        ("[3, 1]", "[3, 3]", 13, "shots[0].pick", "expected numbers of takes, each once"),
        ("[3, 1]", "[3, best]", 13, "shots[0].pick", "in plain digits, got 'best'"),
        ("keep: 3", "keep: maybe", 14, "shots[0].keep", "in plain digits, got 'maybe'"),
        ("[0.2, 0]", "0.2", 16, "shots[0].trim", "the seconds to cut off at the start and at the end"),
        ("crossfade 1", "wipe", 17, "shots[0].transition", "expected cut or crossfade with its seconds"),
        ("crossfade 1", "crossfade 1e308", 17, "shots[0].transition", "expected cut or crossfade with its"),
        ("[0.2, 0]", "[1e308, 0]", 16, "shots[0].trim", "the seconds to cut off at the start and at the end"),
        (
            "crossfade 1",
            "crossfade 0",
            17,
            "shots[0].transition",
            "expected cut or crossfade with its seconds",
        ),
        (
            "order: [b, a, b]",
            "order: [b, bb]",
            5,
            "film.order",
            "'bb' is the id of no shot. Did you mean 'b'?",
        ),
        (
            "crossfade: 0.25",
            "crossfade: -1",
            6,
            "film.crossfade",
            "expected seconds from 0, such as 0.5, got '-1'",
        ),
        ("titles: true", "titles: big", 7, "film.titles", "expected true or false, got 'big'"),
        ("continues: b", "continues: x", 20, "shots[2].continues", "'x' is the id of no shot. Name one of"),
        ("continues: b", "continues: c", 20, "shots[2].continues", "goes in a circle, c -> c"),
        (
            "picture: fish.png",
            "picture: fish.png, continues: a",
            19,
            "shots[1].continues",
            "stands beside `picture`: a clip has one beginning",
        ),
    ],
)
def test_errors_of_the_further_keys(old: str, new: str, line: int, key: str, words: str) -> None:
    check_error(FULL, old, new, line, key, words)


def test_takes_are_named_and_numbered() -> None:
    takes = list(parse_script(GOOD, "film.yaml").takes())

    assert [take.name for take in takes] == ["tiger", "tiger-take2", "fish", "fish-take2", "fish-take3"]
    assert [take.seed for take in takes[2:]] == [123, 124, 125], "a shot's own seed overrides"
    assert takes[0].seed != takes[1].seed


def test_a_seed_depends_on_script_seed_shot_and_take_only() -> None:
    # Pinned: another value here would change every clip that anyone has rendered.
    assert derive_seed(7, "tiger", 1) == 381811788
    assert len({derive_seed(s, i, t) for s in (7, 8) for i in ("tiger", "fish") for t in (1, 2)}) == 8

    edited = GOOD.replace("a tiger walking left", "a lion running").replace("title: A short film", "title: B")
    moved = edited.replace("shots:\n", "shots:\n  - {id: first, prompt: something new}\n")
    seeds = {take.name: take.seed for take in parse_script(GOOD, "film.yaml").takes()}
    assert {
        take.name: take.seed for take in parse_script(moved, "film.yaml").takes()
    }.items() >= seeds.items()


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "words"),
    [
        ("seed: 7", "seed: seven", 3, "seed", "in plain digits, got 'seven'"),
        (
            "seed: 7",
            "seed: -1",
            3,
            "seed",
            "expected a whole number from 0 to 4611686018427387903 in plain digits, got '-1'",
        ),
        ("seed: 7", "seed: true", 3, "seed", "got 'true'"),
        ("seed: 7", "seed: 1_000", 3, "seed", "got '1_000'"),
        ("seed: 7", "seed: 010", 3, "seed", "got '010'"),
        (
            "title: A short film",
            "title: Film #2",
            1,
            "title",
            "'#2' is a comment to YAML, and would be dropped",
        ),
        ("title: A short film", "title: ~", 1, "title", "expected text, got '~'"),
        ("title: A short film", "titel: x", 1, "titel", "Did you mean `title`?"),
        (
            "  seconds: 2.75",
            "  seconds: 0",
            5,
            "defaults.seconds",
            "expected seconds above 0, such as 2.5, got '0'",
        ),
        (
            "  seconds: 2.75",
            "  seconds: 1e308",
            5,
            "defaults.seconds",
            "expected seconds up to 86400, got '1e308'",
        ),
        ("  takes: 2", "  take-s: 2", 6, "defaults.take-s", "unknown key. Did you mean `takes`?"),
        ("id: tiger", "negative prompt: a", 8, "shots[0].negative prompt", "no guidance and no negative"),
        ("id: tiger", "Guidance-Scale: 3", 8, "shots[0].Guidance-Scale", "no guidance and no negative"),
        ("shots:", "film: true\nshots:", 7, "film", "got 'true'. Write `film: {}` for a film of all shots"),
        ("  seconds: 2.75", "  seconds: .nan", 5, "defaults.seconds", "got '.nan'"),
        ("  seconds: 2.75", "  seconds: 1:30", 5, "defaults.seconds", "got '1:30'"),
        ("  seconds: 2.75", "  seconds: 3s", 5, "defaults.seconds", "got '3s'"),
        ("  takes: 2", "  prompt: x", 6, "defaults.prompt", "unknown key. The keys here are seconds, takes"),
        ("id: tiger", "id: ti/ger", 8, "shots[0].id", "not a file name that works everywhere"),
        ("id: tiger", "id: .tiger", 8, "shots[0].id", "not a file name that works everywhere"),
        ("id: tiger", "id: Render", 8, "shots[0].id", "reserved"),
        ("id: tiger", "id: fish-take2", 8, "shots[0].id", "ends like the file of another take"),
        ("id: tiger", "id: [tiger]", 8, "shots[0].id", "expected text, got a list"),
        ("id: tiger", "seed: 1", 8, "shots[0].id", "missing. Add `id:`"),
        ("id: fish", "id: TIGER", 12, "shots[1].id", "already the id of shots[0] on line 8"),
        ("    seconds: 1\n", "    seconds: [1, 2]\n", 14, "shots[1].seconds", "expected seconds, got a list"),
        ("    takes: 3", "    takes: 0", 16, "shots[1].takes", "from 1 to 1000 in plain digits, got '0'"),
        ("    takes: 3", "    takes: 1.5", 16, "shots[1].takes", "got '1.5'"),
        ("    takes: 3", "    takes: 1001", 16, "shots[1].takes", "got '1001'"),
        ("    takes: 3", "    seed: 3", 16, "shots[1].seed", "given twice, first on line 15"),
        ("    takes: 3", "    prompts: x", 16, "shots[1].prompts", "Did you mean `prompt`?"),
        ("fish staying on a pink", "fish #1", 13, "shots[1].prompt", "'#1 background' is a comment to YAML"),
        (
            "prompt: a fish",
            "prompt: &fish",
            13,
            "shots[1].prompt",
            "'&fish' is an anchor to YAML. Put the text in",
        ),
        (
            "prompt: a fish",
            "prompt: !fish",
            13,
            "shots[1].prompt",
            "is a tag to YAML. Put the text in quotes",
        ),
        ("prompt: a fish staying", r'prompt: "\0"  #', 13, "shots[1].prompt", "a control character, U+0000"),
        ("prompt: a fish staying", r'prompt: "\ud83d"  #', 13, "shots[1].prompt", "half a character"),
        ("defaults:", "<<: 3\ndefaults:", 4, "<<", "expected a mapping (`<<: *name`), got '3'"),
        ("prompt: a fish staying on a pink background", "prompt: ''", 13, "shots[1].prompt", "an empty one"),
        ("defaults:\n  seconds: 2.75\n  takes: 2", "defaults: 3", 4, "defaults", "expected a mapping"),
    ],
)
def test_errors_point_at_file_line_and_key(old: str, new: str, line: int, key: str, words: str) -> None:
    check_error(GOOD, old, new, line, key, words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "film.yaml:1: the script is empty"),
        ("- a tiger: moving\n", "film.yaml:1: shots[0].a tiger: unknown key. A text with a colon or"),
        (
            "shots: [{id: a, prompt: in snow, moving left}]",
            "film.yaml:1: shots[0].moving left: unknown key. A text with",
        ),
        (
            "shots:\n - id: a\n   prompt: a tiger: left",
            "film.yaml:3: not valid YAML: mapping values are not allowed here. If",
        ),
        ('shots:\n - id: a\n   prompt: "a" tiger', "put it in quotes."),
        (
            "shots:\n\t- a",
            "film.yaml:2: not valid YAML: found character '\\t' that cannot start any token. Indent with",
        ),
        ('- "\\U00110000"', "film.yaml: not valid YAML: chr()"),
        ("shots: &a [*a]", "film.yaml:1: shots[0]: expected a mapping"),
        ("[" * 1000, "film.yaml: not valid YAML: nested too deeply"),
        ("just text", "film.yaml:1: script: expected a mapping with the keys `title:`"),
        ("title: x\n", "film.yaml:1: shots: missing. Add `shots:`"),
        ("shots: []\n", "film.yaml:1: shots: the list is empty"),
        ("shots:\n  - [a]\n", "film.yaml:2: shots[0]: expected a mapping"),
        ("- a fish\n- ~\n", "film.yaml:2: shots[1]: expected text, got '~'"),
        ("- !a fish\n", "film.yaml:1: shots[0]: begins with `!`, which is a tag to YAML"),
        ("shots:\n  - id: a\n   prompt: b\n", "film.yaml:3: not valid YAML"),
        (
            "title: x\nmodel: 'y\nseed: 1\n",
            "film.yaml:2: not valid YAML: a quote that opens here is not closed",
        ),
        ("title: 'x\nmodel: y\n---\n", "film.yaml:1: not valid YAML: a quote that opens here"),
        ('title: x\nmodel: "a\\q"\n', "film.yaml:2: not valid YAML: found unknown escape"),
        ("a: 1\n---\nb: 2\n", "film.yaml:2: not valid YAML"),
        ("a: b\ntitle: \x00", "film.yaml:2: not valid YAML: a character that no text may hold, U+0000"),
    ],
)
def test_files_that_are_no_script(text: str, words: str) -> None:
    with pytest.raises(SourceError) as caught:
        parse_script(text, "film.yaml")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such script"):
        load_script(tmp_path / "absent.yaml")
    with pytest.raises(SourceError, match="is a folder"):
        load_script(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("title: café\n".encode("latin-1"))
    with pytest.raises(SourceError, match="line 1: byte 0xe9 belongs to no text in UTF-8"):
        load_script(tmp_path / "latin.yaml")


def test_texts_are_taken_as_they_are_written() -> None:
    text = """\
title: 2024
shots:
  - {id: 007, prompt: yes, seconds: .5, seed: "12"}
  - {id: 2024-01-01, prompt: 1:30, seconds: 1e1}
  - {id: no, prompt: "a tiger: #1 \\ud83d\\ude00"}
"""
    script = parse_script(text, "film.yaml")
    assert script.title == "2024"
    assert [(shot.id, shot.prompt) for shot in script.shots] == [
        ("007", "yes"), ("2024-01-01", "1:30"), ("no", "a tiger: #1 \N{GRINNING FACE}"),
    ]  # fmt: skip
    assert [(shot.seconds, shot.seed) for shot in script.shots] == [(0.5, 12), (10.0, None), (None, None)]


def test_files_and_models_are_named_as_they_are_written() -> None:
    lines = (
        "model: my  models/a  b",
        "film: {sound: 'my  song.wav'}",
        "shots: [{id: a, prompt: a fish, picture: '~nobody-of-this-name/x  y.png'}]",
    )
    script = parse_script("\n".join(lines), "folder/film.yaml")
    assert script.model == "my  models/a  b" and script.film.sound == Path("folder/my  song.wav")
    # A home that is nobody's is a folder's name, as in a shell.
    assert script.shots[0].picture == Path("folder/~nobody-of-this-name/x  y.png")


def test_a_list_of_prompts_is_a_script() -> None:
    script = parse_script("- a tiger\n- a fish\n- {id: last, prompt: a bee, takes: 2}\n", "film.yaml")
    assert (script.title, script.model) == ("film", DEFAULT_MODEL)
    assert [take.name for take in script.takes()] == ["shot-1", "shot-2", "last", "last-take2"]
    assert [(shot.line, shot.line_of("prompt")) for shot in script.shots] == [(1, 1), (2, 2), (3, 3)]


def test_merge_keys_bring_what_a_shot_does_not_say() -> None:
    tree = "".join(f"x-{n}: &n{n} {{<<: [{', '.join([f'*n{n - 1}'] * 9)}]}}\n" for n in range(1, 30))
    text = f"""\
x-0: &n0 {{takes: 2, seconds: 1, other: 3}}
{tree}shots:
  - {{<<: *n0, id: a, prompt: b, seconds: 2}}
  - &loop {{<<: [*loop, *n29], id: c, prompt: d}}
"""
    assert [(shot.takes, shot.seconds) for shot in parse_script(text, "film.yaml").shots] == [
        (2, 2.0),
        (2, 1.0),
    ]


def test_a_comment_behind_a_prompt_is_told() -> None:
    script = parse_script("shots:\n  - id: a # fine\n    prompt: a tiger # on it\n", "film.yaml")
    assert script.shots[0].prompt == "a tiger"
    assert script.warnings == (
        "film.yaml:3: shots[0].prompt: '# on it' is a comment to YAML. If it belongs to the text, put it in quotes.",
    )


def test_there_is_an_end_to_the_clips_of_a_script() -> None:
    shots = "".join(f"- {{id: s{n}, prompt: a, takes: 1000}}\n" for n in range(101))
    with pytest.raises(SourceError, match="has 101000 clips, expected at most 100000"):
        parse_script(shots, "film.yaml")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_scripts_of_any_editor_are_read(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "film.yaml").write_bytes("- a café\r\n".encode(encoding))
    assert load_script(tmp_path / "film.yaml").shots[0].prompt == "a café"


def test_the_demo_script_is_valid() -> None:
    script = load_script(Path(__file__).parents[2] / "configs" / "scripts" / "demo.yaml")

    assert script.model == DEFAULT_MODEL
    assert len(script.shots) >= 6
    told = [parse_caption(shot.prompt) for shot in script.shots]
    assert {spec.motion for spec in told} == set(MOTIONS), "it shows off the whole world"
    assert {spec.background for spec in told} == set(BACKGROUNDS)
    assert len({spec.subject for spec in told}) == len(told)


def test_characters_that_are_none() -> None:
    cases = Path(__file__).parents[1] / "cases"
    assert load_script(cases / "surrogates.yaml").shots[0].prompt == "a tiger \N{GRINNING FACE} moving left"
    with pytest.raises(
        SourceError, match=r"nul.yaml:3: shots\[0\].prompt: holds a control character, U\+0000"
    ):
        load_script(cases / "nul.yaml")
