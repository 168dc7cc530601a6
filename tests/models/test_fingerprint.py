"""Fingerprints change with what a model makes, and with nothing else."""

import os
import shutil
from pathlib import Path

import pytest
from diffusers import WanPipeline

from swd_video.models import fingerprint
from swd_video.models.fingerprint import fingerprint_encoders, fingerprint_folders, fingerprint_vae


def make_folder(folder: Path, weights: bytes = b"weights") -> Path:
    (folder / "transformer").mkdir(parents=True, exist_ok=True)
    (folder / "student.json").write_text("{}")
    (folder / "transformer" / "model.safetensors").write_bytes(weights)
    return folder


def test_place_dates_and_papers_do_not_matter(tmp_path: Path) -> None:
    first, second = make_folder(tmp_path / "a"), make_folder(tmp_path / "b")
    os.utime(second / "student.json", (0, 0))
    (second / "README.md").write_text("about")
    (second / "sample.mp4").write_bytes(b"clip")
    (second / ".cache").mkdir()
    (second / ".cache" / "x").write_text("y")
    assert fingerprint_folders([first]) == fingerprint_folders([second])


def test_bytes_names_and_further_folders_matter(tmp_path: Path) -> None:
    base = make_folder(tmp_path / "a")
    renamed = make_folder(tmp_path / "b")
    (renamed / "student.json").rename(renamed / "pupil.json")
    folders = [[base], [make_folder(tmp_path / "c", b"Weights")], [renamed], [base, base]]
    assert len({fingerprint_folders(group) for group in folders}) == 4


def test_what_lies_behind_a_link_to_a_folder_matters(tmp_path: Path) -> None:
    plain, linked = make_folder(tmp_path / "plain"), make_folder(tmp_path / "linked")
    elsewhere = make_folder(tmp_path / "elsewhere")
    shutil.copytree(elsewhere, plain / "part")
    (linked / "part").symlink_to(elsewhere)
    (elsewhere / "round").symlink_to(elsewhere)  # leads nowhere new, nor do two that lead to each other
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "back").symlink_to(elsewhere)
    (elsewhere / "there").symlink_to(tmp_path / "other")
    before = fingerprint_folders([linked])
    assert before == fingerprint_folders([plain])
    make_folder(elsewhere, b"Weights")
    assert fingerprint_folders([linked]) != before


def test_large_files_are_sampled_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "WHOLE_FILE_BYTES", 2**20)
    size = 20 * 2**20  # more than 256 samples of 64 KiB

    def of(*changed: int) -> str:
        path = tmp_path / "model.safetensors"
        with path.open("wb") as file:
            file.truncate(size)
            for position in changed:
                file.seek(position)
                file.write(b"x")
        return fingerprint_folders([tmp_path])

    assert len({of(), of(0), of(size - 1), of(100 * (size - 2**16) // 255)}) == 4
    between = fingerprint._SAMPLE_BYTES + 1
    assert of(between) == of(), "only samples are read, else this would take minutes for a large model"
    assert of(*range(0, size, 2**16)) != of(), "training changes weights everywhere"


def test_loading_and_saving_again_changes_nothing(tiny_wan_folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    WanPipeline.from_pretrained(tiny_wan_folder).save_pretrained(again)
    spec = tiny_wan_folder / "video_spec.json"
    if spec.exists():
        shutil.copy(spec, again)
    before, after = (folder / "vae" / "config.json" for folder in (tiny_wan_folder, again))
    assert before.read_bytes() != after.read_bytes()
    assert fingerprint_encoders(again) == fingerprint_encoders(tiny_wan_folder)
    assert fingerprint_folders([again / "vae"]) == fingerprint_folders([tiny_wan_folder / "vae"])
    after.write_text(after.read_text().replace('"scale_factor_spatial": 8', '"scale_factor_spatial": 16'))
    assert fingerprint_encoders(again) != fingerprint_encoders(tiny_wan_folder)


def test_fingerprint_sees_retrained_encoders(tiny_wan_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_wan_folder, copy)
    first = fingerprint_encoders(tiny_wan_folder)
    assert len(first) == 64
    assert fingerprint_encoders(copy) == first
    (copy / "transformer" / "config.json").write_text("{}")
    assert fingerprint_encoders(copy) == first
    weights = next((copy / "vae").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    retrained = fingerprint_encoders(copy)
    assert retrained != first
    shutil.copytree(copy / "tokenizer", copy / "tokenizer_2")
    assert fingerprint_encoders(copy) != retrained, "HunyuanVideo reads prompts with two encoders"
    shutil.rmtree(copy / "tokenizer_2")
    assert fingerprint_encoders(copy) == retrained
    (copy / "video_spec.json").write_text('{"fps": 12}')
    assert fingerprint_encoders(copy) not in (first, retrained)


def test_a_hub_name_stands_for_the_files_that_loading_it_uses(
    tiny_wan_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cached, revision = tmp_path / "models--someone--tiny-wan", "0123456789abcdef" * 2 + "01234567"
    snapshot = cached / "snapshots" / revision
    shutil.copytree(tiny_wan_folder, snapshot)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revision)
    assert fingerprint_encoders("someone/tiny-wan") == fingerprint_encoders(tiny_wan_folder)
    (snapshot / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"never opened")
    (snapshot / "vae" / ".weights.0123456789abcdef.draft").write_bytes(b"half")
    assert fingerprint_encoders("someone/tiny-wan") == fingerprint_encoders(tiny_wan_folder)
    weights = next((snapshot / "vae").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert fingerprint_encoders("someone/tiny-wan") != fingerprint_encoders(tiny_wan_folder)
    with pytest.raises(ValueError, match="model 'someone/other': is no folder here, and the hub does not"):
        fingerprint_encoders("someone/other")


def test_a_vae_is_known_by_itself_whatever_text_it_stands_beside(tmp_path: Path) -> None:
    for name, vae, words in (("a", "1", "tiger"), ("b", "1", "lion"), ("c", "2", "tiger")):
        for part, content in (("vae", vae), ("tokenizer", words)):
            (tmp_path / name / part).mkdir(parents=True)
            (tmp_path / name / part / "config.txt").write_text(content)
        (tmp_path / name / "model_index.json").write_text("{}")
    first, other_words, other_vae = (tmp_path / name for name in "abc")
    assert fingerprint_vae(first) == fingerprint_vae(other_words) != fingerprint_vae(other_vae)
    assert len({fingerprint_encoders(folder) for folder in (first, other_words, other_vae)}) == 3
