"""The corpus is the same whoever composes it, and its held-out combinations stay out."""

import hashlib
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from swd_video.core.grid import PixelSize
from swd_video.data.texts import read_prompts
from tools.pocket import corpus
from tools.pocket.corpus import (
    ClipSpec,
    combinations,
    compose_clip,
    corpus_specs,
    frame_rate,
    parse_caption,
    split_of,
    write_prompts,
)

EMOJI = Path(__file__).parents[1] / "data" / "files" / "fire.webp"


@pytest.fixture
def one_emoji(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    shutil.copy(EMOJI, tmp_path / f"{corpus.SUBJECTS['tiger']}.webp")
    monkeypatch.setattr(corpus, "EMOJI_FOLDER", tmp_path)
    corpus._sprites.cache_clear()
    corpus._count_pictures.cache_clear()
    yield
    corpus._sprites.cache_clear()
    corpus._count_pictures.cache_clear()


def centre_of_change(frames: np.ndarray, backdrop: np.ndarray) -> tuple[float, float]:
    changed = (np.abs(frames.astype(int) - backdrop.astype(int)).sum(-1) > 60).nonzero()
    return float(changed[0].mean()), float(changed[1].mean())


def test_splits_share_no_combination() -> None:
    train, choose, final = (set(combinations(split)) for split in ("train", "choose", "final"))
    assert not train & choose and not train & final and not choose & final
    assert len(train | choose | final) == 20 * 6 * 6
    assert set(combinations("heldout")) == choose | final
    assert (len(choose), len(final)) == (30, 46)
    assert all(split_of(*words) == "final" for words in final)
    with pytest.raises(ValueError, match="one of train, heldout, choose, final"):
        combinations("test")


def test_the_clips_that_networks_learned_from_stay_as_they_are() -> None:
    """Weights that are shipped were trained on these, in this order."""
    text = "".join(f"{spec.caption} {spec.seed}\n" for spec in corpus_specs("train", seed=0, count=3220))
    assert hashlib.sha256(text.encode()).hexdigest().startswith("1bde6dba518e4208")


def test_every_combination_comes_equally_often() -> None:
    specs = corpus_specs("train", seed=0, count=2 * len(combinations("train")))
    counts: dict[tuple[str, str, str], int] = {}
    for spec in specs:
        key = (spec.subject, spec.motion, spec.background)
        counts[key] = counts.get(key, 0) + 1
    assert set(counts.values()) == {2}
    assert specs == corpus_specs("train", seed=0, count=len(specs))
    assert specs != corpus_specs("train", seed=1, count=len(specs))


def test_captions_read_back() -> None:
    for spec in corpus_specs("heldout", seed=3, count=50):
        assert parse_caption(spec.caption, spec.seed) == spec
    with pytest.raises(ValueError, match="a unicorn"):
        parse_caption("a unicorn moving left at night")


def test_clips_repeat_and_move_as_the_caption_says(one_emoji: None) -> None:
    size = PixelSize(9, 48, 48)
    left = compose_clip(ClipSpec("tiger", "moving left", "at sunset", 5), size)
    assert left.shape == (9, 48, 48, 3)
    assert np.array_equal(left, compose_clip(ClipSpec("tiger", "moving left", "at sunset", 5), size))
    for motion, axis, sign in (("moving left", 1, -1), ("moving right", 1, 1), ("floating up", 0, -1)):
        clip = compose_clip(ClipSpec("tiger", motion, "at sunset", 5), size)
        backdrop = np.median(clip, axis=0)
        first, last = (centre_of_change(clip[index], backdrop)[axis] for index in (0, -1))
        assert sign * (last - first) > 4, motion


def test_more_frames_divide_the_same_time_more_finely(one_emoji: None) -> None:
    spec = ClipSpec("tiger", "coming closer", "at sunset", 5)
    coarse, fine = (compose_clip(spec, PixelSize(frames, 48, 48)) for frames in (17, 33))
    assert np.array_equal(fine[::2], coarse)
    assert frame_rate(PixelSize(33, 48, 48)) == 2 * frame_rate(PixelSize(17, 48, 48)) == 24


def test_a_folder_holds_clips_of_one_recipe(pocket_corpus: Path, tmp_path: Path) -> None:
    made = partial(
        corpus.build, tmp_path / "clips", split="train", seed=0, workers=1, size=PixelSize(5, 16, 16)
    )
    made(count=2, lossless=True)
    before = (tmp_path / "clips/00000.mp4").read_bytes()
    made(count=3, lossless=True)  # more of the same
    with pytest.raises(ValueError, match=r"holds clips of .*'lossless': True.*Choose another folder"):
        made(count=3)
    assert (tmp_path / "clips/00000.mp4").read_bytes() == before


def test_a_missing_animation_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "EMOJI_FOLDER", tmp_path)
    corpus._sprites.cache_clear()
    corpus._count_pictures.cache_clear()
    with pytest.raises(FileNotFoundError, match="corpus fetch"):
        compose_clip(ClipSpec("tiger", "moving left", "at night", 0))


def test_the_prompts_of_the_shipped_evaluation_are_those_to_choose_on(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.txt", "choose")
    shipped = Path(__file__).parents[2] / "configs" / "pocket" / "choose_prompts.txt"
    assert shipped.read_text() == (tmp_path / "prompts.txt").read_text()
    captions = read_prompts(tmp_path / "prompts.txt")
    assert {split_of(c.subject, c.motion, c.background) for c in map(parse_caption, captions)} == {"choose"}
