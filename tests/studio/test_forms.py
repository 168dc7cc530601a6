"""Scripts in JSON, tables and plain text: the same shots as in YAML. In any form: mistakes at their own line."""

from dataclasses import replace
from pathlib import Path

import pytest

from swd_video.studio.script import Transition, load_script
from swd_video.studio.shot_values import with_ids
from swd_video.yaml_source import SourceError

from .script_file import read

YAML = """\
shots:
  - id: tiger
    prompt: a tiger, moving "right"
    seconds: 1.4
    seed: 7
    size: 128x96
  - {id: whale, prompt: a whale floating up, takes: 2, frames: 9}
  - {id: bee, prompt: a bee, picture: bee.png}
"""
JSON = """\
{"shots": [
\t{"id": "tiger", "prompt": "a tiger, moving \\"right\\"", "seconds": 1.4, "seed": 7, "size": "128x96"},
\t{"id": "whale", "prompt": "a whale floating up", "takes": 2, "frames": 9, "seed": null},
\t{"id": "bee", "prompt": "a bee", "picture": "bee.png"}
]}
"""
CSV = '''\
\ufeffID,Prompt,seconds,seed,size,takes,frames,picture,
tiger,"a tiger, moving ""right""",1.4,7,128x96,,,,
,,,,,,,,
whale,"a whale
floating up",,,,2,9,,
bee,a bee,,,,,,bee.png,
'''
SEMICOLONS = (
    CSV.replace(",", ";").replace("tiger;", "tiger,").replace("\ntiger,", "\ntiger;").lstrip("\ufeff")
)
TXT = """\
# three shots
a tiger, moving "right" --id tiger --seconds 1.4 --d 7 --w 128 --h 96

a whale  floating up --f 9 --takes 2 --id whale
a bee --i bee.png --id=bee
"""


@pytest.mark.parametrize(
    ("text", "suffix"),
    [
        (JSON, "json"),
        (CSV, "csv"),
        (CSV.replace("\n", "\r\n"), "csv"),
        (SEMICOLONS.replace("\n", "\r"), "csv"),
        (SEMICOLONS, "csv"),
        (CSV.replace(",", "\t").replace("tiger\t ", "tiger, "), "tsv"),
        ("sep=;\r\n" + SEMICOLONS.replace("\n", "\r\n"), "csv"),
        ('\ufeff"sep=|"\n' + SEMICOLONS.replace(";", "|"), "csv"),
        (TXT, "txt"),
        (TXT.replace("\n", "\r\n"), "txt"),
    ],
)
def test_the_same_shots_in_any_form(text: str, suffix: str, tmp_path: Path) -> None:
    expected, script = read(YAML, "yaml", tmp_path), read(text, suffix, tmp_path)
    assert script.shots == expected.shots
    assert replace(script, path=expected.path, shots=()) == replace(expected, shots=())


def test_lines_of_every_form(tmp_path: Path) -> None:
    assert [shot.line for shot in read(JSON, "json", tmp_path).shots] == [2, 3, 4]
    assert [shot.line for shot in read(CSV, "csv", tmp_path).shots] == [2, 4, 6]
    assert [shot.line for shot in read(f"sep=;\n{SEMICOLONS}", "csv", tmp_path).shots] == [3, 5, 7]
    assert [shot.line for shot in read(TXT, "txt", tmp_path).shots] == [2, 4, 5]


def test_all_keys_of_a_shot_can_be_columns(tmp_path: Path) -> None:
    text = "prompt,id,pick,keep,trim,transition,title,marker,aspect,continues\n"
    text += 'a bee,bee,"3, 1",all,"0.2, 0.1",crossfade 1,The bee,BEE: Hum,16:9,\n'
    text += "a tiger,,2,2,,cut,,,,bee\n"
    bee, tiger = read(text, "csv", tmp_path).shots
    assert (bee.pick, bee.keep, bee.trim, bee.transition) == (
        (3, 1),
        True,
        (0.2, 0.1),
        Transition("crossfade", 1.0),
    )
    assert (bee.title, bee.marker, bee.aspect) == ("The bee", "BEE: Hum", "16:9")
    assert (tiger.id, tiger.pick, tiger.keep, tiger.continues) == ("a-tiger", (2,), (2,), "bee")


