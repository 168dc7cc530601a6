import json
import shutil
from pathlib import Path

import pytest

from swd_video.cli.main import main
from swd_video.data.latent_cache import LatentCache

CONFIG = """
model: {model}
data: {{cache: {cache}, encode_batch_size: 2}}
schedule:
  - {{sigma: 1.0, frames: 2, height: 4, width: 4}}
  - {{sigma: 0.5, frames: 3, height: 6, width: 8}}
train: {{kind: full}}
"""
EMOJI = Path(__file__).parents[1] / "data" / "files"


@pytest.fixture
def config(tiny_wan_folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "swd.yaml"
    path.write_text(CONFIG.format(model=tiny_wan_folder, cache=tmp_path / "cache"))
    return path


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    lines = [
        {"path": str(EMOJI / "clapping.webp"), "caption": "hands clapping"},
        {"path": str(EMOJI / "LICENSE.md"), "caption": "law"},
        {"path": str(EMOJI / "tea.webp"), "caption": "a cup of tea", "start": 0.5},
    ]
    path = tmp_path / "clips.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_encodes_reports_and_goes_on(
    config: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["encode", str(config), "--manifest", str(manifest), "--out", str(tmp_path / "out"), "--json"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    law = str(EMOJI / "LICENSE.md")
    assert (summary["clips"], summary["samples"], summary["captions"], summary["reused"]) == (3, 2, 3, 0)
    assert [clip["path"] for clip in summary["skipped"]] == [law]
    assert f"skipped {law}: cannot be read as video" in captured.err
    assert summary["grids"] == ["2x4x4", "3x6x8"]
    assert summary["out"] == str(tmp_path / "out")
    cache = LatentCache(tmp_path / "out")
    assert [cache.get(index)["caption"] for index in range(2)] == ["hands clapping", "a cup of tea"]

    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["reused"] == 3
    assert "finished already" in captured.err


def test_config_names_manifest_and_cache(
    config: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["encode", str(config), "--data.manifest", str(manifest), "--data.extra-grids", '["3x4x4"]']
    assert main(arguments) == 0
    assert "2 of 3 clips on 3x4x4, 2x4x4, 3x6x8, 1 skipped" in capsys.readouterr().out
    # Grids of the schedule may be named again, its last one too.
    assert main([*arguments[:-1], '["3x6x8", "3x4x4"]']) == 0
    assert "finished already" in capsys.readouterr().err
    assert len(LatentCache(tmp_path / "cache")) == 2


def test_wrong_input_is_one_line_and_exit_code_2(
    config: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error_of(*arguments: str) -> str:
        assert main(["encode", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        return error

    assert "data.manifest: not set" in error_of(str(config))
    assert "no such manifest" in error_of(str(config), "--manifest", str(tmp_path / "none.jsonl"))
    common = [str(config), "--manifest", str(manifest)]
    assert f"--out {config}: cannot be written to: it is no folder" in error_of(*common, "--out", str(config))
    assert "data.cache " in error_of(*common, "--data.cache", str(config / "cache"))
    assert "no such config file" in error_of(str(tmp_path / "none.yaml"))
    assert "model 'none'" in error_of(str(config), "--manifest", str(manifest), "--model", "none")
    assert not (tmp_path / "cache").exists()
    manifest.write_text('{"path": 3}')
    assert f"{manifest}:1: path: got 3" in error_of(str(config), "--manifest", str(manifest))


def test_nothing_readable_is_a_failure_until_it_is_repaired(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, cache = tmp_path / "clips.jsonl", tmp_path / "cache"
    manifest.write_text("".join(f'{{"path": "{name}.webp", "caption": "x"}}\n' for name in "abc"))
    common = [str(config), "--data.manifest", str(manifest)]
    encode = ["encode", *common, "--shard-size", "2"]
    assert main(encode) == 1
    assert "run `swd-video encode` again with --retry-skipped" in capsys.readouterr().err
    assert main(["distill", *common, "--out", str(tmp_path / "run")]) == 2
    assert "holds no clip: none could be read" in (error := capsys.readouterr().err)
    assert "`swd-video encode` on this config with --retry-skipped" in error

    shutil.copyfile(EMOJI / "tea.webp", tmp_path / "c.webp")
    assert main(encode) == 1  # a finished cache is left as it is
    captured = capsys.readouterr()
    assert "0 of 3 clips" in captured.out
    assert "3 of 3 clips are skipped: 3 x No such file or directory. " in captured.err
    assert "not one of 3 clips could be encoded" in captured.err
    assert main([*encode, "--retry-skipped", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["samples"], summary["reused"]) == (1, 0) and len(summary["skipped"]) == 2
    last = cache / "latents-00001.safetensors"
    written = last.stat().st_mtime_ns

    # The file of clips that are all there stays.
    for name in "ab":
        shutil.copyfile(EMOJI / "clapping.webp", tmp_path / f"{name}.webp")
    assert main(["encode", *common, "--retry-skipped", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["samples"], summary["reused"], summary["skipped"]) == (3, 1, [])
    assert last.stat().st_mtime_ns == written and len(LatentCache(cache)) == 3


def test_how_the_model_is_loaded_is_a_key_of_the_config(
    config: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["encode", str(config), "--manifest", str(manifest), "--device", "cpu"]
    assert main([*arguments, "--load.cpu_offload", "sequential"]) == 2
    assert "error: cpu_offload: got 'sequential' for device cpu" in capsys.readouterr().err
    assert main([*arguments, "--load.attention", "fast"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: load.attention: input should be 'auto', 'native'")
    assert error.count("\n") == 1
    assert main([*arguments, "--load.dtype", "bfloat16", "--load.vae_tiling", "true"]) == 0


def test_parts_are_encoded_one_by_one(
    config: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["encode", str(config), "--manifest", str(manifest), "--shard_size", "1"]
    assert main([*words, "--shard", "2/2"]) == 0
    assert "part 2/2 is encoded, other parts are to come" in capsys.readouterr().out
    assert main([*words, "--shard", "3/2"]) == 2
    assert "expected I/N" in capsys.readouterr().err
    assert main([*words, "--shard", "1/2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["complete"]
    assert len(LatentCache(tmp_path / "cache")) == 2


def test_captions_that_are_cut_are_said_and_counted(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model reads 48 tokens, one for each letter; the two that are longer differ where it does not look."""
    manifest, out = tmp_path / "clips.jsonl", tmp_path / "out"
    captions = ["x" * 159 + end for end in "ab"] + ["short"]
    lines = [{"path": str(EMOJI / "tea.webp"), "caption": caption} for caption in [*captions, captions[0]]]
    manifest.write_text("\n".join(map(json.dumps, lines)))
    encode = [
        "encode",
        str(config),
        "--manifest",
        str(manifest),
        "--out",
        str(out),
        "--json",
        "--shard-size",
        "2",
    ]
    line = "2 captions have more tokens than the 48 the model reads, and their ends are lost: 'xxx"
    for said in (f"{out} is not finished, so none of it is verified", "finished already"):
        assert main([*encode, "--verify"]) == 0
        captured = capsys.readouterr()
        assert said in captured.err
        assert captured.err.count(line) == 1 and captured.err.count("xxx...' (161)") == 2
        cut = json.loads(captured.out)["cut_captions"]
        assert cut == {"count": 2, "max_tokens": 48, "first": dict.fromkeys(captions[:2], 161)}
    index = json.loads((out / "index.json").read_text())
    assert index["cut_captions"] == cut and len(index["digest"]) == 64

    lost = out / "latents-00001.safetensors"
    content = lost.read_bytes()
    lost.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert main(encode) == 0
    assert "finished already" in capsys.readouterr().err
    assert main([*encode, "--verify"]) == 0
    captured = capsys.readouterr()
    assert "missing or damaged, so made again: latents-00001.safetensors\n" in captured.err
    assert json.loads(captured.out)["reused"] == 2 and lost.read_bytes() == content
    assert main([*encode, "--verify"]) == 0
    read = list(out.glob("*.safetensors"))
    mib = sum(path.stat().st_size for path in read) / 2**20
    said = f"and all of its {len(read)} files, {mib:.1f} MiB, were read and are as they were written\n"
    assert f"{out} is finished already, {said}" in capsys.readouterr().err
    (out / "index.json").write_text(json.dumps({**index, "digest": None}))
    assert main([*encode, "--verify"]) == 0
    assert "finished already, by an older version that kept no hashes" in capsys.readouterr().err
