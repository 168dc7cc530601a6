"""Screenplays: a page of Fountain and of Final Draft, cut as a person would cut it."""

from dataclasses import replace
from pathlib import Path

import pytest

from swd_video.studio.script import Transition

from .script_file import read

FOUNTAIN = """\
Title: _**The Night Boat**_
Author: Nobody
Seed: 7

FADE IN:

EXT. HARBOUR - PIER - NIGHT #1# [[size: 128x96]]

Rain. A MAN in a *long* coat runs along the pier;
his lantern swings. [[seconds: 1.4, takes: 2]]

The boat is gone. /* cut this?
or not? */

[[id: gone]]

MAN
(out of breath)
Wait for me!

A gull (white, huge) lands #3 on a post. [[Todo: find a better bird]]

GULL (O.S.)
Too late.

> DISSOLVE TO:

INT. CABIN - CONTINUOUS

# Act two
= He dries his coat.

STRANGER
Who is there?

He wakes. [[prompt: a man opens his eyes, close up,
seed: 3]]

CUT TO:

> **One year later** <

.PARIS

!THE TRAIN stops.

> FADE OUT.
"""


def test_a_page_is_cut_as_a_person_would_cut_it(tmp_path: Path) -> None:
    script = read(FOUNTAIN, "fountain", tmp_path)
    assert (script.title, script.seed) == ("The Night Boat", 7)
    run, gone, gull, cabin, paris = script.shots
    assert run.prompt == (
        "Rain. A MAN in a long coat runs along the pier; his lantern swings. Harbour, pier, night."
    )
    assert (run.line, run.size, run.seconds, run.takes) == (9, (96, 128), 1.4, 2)
    assert run.id.startswith("rain-a-man-in-a-long-coat-runs-along-the-")
    assert (gone.id, gone.prompt, gone.line) == ("gone", "The boat is gone. Harbour, pier, night.", 12)
    assert gone.marker == "MAN: (out of breath) Wait for me!"
    assert gull.prompt == "A gull (white, huge) lands #3 on a post. Harbour, pier, night."
    assert (gull.marker, gull.size, gull.transition) == ("GULL (O.S.): Too late.", (96, 128), None)
    assert (cabin.prompt, cabin.seed, cabin.size) == ("a man opens his eyes, close up", 3, None)
    assert (cabin.transition, cabin.marker) == (Transition("crossfade", 0.5), "STRANGER: Who is there?")
    assert (cabin.line_of("seed"), cabin.line_of("transition")) == (37, 26)
    assert (paris.prompt, paris.title, paris.transition) == (
        "THE TRAIN stops. Paris.", "One year later", Transition("cut"),
    )  # fmt: skip
    assert script.warnings == (
        f"{script.path}:5: 'FADE IN:' is not made here: a film has cuts and crossfades. It is left out.",
        f"{script.path}:47: 'FADE OUT.' is not made here: a film has cuts and crossfades. It is left out.",
    )


FDX = """\
<?xml version="1.0" encoding="UTF-8" standalone="no" ?>
<FinalDraft DocumentType="Script" Template="No" Version="5">
  <Content>
    <Paragraph Number="1" Type="Scene Heading"><Text>EXT. HARBOUR - PIER - NIGHT</Text>
      <ScriptNote ID="1"><Paragraph><Text>size: 128x96</Text></Paragraph></ScriptNote>
    </Paragraph>
    <Paragraph Type="Action"><Text>Rain. A </Text><Text Style="Bold">MAN</Text><Text> &amp; his lantern.</Text>
      <ScriptNote ID="2"><Paragraph><Text>seconds: 1.4,</Text><Text> takes: 2</Text></Paragraph></ScriptNote>
    </Paragraph>
    <Paragraph Type="Action"><Text>The boat is gone. [[id: gone]]</Text></Paragraph>
    <Paragraph><DualDialogue>
      <Paragraph Type="Character"><Text>MAN (CONT'D)</Text></Paragraph>
      <Paragraph Type="Parenthetical"><Text>(out of breath)</Text></Paragraph>
      <Paragraph Type="Dialogue"><Text>Wait for me!</Text></Paragraph>
      <Paragraph Type="Character"><Text>GULL (O.S.)</Text></Paragraph>
      <Paragraph Type="Dialogue"><Text>Too late.</Text></Paragraph>
    </DualDialogue></Paragraph>
    <Paragraph Type="Transition"><Text>DISSOLVE TO:</Text></Paragraph>
    <Paragraph Type="Scene Heading"><Text>INT. CABIN - LATER</Text></Paragraph>
    <Paragraph Type="Shot"><Text>CLOSE ON THE STRANGER</Text></Paragraph>
    <Paragraph Type="Action"><Text>He wakes.</Text></Paragraph>
    <Paragraph Type="Shot"><Text>THE DOOR</Text></Paragraph>
    <Paragraph Type="Cast List"><Text>MAN, GULL</Text></Paragraph>
    <Paragraph Type="Stunt"><Text>He falls.</Text></Paragraph>
  </Content>
  <TitlePage><Content>
    <Paragraph Type=""><Text></Text></Paragraph>
    <Paragraph Type=""><Text>The Night Boat</Text></Paragraph>
    <Paragraph Type=""><Text>Seed: 7</Text></Paragraph>
    <Paragraph Type=""><Text>by Nobody</Text></Paragraph>
  </Content></TitlePage>
  <HeaderAndFooter><Header><Paragraph><Text>page</Text></Paragraph></Header></HeaderAndFooter>
</FinalDraft>
"""


