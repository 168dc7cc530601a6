"""The same three shots in six forms are the same clips, byte for byte."""

from pathlib import Path

from swd_video.studio.model import ScriptModel
from swd_video.studio.render import render
from swd_video.studio.script import load_script

FORMS = {
    "yaml": """\
- {id: tiger, prompt: a tiger walking left, seconds: 0.3, seed: 7}
- {id: fish, prompt: "a fish, staying", frames: 5, size: 48x32}
- {id: bee, prompt: a bee}
""",
    "json": """\
[{"id": "tiger", "prompt": "a tiger walking left", "seconds": 0.3, "seed": 7},
 {"id": "fish", "prompt": "a fish, staying", "frames": 5, "size": "48x32"},
 {"id": "bee", "prompt": "a bee"}]
""",
    "csv": """\
id,prompt,seconds,seed,frames,size
tiger,a tiger walking left,0.3,7,,
fish,"a fish, staying",,,5,48x32
bee,a bee,,,,
""",
    "txt": """\
a tiger walking left --seconds 0.3 --d 7 --id tiger
a fish, staying --f 5 --w 48 --h 32 --id fish
a bee --id bee
""",
    "fountain": """

a tiger walking left [[id: tiger, seconds: 0.3, seed: 7]]

a fish, staying
[[id: fish, frames: 5, size: 48x32]]

a bee [[id: bee]]
""",
    "fdx": """\
<?xml version="1.0" encoding="UTF-8"?>
<FinalDraft DocumentType="Script"><Content>
  <Paragraph Type="Action"><ScriptNote><Paragraph><Text>id: tiger, seconds: 0.3, seed: 7</Text></Paragraph></ScriptNote>
    <Text>a tiger </Text><Text Style="Italic">walking</Text><Text> left</Text></Paragraph>
  <Paragraph Type="Action"><Text>a fish, staying [[id: fish, frames: 5, size: 48x32]]</Text></Paragraph>
  <Paragraph Type="Action"><Text>a bee [[id: bee]]</Text></Paragraph>
</Content></FinalDraft>
""",
}


def test_six_forms_give_the_same_clips(loaded: ScriptModel, tmp_path: Path) -> None:
    made = {}
    for suffix, text in FORMS.items():
        script = tmp_path / f"film.{suffix}"
        script.write_text(text)
        out = tmp_path / suffix
        assert render(load_script(script), out, model=loaded).count("rendered") == 3
        names = [f"{name}.{kind}" for name in ("tiger", "fish", "bee") for kind in ("mp4", "webp", "json")]
        made[suffix] = [(out / name).read_bytes() for name in names]
    for suffix, files in made.items():
        assert files == made["yaml"], suffix
