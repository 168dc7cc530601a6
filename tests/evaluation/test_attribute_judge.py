import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from swd_video.core.pixels import pixels_from_frames
from swd_video.evaluation.attribute_judge import AttributeJudge

CLASSES = {
    "subject": ("square", "bar"),
    "motion": ("left", "right", "still"),
    "background": ("dark", "light"),
}


READINGS = {"y_first": 0.2, "brightness": 10.0}


def clips_with_labels(count: int, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Squares or bars that go left, right or nowhere over a dark or a light ground; height and brightness of it."""
    rng = np.random.default_rng(seed)
    labels = {name: rng.integers(len(classes), size=count) for name, classes in CLASSES.items()}
    clips = np.zeros((count, 9, 48, 48, 3), dtype=np.uint8)
    numbers = np.zeros((count, 2), dtype=np.float32)
    for index, (clip, subject, motion, ground) in enumerate(zip(clips, *labels.values(), strict=True)):
        offset = rng.integers(-20, 20)
        clip[...] = (30, 200)[ground] + offset
        height, width = ((14, 14), (6, 26))[subject]
        y, x = rng.integers(4, 44 - height), 24 - width // 2 + rng.integers(-3, 4)
        colour = rng.integers(90, 150, size=3)
        numbers[index] = (y + height / 2) / 48 / READINGS["y_first"], offset / READINGS["brightness"]
        for time, frame in enumerate(clip):
            left = max(x + (-2, 2, 0)[motion] * (time - 4), 0)
            frame[y : y + height, left : left + width] = colour
    return clips, labels, numbers


def small_judge() -> AttributeJudge:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AttributeJudge(CLASSES, readings=READINGS, input_frames=9, input_size_px=32, width=8)


def test_a_judge_learns_to_read_the_attributes_back(tmp_path: Path) -> None:
    judge = small_judge()
    clips, labels, numbers = clips_with_labels(256, seed=0)
    pixels = pixels_from_frames(judge.prepare(clips))
    targets = {name: torch.from_numpy(values) for name, values in labels.items()}
    optimizer = torch.optim.AdamW(judge.parameters(), lr=3e-3)
    judge.train()
    for step in range(60):
        batch = torch.arange(step * 32, step * 32 + 32) % 256
        logits, readings = judge(pixels[batch])
        loss = sum(functional.cross_entropy(logits[name], targets[name][batch]) for name in CLASSES)
        loss = loss + functional.smooth_l1_loss(readings, torch.from_numpy(numbers)[batch])
        optimizer.zero_grad()
        torch.as_tensor(loss).backward()
        optimizer.step()

    unseen, answers, wanted = clips_with_labels(96, seed=1)
    judge.save(tmp_path, note="test")
    reloaded = AttributeJudge.load(tmp_path)
    assert reloaded.readings == READINGS
    predictions, readings = reloaded.predict(unseen, batch_size=40)
    assert ((readings - wanted).std(axis=0) < 0.5 * wanted.std(axis=0)).all()
    shares = {name: np.mean(read == answers[name]) for name, read in predictions.items()}
    assert {name: round(share, 1) for name, share in shares.items() if share < 0.9} == {}
    for name, expected in judge.predict(unseen)[0].items():
        np.testing.assert_array_equal(predictions[name], expected)
    backwards, _ = reloaded.predict(np.ascontiguousarray(unseen[:, ::-1]))
    moving = answers["motion"] < 2
    assert np.mean(backwards["motion"][moving] == 1 - answers["motion"][moving]) > 0.9


def test_prepare_keeps_first_and_last_frame_and_takes_any_size() -> None:
    judge = small_judge()
    clip = np.zeros((1, 33, 64, 48, 3), dtype=np.uint8)
    clip[0] = np.arange(33)[:, None, None, None]
    prepared = judge.prepare(clip)
    assert prepared.shape == (1, 3, 9, 32, 32)
    assert prepared[0, 0, :, 0, 0].tolist() == [0, 4, 8, 12, 16, 20, 24, 28, 32]
    with pytest.raises(ValueError, match="two or more frames"):
        judge.prepare(clip[:, :1])


def test_predicting_leaves_the_mode_and_batching_does_not_matter() -> None:
    judge = small_judge().train()
    clips, *_ = clips_with_labels(7, seed=2)
    together, numbers = judge.predict(clips)
    apart, same_numbers = judge.predict(clips, batch_size=2)
    assert judge.training
    for name in CLASSES:
        np.testing.assert_array_equal(together[name], apart[name])
    np.testing.assert_allclose(numbers, same_numbers, atol=1e-5)


def test_a_judge_that_reads_no_numbers_reads_the_same_classes(tmp_path: Path) -> None:
    """As those that were saved before any did."""
    judge = AttributeJudge(CLASSES, input_frames=9, input_size_px=32, width=8)
    judge.save(tmp_path)
    config = json.loads((tmp_path / "judge.json").read_text())
    del config["readings"]
    (tmp_path / "judge.json").write_text(json.dumps(config))
    classes, numbers = AttributeJudge.load(tmp_path).predict(clips_with_labels(3, seed=2)[0])
    assert set(classes) == set(CLASSES) and numbers.shape == (3, 0)


def test_wrong_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no judge there"):
        AttributeJudge.load(tmp_path)
    judge = AttributeJudge({"subject": ("cat", "dog")}, width=8)
    for key, value, message in (
        ("classes", 3, r"judge\.json cannot be loaded: "),
        ("width", 16, r"judge\.safetensors: .* has shape \(.*\), in the judge it has"),
    ):
        judge.save(tmp_path)
        config = json.loads((tmp_path / "judge.json").read_text())
        (tmp_path / "judge.json").write_text(json.dumps({**config, key: value}))
        with pytest.raises(ValueError, match=message):
            AttributeJudge.load(tmp_path)
    (tmp_path / "judge.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"judge\.safetensors: is no whole safetensors file"):
        AttributeJudge.load(tmp_path)
    with pytest.raises(ValueError, match="two or more different names"):
        AttributeJudge({"subject": ("cat", "cat")})