def test_a_page_of_final_draft(tmp_path: Path) -> None:
    script = read(FDX, "fdx", tmp_path)
    assert (script.title, script.seed) == ("The Night Boat", 7)
    assert [(shot.prompt, shot.line) for shot in script.shots] == [
        ("Rain. A MAN & his lantern. Harbour, pier, night.", 7),
        ("The boat is gone. Harbour, pier, night.", 10),
        ("Close on the stranger. He wakes. Cabin, night.", 20),
        ("THE DOOR. Cabin, night.", 22),
    ]
    run, gone, cabin, _ = script.shots
    assert (run.seconds, run.takes, run.size, gone.size) == (1.4, 2, (96, 128), (96, 128))
    assert (gone.id, gone.marker) == ("gone", "MAN: (out of breath) Wait for me! GULL (O.S.): Too late.")
    assert cabin.transition == Transition("crossfade", 0.5)
    assert script.warnings == (f"{script.path}:24: a paragraph of the kind 'Stunt' is left out.",)


YAML = """\
shots:
  - {id: tiger, prompt: a tiger moving right, seconds: 1.4, seed: 7, size: 128x96}
  - {id: whale, prompt: a whale floating up, takes: 2, frames: 9, transition: crossfade 0.5}
  - {id: bee, prompt: a bee, picture: bee.png, marker: "BEE: Hum"}
"""
SAME_FOUNTAIN = """
a tiger moving right [[id: tiger, seconds: 1.4, seed: 7, size: 128x96]]

DISSOLVE TO:

a whale floating up
[[id: whale
takes: 2
frames: 9]]

a bee [[id: bee]]
[[picture: bee.png]]

BEE
Hum
"""
SAME_FDX = """\
<FinalDraft><Content>
<Paragraph><Text>a tiger moving right [[id: tiger, seconds: 1.4, seed: 7, size: 128x96]]</Text></Paragraph>
<Paragraph Type="Transition"><Text>DISSOLVE TO:</Text></Paragraph>
<Paragraph Type="Action"><Text>a whale floating up [[id: whale; takes: 2; frames: 9]]</Text></Paragraph>
<Paragraph Type="Action"><Text>a bee[[id: bee, picture: bee.png]]</Text></Paragraph>
<Paragraph Type="Character"><Text>BEE</Text></Paragraph><Paragraph Type="Dialogue"><Text>Hum</Text></Paragraph>
</Content></FinalDraft>
"""


@pytest.mark.parametrize(("text", "suffix"), [(SAME_FOUNTAIN, "fountain"), (SAME_FDX, "fdx")])
def test_the_same_shots_as_in_yaml(text: str, suffix: str, tmp_path: Path) -> None:
    expected, script = read(YAML, "yaml", tmp_path), read(text, suffix, tmp_path)
    assert script.shots == expected.shots
    assert replace(script, path=expected.path, shots=()) == replace(expected, shots=())


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("Dawn: a boat\n\nA bee.", ":1: 'Dawn' is taken for a key of the title page"),
        ("\nA bee.\n\n> THE END <", ":4: no shot follows the card 'THE END'"),
        ("\nEXT. SEA\n\nMAN\nHello\n\nEXT. LAND\n\nA bee.", ":4: dialogue of a scene without action"),
        ("\nA bee.\n\n> WIPE TO:\n\nA fox.", ":4: 'WIPE TO:' is not made here"),
        ("\n[[seconds: 2]]\n\nEXT. SEA\n\nA bee.", ":2: what a note says of a scene without action"),
    ],
)
def test_what_is_left_out_is_told(text: str, warning: str, tmp_path: Path) -> None:
    (told,) = read(text, "fountain", tmp_path).warnings
    assert told.startswith(f"{tmp_path / 'film.fountain'}{warning}")


@pytest.mark.parametrize(
    ("heading", "words"),
    [
        ("INT./EXT. CAR - DAWN", "Car, dawn."),
        ("I/E CAR. - LATE AFTERNOON", "Car, late afternoon."),
        ("EXT. The Sea – Night", "The Sea, night."),
        ("EST. INTERIOR DESIGN SHOP", "Interior design shop."),
        (".SPACE - JOE'S SHIP - DAY 3", "Space, joe's ship, day 3."),
        ("INT. CAR - MOMENTS LATER", "Car."),
    ],
)
def test_headings_tell_place_and_time(heading: str, words: str, tmp_path: Path) -> None:
    (shot,) = read(f"\n{heading}\n\nA bee flies\n", "fountain", tmp_path).shots
    assert shot.prompt == f"A bee flies. {words}"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("A bee.\n\n", "MAN (O.S.) [[seconds: 2]]\nHello"),
        ("A bee.\n\n", "MAN\nHello [[seconds:\n2]]"),
        ("CUT TO: [[seconds: 2]]\n\n", "A bee."),
        ("> DAWN < [[seconds: 2]]\n\n", "A bee."),
        ("A bee.\r\r/* of\r */\r\r", "[[seconds: 2]]"),
    ],
)
def test_notes_may_stand_behind_anything(before: str, after: str, tmp_path: Path) -> None:
    (shot, last) = read(f"Title: X [[draft]]\n\n{before}{after}\n\nA fox.\n", "fountain", tmp_path).shots
    assert (shot.prompt, shot.seconds, last.seconds) == ("A bee.", 2.0, None)
    assert shot.marker in (None, "MAN (O.S.): Hello", "MAN: Hello") and last.prompt == "A fox."
