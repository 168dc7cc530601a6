"""Training clips: made where they are missing, and only those."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from swd_video.config import ConfigError
from swd_video.core.schedule import ScaleSchedule
from swd_video.data.encode import encode_manifest
from swd_video.data.manifest import read_manifest
from swd_video.data.sections import DataConfig
from swd_video.models.loading import load_teacher
from swd_video.training.open_clips import open_clips

EMOJI = Path(__file__).parents[1] / "data" / "files"


def test_a_cache_of_another_adapter_or_rate_is_refused_and_one_without_its_manifest_is_told(
    tiny_wan_folder: Path, tiny_schedule: ScaleSchedule, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text(json.dumps({"path": str(EMOJI / "tea.webp"), "caption": "tea"}))
    data = DataConfig(manifest=str(manifest), cache=str(tmp_path / "cache"))
    model, accelerator = load_teacher(tiny_wan_folder), Accelerator(cpu=True)

    def open_with(adapter: str | None, fps: float = 16.0) -> int:
        model.spec = replace(model.spec, fps=fps)
        return len(open_clips(data, str(tiny_wan_folder), adapter, tiny_schedule, model, accelerator))

    assert open_with(None) == 1
    with pytest.raises(ConfigError, match="was encoded by another VAE, text encoder or adapter"):
        open_with("my_models:MyModel")
    with pytest.raises(
        ConfigError, match=r"holds clips of 16 frames a second, but .* makes 12\. Give data\.cache"
    ):
        open_with(None, fps=12.0)
    capsys.readouterr()
    manifest.unlink()
    assert open_with(None) == 1
    note = f"note: data.manifest: {manifest} is not there, so nobody knows whether {data.cache} holds its clips.\n"
    assert capsys.readouterr().err == note


def test_a_cache_that_lost_a_file_is_made_whole_before_training(
    tiny_wan_folder: Path, tiny_schedule: ScaleSchedule, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [{"path": str(EMOJI / name), "caption": "x" * 60} for name in ("tea.webp", "none.webp")]
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = DataConfig(manifest=str(tmp_path / "clips.jsonl"), cache=str(tmp_path / "cache"))
    model, accelerator = load_teacher(tiny_wan_folder), Accelerator(cpu=True)

    def open_again(data: DataConfig) -> int:
        return len(open_clips(data, str(tiny_wan_folder), None, tiny_schedule, model, accelerator))

    assert open_again(data) == 1
    error = capsys.readouterr().err
    assert "1 caption has more tokens than the 48 the model reads" in error
    assert "1 of 2 clips are skipped: 1 x No such file or directory. " in error
    lost = tmp_path / "cache" / "latents-00000.safetensors"
    before = lost.read_bytes()
    lost.unlink()
    with pytest.raises(
        ConfigError, match="Run the command that made the cache again: it makes what is missing"
    ):
        open_again(data.model_copy(update={"manifest": None}))
    assert open_again(data) == 1 and lost.read_bytes() == before
    assert "missing or damaged, so made again: latents-00000.safetensors" in capsys.readouterr().err


def test_a_cache_of_another_form_is_made_whole_in_that(
    tiny_wan_folder: Path, tiny_schedule: ScaleSchedule, tmp_path: Path
) -> None:
    line = {"path": str(EMOJI / "tea.webp"), "caption": "tea"}
    manifest, cache = tmp_path / "clips.jsonl", tmp_path / "cache"
    manifest.write_text("\n".join([json.dumps(line)] * 3))
    model, name = load_teacher(tiny_wan_folder), str(tiny_wan_folder)
    form: dict[str, Any] = {"dtype": "bfloat16", "shard_size": 2}
    encode_manifest(
        read_manifest(manifest), lambda: model, tiny_schedule.distinct_grids, cache, model_name=name, **form
    )
    before = {path.name: path.read_bytes() for path in cache.iterdir() if path.suffix == ".safetensors"}
    (cache / "latents-00001.safetensors").unlink()
    data = DataConfig(manifest=str(manifest), cache=str(cache))
    assert len(open_clips(data, name, None, tiny_schedule, model, Accelerator(cpu=True))) == 3
    assert before == {
        path.name: path.read_bytes() for path in cache.iterdir() if path.suffix == ".safetensors"
    }
