import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from swd_video.evaluation.attribute_judge import AttributeJudge
from tools.pocket.corpus import corpus_specs
from tools.pocket.judge import CLASSES, JudgeOptions, attribute_labels, augment, main, run, train


def test_one_command_trains_and_reports(
    pocket_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--clips", "24", "--test-clips", "16", "--steps", "3", "--batch-size", "8", "--workers", "1"]
    assert main(["--out", str(tmp_path / "judge"), *sizes, "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert set(about["held_out_accuracy"]) == set(CLASSES)
    judge = AttributeJudge.load(tmp_path / "judge")
    assert judge.classes == CLASSES
    assert main(["--out", str(tmp_path / "judge"), *sizes, "--seed", "0", "--steps", "4"]) == 2
    assert "use the same options" in capsys.readouterr().err


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    clips = torch.randint(0, 255, (20, 3, 5, 16, 16), dtype=torch.uint8)
    labels = attribute_labels(corpus_specs("train", 0, 20))
    options = JudgeOptions(out=tmp_path / "whole", steps=7, batch_size=4, checkpoint_every=2)

    def fresh() -> AttributeJudge:
        torch.manual_seed(1)
        return AttributeJudge(CLASSES, input_frames=5, input_size_px=16, width=4)

    class Stopped(Exception):
        pass

    reads = 0

    def read_until_stopped(indices: np.ndarray) -> torch.Tensor:
        nonlocal reads
        reads += 1
        if reads == 6:
            raise Stopped
        return clips[indices]

    whole = fresh()
    train(whole, lambda indices: clips[indices], labels, options)
    parts = replace(options, out=tmp_path / "parts")
    with pytest.raises(Stopped):
        train(fresh(), read_until_stopped, labels, parts)
    resumed = fresh()
    train(resumed, lambda indices: clips[indices], labels, parts)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_clips_that_are_composed_are_not_composed_again(pocket_corpus: Path, tmp_path: Path) -> None:
    options = JudgeOptions(out=tmp_path, clips=10, test_clips=4, steps=1, batch_size=4, workers=1)
    run(options)
    first = load_file(tmp_path / "judge.safetensors")
    for path in pocket_corpus.glob("*.webp"):
        assert path.exists()
    shards = sorted(tmp_path.rglob("*.npy"))
    stamps = [path.stat().st_mtime_ns for path in shards]
    assert len(shards) == 2
    run(options)
    assert [path.stat().st_mtime_ns for path in shards] == stamps
    assert all(
        torch.equal(value, first[name]) for name, value in load_file(tmp_path / "judge.safetensors").items()
    )


def test_augmentation_changes_all_frames_of_a_clip_alike() -> None:
    still = torch.rand(4, 3, 1, 24, 24).expand(-1, -1, 6, -1, -1) * 2 - 1
    changed = augment(still, torch.Generator().manual_seed(0))
    assert changed.shape == still.shape
    assert (changed - still).abs().mean() > 0.05
    assert changed.diff(dim=2).abs().mean() < 0.1
    again = augment(still, torch.Generator().manual_seed(0))
    assert torch.equal(changed, again)
