from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from transformers import Dinov2Config, Dinov2Model

from swd_video.core.decoder import StreamingDecoder
from swd_video.core.grid import LatentSize
from swd_video.core.schedule import ScaleSchedule, Stage
from swd_video.evaluation.overlap import check_decoder, check_overlap
from swd_video.models.fingerprint import fingerprint_folders
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.student import Student
from swd_video.student.student_file import PixelNetwork


@pytest.fixture
def student(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "student"
    folder.mkdir(parents=True)
    return folder


def record(student: Path, encoder: str) -> None:
    loss = {
        "mmd": {"kernel": "linear", "features": [{"kind": "teacher"}, {"kind": "video", "name": encoder}]}
    }
    (student.parent / "config.yaml").write_text(yaml.safe_dump({"model": "pocket-wan", "loss": loss}))


@pytest.mark.parametrize(
    ("trained_with", "judged_by"),
    [
        ("EfficientNet-Lite0", "efficientnet"),
        ("MCG/VideoMAE-base", "MCG/videomae-base"),
        ("MCG/vit", "./copies/vit"),
    ],
)
def test_the_same_network_is_refused(trained_with: str, judged_by: str, student: Path) -> None:
    record(student, trained_with)
    with pytest.raises(ValueError, match=r"metrics\.encoder: .* loss\.mmd\.features\[1\]\.name"):
        check_overlap(student, {"metrics.encoder": judged_by})


def test_a_copy_of_its_files_is_the_same_network(student: Path, tmp_path: Path) -> None:
    small = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 8,
        "patch_size": 4,
    }
    net = Dinov2Model(Dinov2Config(**small))
    net.save_pretrained(tmp_path / "one")
    net.save_pretrained(tmp_path / "copy")
    Dinov2Model(Dinov2Config(**small)).save_pretrained(tmp_path / "other")
    record(student, str(tmp_path / "one"))
    assert check_overlap(student, {"metrics.encoder": str(tmp_path / "other")})
    with pytest.raises(ValueError, match="must not judge what it trained"):
        check_overlap(student, {"metrics.encoder": str(tmp_path / "copy")})


def test_a_student_on_its_own_says_what_trained_it(student: Path, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = Dinov2Config(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=4
        )
        Dinov2Model(config).save_pretrained(tmp_path / "encoder")
        Dinov2Model(config).save_pretrained(tmp_path / "other")
    judges = [{"metrics.encoder": str(tmp_path / name)} for name in ("encoder", "other")]
    used = (
        PixelNetwork("elsewhere", fingerprint_folders([tmp_path / "encoder"])),
        PixelNetwork("MCG/videomae"),
    )
    schedule = ScaleSchedule((Stage(1.0, LatentSize(1, 2, 2)),))
    made = Student("pocket-wan", ScaleWiseFlowMatchScheduler.from_schedule(schedule))
    made.save(student, {})
    assert not check_overlap(student, judges[0]), "a record without encoders says nothing"
    replace(made, trained_through=()).save(student, {})
    assert check_overlap(student, judges[0])
    replace(made, trained_through=used).save(student, {})
    assert Student.load(student).trained_through == used
    assert check_overlap(student, judges[1])
    for judge in (judges[0], {"metrics.encoder": "copies/VideoMAE"}):
        with pytest.raises(ValueError, match=r"metrics\.encoder: .*student\.json: encoders"):
            check_overlap(student, judge)


def test_other_networks_may_judge_and_without_a_record_nothing_is_known(student: Path) -> None:
    networks = {"metrics.encoder": "efficientnet", "metrics.judge": "out/judge"}
    assert not check_overlap(student, networks)
    record(student, "transnetv2")
    assert check_overlap(student, networks)
    (student.parent / "config.yaml").write_text("model: efficientnet\n")
    assert not check_overlap(student, networks)


def test_what_a_decoder_was_trained_through_counts_where_it_shows_the_clips(
    student: Path, tmp_path: Path, tiny_decoder: Callable[..., StreamingDecoder]
) -> None:
    decoder = tiny_decoder()
    decoder.made_of = {"trained_through": [{"name": "MCG/videomae"}]}
    decoder.save(tmp_path / "own.safetensors")
    schedule = ScaleSchedule((Stage(1.0, LatentSize(1, 2, 2)),))
    made = Student("pocket-wan", ScaleWiseFlowMatchScheduler.from_schedule(schedule), trained_through=())
    replace(made, decoder=decoder).save(student, {})
    judge = {"metrics.encoder": "copies/VideoMAE"}
    for check in (
        lambda: check_overlap(student, judge),
        lambda: check_decoder(tmp_path / "own.safetensors", judge),
    ):
        with pytest.raises(ValueError, match=r"metrics\.encoder: .*trained_through: 'MCG/videomae'"):
            check()
    assert check_overlap(student, judge, own_decoder=False), "clips are shown through the VAE"
    check_decoder(tmp_path / "own.safetensors", {"metrics.encoder": "efficientnet"})
