import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from swd_video.evaluation.attribute_judge import AttributeJudge
from tools.pocket.corpus import corpus_specs
from tools.pocket.judge import (
    CLASSES,
    JudgeOptions,
    attribute_labels,
    augment,
    deviations_of_readings,
    main,
    readings_of,
    run,
    spoil,
    train,
)


def test_one_command_trains_and_reports(
    pocket_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--clips", "24", "--test-clips", "16", "--steps", "3", "--batch-size", "8", "--workers", "1"]
    assert main(["--out", str(tmp_path / "judge"), *sizes, "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert set(about["held_out_accuracy"]) == {*CLASSES, "none of these"}
    judge = AttributeJudge.load(tmp_path / "judge")
    assert judge.classes == CLASSES
    assert (
        set(about["held_out_errors"])
        == set(judge.readings)
        == set(readings_of(corpus_specs("train", 0, 1)[0]))
    )
    assert main(["--out", str(tmp_path / "judge"), *sizes, "--seed", "0", "--steps", "4"]) == 2
    assert "use the same options" in capsys.readouterr().err


def test_a_stopped_training_goes_on_to_the_same_weights(pocket_corpus: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    clips = torch.randint(0, 255, (20, 3, 5, 16, 16), dtype=torch.uint8)
    specs = corpus_specs("train", 0, 20)
    labels, names = attribute_labels(specs), readings_of(specs[0])
    readings = np.random.default_rng(0).normal(size=(20, len(names))).astype(np.float32)
    options = JudgeOptions(out=tmp_path / "whole", steps=7, batch_size=4, checkpoint_every=2)

    def fresh() -> AttributeJudge:
        torch.manual_seed(1)
        return AttributeJudge(
            CLASSES, readings=dict.fromkeys(names, 1.0), input_frames=5, input_size_px=16, width=4
        )

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
    train(whole, lambda indices: clips[indices], labels, readings, options)
    parts = replace(options, out=tmp_path / "parts")
    with pytest.raises(Stopped):
        train(fresh(), read_until_stopped, labels, readings, parts)
    resumed = fresh()
    train(resumed, lambda indices: clips[indices], labels, readings, parts)
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


def test_readings_are_what_the_clip_shows(pocket_corpus: Path) -> None:
    specs = corpus_specs("train", 0, 200)
    for motion, name, sign in (
        ("moving left", "x", -1),
        ("falling down", "y", 1),
        ("coming closer", "size", 1),
    ):
        ways = [
            sign * (numbers[f"{name}_last"] - numbers[f"{name}_first"])
            for numbers in (readings_of(spec) for spec in specs if spec.motion == motion)
        ]
        assert min(ways) > 0.2
    assert len({readings_of(spec)["shift"] for spec in specs}) == len(specs)
    deviations = deviations_of_readings()
    # Uniform within 0.05 to either side, the way's speed beside it; in [-1, 1]; sine and cosine of any angle.
    assert deviations["x_first"] == pytest.approx(0.1 / 12**0.5, rel=0.1)
    assert deviations["shift"] == pytest.approx(2 / 12**0.5, rel=0.1)
    assert deviations["phase_sine"] > 0.5


def test_spoilt_clips_are_spoilt_in_every_frame_alike_and_keep_their_range() -> None:
    generator = torch.Generator().manual_seed(0)
    still = torch.rand(8, 3, 1, 32, 32, generator=generator).expand(-1, -1, 5, -1, -1) * 2 - 1
    spoilt = spoil(still, torch.Generator().manual_seed(1))
    assert spoilt.shape == still.shape
    assert ((spoilt - still).abs().mean(dim=(1, 2, 3, 4)) > 0.1).all()
    torch.testing.assert_close(spoilt, spoilt[:, :, :1].expand_as(spoilt))
    assert spoilt.abs().max() < 1.3
    assert sorted(spoilt[3, 0, 0].flatten().tolist()) == sorted(still[3, 0, 0].flatten().tolist())  # shuffled
    assert torch.equal(spoilt, spoil(still, torch.Generator().manual_seed(1)))
