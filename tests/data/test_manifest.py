from pathlib import Path

import pytest

from swd_video.data.manifest import Clip, clips_digest, read_manifest


def write(folder: Path, text: str) -> Path:
    path = folder / "clips.jsonl"
    path.write_text(text, encoding="utf-8")
    return path


def test_lines_become_clips_with_paths_beside_the_manifest(tmp_path: Path) -> None:
    manifest = write(
        tmp_path,
        '\ufeff{"path": "a/fox.mp4", "caption": " a fox\u2028jumps "}\n'
        "\n"
        '{"path": "/films/owl.mkv", "caption": "狐", "start": 1, "end": 2.5}\r\n'
        '{"path": "fox.webp", "caption": "x", "start": null, "end": null}',
    )
    assert read_manifest(manifest) == [
        Clip(tmp_path / "a" / "fox.mp4", "a fox\u2028jumps", 0.0, None, "a/fox.mp4"),
        Clip(Path("/films/owl.mkv"), "狐", 1.0, 2.5, "/films/owl.mkv"),
        Clip(tmp_path / "fox.webp", "x", 0.0, None, "fox.webp"),
    ]


def test_the_manifest_of_the_page_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "distill.md").read_text(encoding="utf-8")
    lines = page.partition("\n## Clips\n")[2].partition("```json\n")[2].partition("```")[0]
    first, second = read_manifest(write(tmp_path, lines))
    assert (first.path, first.start, first.end) == (tmp_path / "fox.mp4", 0.0, None)
    assert (second.path, second.start, second.end) == (tmp_path / "walk" / "long.mp4", 12.5, 18)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r'not valid JSON: .*; write one JSON object a line, such as \{"path": "fox\.mp4", '),
        ("[1, 2]", r"got \[1, 2\], expected an object"),
        ('{"caption": "x"}', "path: got None, expected text"),
        ('{"path": "  ", "caption": "x"}', "path: got '  ', expected text"),
        ('{"path": "a.mp4"}', "caption: got None, expected text"),
        ('{"path": "a.mp4", "caption": 3}', "caption: got 3, expected text"),
        ('{"path": "a.mp4", "caption": ["x"]}', r"caption: got \['x'\], expected text"),
        ('{"path": "a.mp4", "caption": "x", "caption": "y"}', "the key 'caption' is given twice"),
        ("[" * 100000, "not valid JSON: maximum recursion depth"),
        ('{"start": ' + "9" * 5000 + "}", "not valid JSON: Exceeds the limit"),
        ('{"path": "a.mp4", "caption": "x", "start": 1e10}', "start: got 10000000000.0"),
        (
            '{"path": "a.mp4", "caption": "x", "begin": 3}',
            "unknown key 'begin'; a clip has path, caption, start",
        ),
        ('{"path": "a.mp4", "caption": "x", "start": -1}', "start: got -1, expected seconds"),
        ('{"path": "a.mp4", "caption": "x", "start": true}', "start: got True"),
        ('{"path": "a.mp4", "caption": "x", "end": "3"}', "end: got '3'"),
        ('{"path": "a.mp4", "caption": "x", "end": NaN}', "end: got nan"),
        ('{"path": "a.mp4", "caption": "x", "end": Infinity}', "end: got inf"),
        (
            '{"path": "a.mp4", "caption": "x", "start": 2, "end": 2}',
            "end: got 2 s, expected more than start, 2",
        ),
    ],
)
def test_mistakes_name_file_and_line(line: str, message: str, tmp_path: Path) -> None:
    manifest = write(tmp_path, '{"path": "a.mp4", "caption": "x"}\n\n' + line + "\n")
    with pytest.raises(ValueError, match=message) as caught:
        read_manifest(manifest)
    assert str(caught.value).startswith(f"{manifest}:3: ")
    assert "\n" not in str(caught.value)


def test_captions_as_tokenizers_take_them(tmp_path: Path) -> None:
    lines = [r"a \ud83d\ude00", r"a\u000bb\n", r"a tiger \ud83d moving", r"nul \u0000", "a fox"]
    text = "".join(f'{{"path": "a.mp4", "caption": "{caption}"}}\r\n' for caption in lines)
    clips = read_manifest(write(tmp_path, text))
    assert [clip.caption for clip in clips[:2]] == ["a 😀", "a b"]
    problems = [clip.problem for clip in clips]
    assert problems[:2] == ["", ""] and problems[4] == ""
    assert problems[2].startswith(
        "line 3 of the manifest: caption holds half a character (a lone surrogate), U+D83D"
    )
    assert problems[3].startswith("line 4 of the manifest: caption holds a control character, U+0000")
    (tmp_path / "windows.jsonl").write_bytes(text.encode("utf-16"))
    assert read_manifest(tmp_path / "windows.jsonl") == clips
    assert (
        read_manifest(write(tmp_path, r'{"path": "\ud83d\n.mp4", "caption": "x"}'))[0].name == "\\ud83d .mp4"
    )


def test_a_clip_without_a_caption_costs_no_other(tmp_path: Path) -> None:
    captions = ["null", '""', '" \\f"', '"a fox"']
    text = "".join(f'{{"path": "a.mp4", "caption": {caption}}}\n' for caption in captions)
    *bad, good = read_manifest(write(tmp_path, text))
    assert (good.caption, good.problem) == ("a fox", "")
    for number, clip in enumerate(bad, 1):
        assert clip.problem.startswith(f"line {number} of the manifest: caption is empty; write what")
        assert clip.caption == ""


def test_files_that_are_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such manifest"):
        read_manifest(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="holds no clip"):
        read_manifest(write(tmp_path, "\n \n"))
    (tmp_path / "a.mp4").write_bytes(b"\x00\n\xfe\x00\x80")
    with pytest.raises(ValueError, match="cannot be read as text: line 2: byte 0xfe"):
        read_manifest(tmp_path / "a.mp4")
    with pytest.raises(
        ValueError, match=r"is a folder, expected a file .*; write one JSON object a line, such as"
    ):
        read_manifest(tmp_path)


def test_digest_follows_the_words_not_the_place(tmp_path: Path) -> None:
    digests = []
    for name, end in (("here", 2), ("there", 2), ("other", 3)):
        folder = tmp_path / name
        folder.mkdir()
        manifest = write(folder, f'{{"path": "a.mp4", "caption": "x", "end": {end}}}')
        digests.append(clips_digest(read_manifest(manifest)))
    assert digests[0] == digests[1] != digests[2]
