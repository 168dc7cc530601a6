"""Scripts as plain text: a prompt on each line, with flags behind it."""

import re
from pathlib import Path

from swd_video.plain_text import as_key, did_you_mean, on_one_line
from swd_video.studio.script import DEFAULT_MODEL, Script, ScriptReader, Shot
from swd_video.studio.shot_values import REFUSED_KEYS, Written, make_shot, read_values, with_ids
from swd_video.yaml_source import SourceError, read_each

FLAGS = {
    "w": "width", "h": "height", "f": "frames", "d": "seed", "i": "picture", "id": "id", "takes": "takes",
    "seconds": "seconds",
}  # fmt: skip
"""The short ones are those of musubi-tuner's prompt files."""

_REFUSED = {
    "n": REFUSED_KEYS["negative"],
    "l": REFUSED_KEYS["guidance"],
    "g": REFUSED_KEYS["guidance"],
    "s": REFUSED_KEYS["steps"],
    "fs": REFUSED_KEYS["flow_shift"],
} | REFUSED_KEYS
_FLAG_OF = {key: f"--{flag}" for flag, key in FLAGS.items()} | {"size": "--w, --h"}
# As word processors change two hyphens; a single letter is a flag only where a number follows, else it may be prose.
_TYPESET = re.compile(r"(?:^|\s)([–—])(id|takes|seconds|[whfd](?=[\s=]+\d))(?=[\s=])")
_FLAG = re.compile(r"(?:^|\s)--([A-Za-z][\w-]*)(?=\s|=|$)=?")


class TextReader(ScriptReader):
    """A prompt a line; blank lines and those that begin with `#` are left out."""

    def read(self, text: str, path: Path) -> Script:
        """See `ScriptReader.read`."""
        # Not splitlines(): a form feed or U+2028 inside of a prompt is no line end to an editor.
        lines = enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1)
        asked = [(number, line) for number, line in lines if line.strip() and not line.startswith("#")]
        shots = read_each(lambda entry: _read_line(*entry, path), asked)
        return Script(path, on_one_line(path.stem), DEFAULT_MODEL, 0, with_ids(shots))


def _read_line(number: int, line: str, path: Path) -> Shot:
    prompt, *rest = _FLAG.split(line)

    def fail(number: int, key: str, problem: str) -> SourceError:
        return SourceError(f"{path}:{number}: {_FLAG_OF.get(key, key)}: {problem}")

    if typeset := _TYPESET.search(line):
        raise fail(number, f"{typeset[1]}{typeset[2]}", f"begins with a dash. Write --{typeset[2]}.")
    written: dict[str, Written] = {}
    for flag, value in zip(rest[::2], rest[1::2], strict=True):
        if reason := _REFUSED.get(as_key(flag)):
            raise fail(number, f"--{flag}", f"{reason}.")
        if flag not in FLAGS:
            flags = ", ".join(f"--{one}" for one in FLAGS)
            cure = did_you_mean(flag, FLAGS, f"The flags are {flags}.", "--{}")
            raise fail(number, f"--{on_one_line(flag)}", f"unknown flag. {cure}")
        if FLAGS[flag] in written:
            raise fail(number, f"--{flag}", "given twice. Keep one.")
        if not value.strip():
            raise fail(number, f"--{flag}", "has no value. Write it behind the flag, or drop the flag.")
        written[FLAGS[flag]] = Written(value.strip(), number)
    width, height = written.pop("width", None), written.pop("height", None)
    if (width is None) != (height is None):
        have, other = ("--w", "--h") if width else ("--h", "--w")
        raise fail(
            number, have, f"stands without {other}. Give both, or neither for the model's native size."
        )
    if width and height:
        written["size"] = Written(f"{width.text}x{height.text}", number)
    if not prompt.strip():
        raise fail(number, "prompt", "the line has none. Write what the shot shows in front of the flags.")
    written["prompt"] = Written(prompt, number)
    return make_shot(read_values(written, fail), {}, number, path.parent, "")