@pytest.mark.parametrize(
    ("suffix", "text", "message"),
    [
        ("csv", "prompt\na\n" + "b" * 200_000, ":3: a cell of this row has more than 131072 characters"),
        ("csv", 'prompt\na\n"b' + "\nc" * 70_000, ":3: a cell of this row has more than 131072 characters"),
        ("csv", "prompt,guidance-scale\na,3\n", ":1: header: guidance_scale: a student was distilled from"),
        (
            "json",
            '{"shots": [\n{"id": "a" "prompt": "b"}]}',
            ":2: not valid JSON: expecting ',' delimiter, at column 12",
        ),
        (
            "json",
            '{"shots": [\n{"id": "a", "prompt": ""}]}',
            ":2: shots[0].prompt: expected text, got an empty one",
        ),
        (
            "json",
            '[\n"a",\n{"id": "a", "promt": "b"}]',
            ":3: shots[1].promt: unknown key. Did you mean `prompt`?",
        ),
        (
            "json",
            '[\n{"id": "a",\n"prompt": "b", "steps": 4}]',
            ":3: shots[0].steps: a student has the stages",
        ),
        ("json", '[{"id": "a",\n"prompt": "b", "takes": NaN}]', ": not valid JSON: NaN is no number of JSON"),
        ("json", "[" * 100_000, ": not valid JSON: nested too deeply"),
        ("json", "null", ":1: script: expected a mapping"),
        ("csv", "", ":1: header: has no column `prompt`"),
        (
            "csv",
            "id,promt\na,b\n",
            ":1: header: 'promt' is no key of a shot. Did you mean 'prompt'? Columns are id, ",
        ),
        ("csv", "a tiger\na bee\n", ":1: header: 'a tiger' is no key of a shot. Columns are id, prompt, "),
        ("csv", "prompt,negative prompt\na,b\n", ":1: header: negative_prompt: a student was distilled"),
        ("csv", "prompt,Prompt\na,b\n", ":1: header: two columns are called 'prompt'"),
        (
            "csv",
            'prompt,takes\n"a\nb",1\nc,0\n',
            ":4: shots[1].takes: expected a whole number from 1 to 1000",
        ),
        ("csv", "prompt,takes\n,1\n", ":2: shots[0].prompt: the cell is empty"),
        (
            "csv",
            "prompt,id\na tiger, left,tiger\n",
            ":2: shots[0]: has 3 cells, the header 2: 'tiger' is in no column",
        ),
        (
            "csv",
            'prompt\na\n"b\n',
            ":3: not a table with commas between its columns: a quote that opens here",
        ),
        ("csv", "prompt,id\na,x\nb,X\n", ":3: shots[1].id: 'X' is already the id of shots[0] on line 2"),
        ("csv", "prompt\n", ":1: shots: there is none"),
        ("txt", "# nothing\n", ":1: shots: there is none"),
        (
            "txt",
            "a tiger\na bee --x 3\n",
            ":2: --x: unknown flag. The flags are --w, --h, --f, --d, --i, --id, ",
        ),
        ("txt", "a bee --take 3\n", ":1: --take: unknown flag. Did you mean --takes?"),
        ("txt", "a bee \u2014takes 3\n", ":1: \u2014takes: begins with a dash. Write --takes."),
        ("txt", "a bee \u2013w 64 --h 64\n", ":1: \u2013w: begins with a dash. Write --w."),
        ("txt", "a bee --n ugly --w 9\n", ":1: --n: a student was distilled from a guided teacher"),
        ("txt", "a bee --s 20\n", ":1: --s: a student has the stages"),
        ("txt", "a bee --negative-prompt x\n", ":1: --negative-prompt: a student was distilled"),
        ("txt", "a bee --d 1 --d 2\n", ":1: --d: given twice"),
        ("txt", "a bee --d --f 2\n", ":1: --d: has no value"),
        ("txt", "a bee --w 64\n", ":1: --w: stands without --h"),
        (
            "txt",
            "a bee --w 64 --h x\n",
            ":1: --w, --h: expected WIDTHxHEIGHT in pixels, such as 832x480, got '64xx'",
        ),
        ("txt", "a bee --f 2.5\n", ":1: --f: expected a whole number from 1 to 100000"),
        ("txt", "a bee --f 5 --seconds 1\n", ":1: --f: stands beside `seconds`"),
        ("txt", "--f 5\n", ":1: prompt: the line has none"),
        ("txt", "a \x00 bee\n", ":1: prompt: holds a control character, U+0000"),
        (
            "fountain",
            "\nA bee. [[seconds: two]]",
            ":2: shots[0].seconds: expected seconds above 0, such as 2.5, got",
        ),
        (
            "fountain",
            "\nA bee.\n\nA fox. [[id: a\nseconds: two]]",
            ":5: shots[1].seconds: expected seconds above 0",
        ),
        ("fountain", "\nA bee. [[secnods: 2]]", ":2: secnods: unknown key. Did you mean `seconds`?"),
        (
            "fountain",
            "\nA bee. [[takes: 2, negative: x]]",
            ":2: negative: a student was distilled from a guided",
        ),
        ("fountain", "\nA bee. [[takes: 2, takes: 3]]", ":2: takes: given twice"),
        (
            "fountain",
            "\nA bee. [[takes: 2\n\nA fox.",
            ":2: a note, `[[`, is not closed before the paragraph ends.",
        ),
        ("fountain", "\nEXT. SEA [[takes: x]]\n\nA fox.", ":2: shots[0].takes: expected a whole number"),
        ("fountain", "Title: x\nSeed: x\n\nA fox.", ":2: seed: expected a whole number"),
        ("fountain", "Title: x\nSteps: 9\n\nA fox.", ":2: steps: a student has the stages"),
        ("fountain", "\nEXT. SEA\n", ":1: shots: there is none"),
        (
            "fountain",
            "\nA fox. [[id: a]]\n\nA bee. [[id: A]]",
            ":4: shots[1].id: 'A' is already the id of shots[0]",
        ),
        (
            "fdx",
            "<FinalDraft><Content>\n<Paragraph>",
            ":2: not valid XML: no element found. Save it from Final Draft",
        ),
        ("fdx", "A bee", ":1: not valid XML: syntax error"),
        ("fdx", "<html></html>", ":1: begins with <html>, expected <FinalDraft>"),
        ("fdx", '<!DOCTYPE a [\n<!ENTITY b "c">]><FinalDraft/>', ":2: declares an entity, 'b'"),
        (
            "fdx",
            "<FinalDraft><Content>\n<Paragraph>\n<Text>[[seed: x]]a</Text></Paragraph></Content></FinalDraft>",
            ":2: shots[0].seed: expected a whole number",
        ),
        ("fdx", "<FinalDraft/>", ":1: shots: there is none"),
        ("fountain", "\nA bee.\n\n/* a fox\n\nA cat.", ":4: what `/*` takes out has no end"),
        (
            "fdx",
            "<FinalDraft><Content>\n<Paragraph><Text>A bee [[takes: 2</Text></Paragraph></Content></FinalDraft>",
            ":2: a note, `[[`, is not closed",
        ),
    ],
)
def test_mistakes_are_told_at_their_line(suffix: str, text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        read(text, suffix, tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'film'}.{suffix}{message}")
    assert "\n" not in str(caught.value)


def test_signs_that_are_no_flags_are_text(tmp_path: Path) -> None:
    text = "a bee -- at night, well-lit--almost -5 #1 \u2014i think \u2014takes\n #a\n"
    assert [shot.prompt for shot in read(text, "txt", tmp_path).shots] == text.strip().split("\n ")


def ids(*prompts: str) -> list[str]:
    script = "\n".join(prompts)
    return [shot.id for shot in with_ids([replace(SHOT, prompt=prompt) for prompt in script.split("\n")])]


SHOT = load_script(Path(__file__).parents[2] / "configs" / "scripts" / "demo.yaml").shots[0]
SHOT = replace(SHOT, id="")


def test_made_ids_tell_of_the_prompt_and_stay_when_lines_are_added() -> None:
    assert ids("a tiger", "A Tiger!", "a café") == ["a-tiger", "a-tiger-2", "a-cafe"]
    long = "a paper boat drifts down a narrow stream in the rain"
    first, second = ids(long, f"{long} at night")
    assert first.startswith("a-paper-boat-drifts-down-a-narrow-stream-") and len(first) <= 64
    assert first != second
    assert ids("something else", f"{long} at night", long)[1:] == [second, first], "wherever they stand"
    strange = ids("虎", "a 虎", "render", "tiger take2", "", "?!")
    assert len(set(strange)) == 6
    assert strange[2].startswith("render-") and strange[3].startswith("tiger-take2")


def test_made_ids_keep_clear_of_given_ones(tmp_path: Path) -> None:
    script = read("a bee\na bee\na bee --id A-BEE\na bee --id a-bee-2\n", "txt", tmp_path)
    assert [shot.id for shot in script.shots] == ["a-bee-3", "a-bee-4", "A-BEE", "a-bee-2"]


@pytest.mark.parametrize(
    ("text", "suffix", "told"),
    [
        (
            "shots:\n- {id: a, prompt: a dog, takes: no, seconds: -1}\n- {id: b, promt: a cat}\n",
            "yaml",
            ["2: shots[0].seconds", "2: shots[0].takes", "3: shots[1].promt"],
        ),
        (
            "prompt,seed\na dog,x\n,1\na cat,y\n",
            "csv",
            ["2: shots[0].seed", "3: shots[1].prompt", "4: shots[2].seed"],
        ),
        ("a dog --d x\na pig\na cat --seconds\n", "txt", ["1: --d", "3: --seconds"]),
        (
            "INT. ROOM\n\nA dog. [[seed: x]]\n\nA cat. [[takes: 0]]\n",
            "fountain",
            ["3: shots[0].seed", "5: shots[1].takes"],
        ),
        (
            "shots:\n- {id: a, prompt: a dog}\n- {id: A, prompt: a dog}\n- {id: a, prompt: a dog}\n",
            "yaml",
            ["3: shots[1].id", "4: shots[2].id"],
        ),
        (
            "shots:\n- {id: a, prompt: a dog, continues: x}\n- {id: b, prompt: a dog, continues: y}\n",
            "yaml",
            ["2: shots[0].continues", "3: shots[1].continues"],
        ),
    ],
)
def test_the_mistakes_of_all_shots_are_told_a_line_each(
    text: str, suffix: str, told: list[str], tmp_path: Path
) -> None:
    with pytest.raises(SourceError) as error:
        read(text, suffix, tmp_path)
    lines = str(error.value).splitlines()
    assert len(lines) == len(told)
    for line, start in zip(lines, told, strict=True):
        assert line.startswith(f"{tmp_path / 'film'}.{suffix}:{start}: ")
