"""A student that carries a decoder: saved, loaded, asked for another, given one later."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanPipeline
from peft import get_peft_model_state_dict

from swd_video.core.decoder import DecoderLayout, StreamingDecoder
from swd_video.core.grid import Compression, PixelSize
from swd_video.core.schedule import ScaleSchedule
from swd_video.cost.clip_benchmark import measure_clips
from swd_video.data.video import probe_video
from swd_video.evaluation.config import StudentRowConfig, TeacherRowConfig
from swd_video.evaluation.model_pool import ModelPool
from swd_video.evaluation.overlap import _training_networks
from swd_video.models.decoding import decode_whole
from swd_video.models.fingerprint import fingerprint_vae
from swd_video.models.loading import LoadOptions
from swd_video.models.lora import add_lora
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.student import Student
from swd_video.student.student_file import PixelNetwork
from swd_video.studio.render import render
from swd_video.studio.yaml_script import parse_script


@pytest.fixture
def plain(
    tiny_wan_pipe: WanPipeline, tiny_wan_folder: Path, tiny_schedule: ScaleSchedule, tmp_path: Path
) -> Student:
    """A student that is shown through its VAE."""
    made = Student(str(tiny_wan_folder), ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule))
    made.save(tmp_path / "student", tiny_wan_pipe.transformer)
    return Student.load(tmp_path / "student")


@pytest.fixture
def decoder_file(
    tiny_decoder: Callable[..., StreamingDecoder], tiny_wan_folder: Path, tmp_path: Path
) -> Path:
    """A decoder of the student's latents."""
    path = tmp_path / "decoder.safetensors"
    tiny_decoder(vae=fingerprint_vae(tiny_wan_folder)).save(path)
    return path


def _clip(student: Student, **options: object) -> np.ndarray:
    pipe = student.pipeline(options=LoadOptions(**options))  # type: ignore[arg-type]
    pipe.set_progress_bar_config(disable=True)
    return pipe("a cat", generator=torch.Generator().manual_seed(0)).frames


def test_a_decoder_is_put_into_a_student_and_asked_for_or_not(plain: Student, decoder_file: Path) -> None:
    assert plain.folder is not None
    through_vae, through_file = _clip(plain), _clip(plain, decoder=decoder_file)
    before = plain.fingerprint()
    given = plain.carry_decoder(decoder_file)
    student = Student.load(plain.folder)
    assert given.decoder is not None
    assert student.decoder is not None
    assert student.fingerprint() == before, "of what its latents are made of"
    assert np.array_equal(_clip(student), through_file)
    assert np.array_equal(_clip(student, decoder="vae"), through_vae)
    assert not np.array_equal(through_file, through_vae)


def test_all_that_a_pipeline_shows_is_shown_through_it(plain: Student, decoder_file: Path) -> None:
    pipe = plain.pipeline(options=LoadOptions(decoder=decoder_file))
    pipe.set_progress_bar_config(disable=True)
    latents = pipe("a cat", generator=torch.Generator().manual_seed(0), output_type="latent").frames
    shown = pipe("a cat", generator=torch.Generator().manual_seed(0), output_type="pt", preview=True)
    assert shown.previews is not None
    assert [len(preview[0]) for preview in shown.previews] == [5, 9, 9]
    pixels = decode_whole(pipe.model, latents)[0].permute(1, 0, 2, 3)
    torch.testing.assert_close(shown.frames[0], pixels / 2 + 0.5)


def test_it_is_saved_with_the_student_as_it_was_read(
    plain: Student, decoder_file: Path, tmp_path: Path, tiny_wan_pipe: WanPipeline
) -> None:
    student = plain.carry_decoder(decoder_file)
    student.pipeline(dtype=torch.bfloat16)
    student.save(tmp_path / "again", tiny_wan_pipe.transformer)
    assert (tmp_path / "again" / "decoder.safetensors").read_bytes() == decoder_file.read_bytes()


def test_a_decoder_of_another_vae_is_refused_and_nothing_changes(
    plain: Student, tiny_decoder: Callable[..., StreamingDecoder], tmp_path: Path
) -> None:
    tiny_decoder(vae="another").save(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="for the VAE with fingerprint another"):
        plain.carry_decoder(tmp_path / "other.safetensors")
    assert plain.folder is not None
    assert not (plain.folder / "decoder.safetensors").exists()


def test_commands_and_rows_of_an_evaluation_say_what_clips_are_shown_through(
    plain: Student, decoder_file: Path
) -> None:
    assert LoadOptions().shown_through(None) == LoadOptions()
    assert LoadOptions(decoder=decoder_file).shown_through("vae").decoder == "vae"
    assert LoadOptions().shown_through(str(decoder_file)).decoder == decoder_file
    plain.carry_decoder(decoder_file)
    pool, size = ModelPool(torch.float32, "cpu"), PixelSize(9, 48, 64)
    digests = {}
    for decoder in (None, "vae", decoder_file):
        section = StudentRowConfig(key="student", model=str(plain.folder), decoder=decoder)
        row = pool.row(section)
        digests[decoder] = row.identity.get("decoder")
        assert ("through decoder" in row.title) == (decoder != "vae")
    assert digests[None] == digests[decoder_file] is not None
    assert digests["vae"] is None
    teacher = TeacherRowConfig(key="teacher", model=plain.base_path, decoder=decoder_file)
    assert pool.row(teacher, size).identity["decoder"] == digests[None]
    assert "decoder" not in pool.row(teacher.model_copy(update={"decoder": None}), size).identity


def test_a_clip_is_timed_through_both(plain: Student, decoder_file: Path) -> None:
    student = plain.carry_decoder(decoder_file)
    result = measure_clips(Student.load(str(student.folder)), rounds=1)
    assert [(row["way"], row["through"]) for row in result["rows"]] == [
        (way, through) for way in ("student", "full_steps", "teacher") for through in ("decoder", "vae")
    ]
    assert result["seconds_a_clip"]["decode"] == result["rows"][0]["decode"] != result["rows"][1]["decode"]


def test_a_network_that_trained_the_decoder_must_not_judge(
    plain: Student, tiny_decoder: Callable[..., StreamingDecoder], tiny_wan_folder: Path, tmp_path: Path
) -> None:
    decoder = tiny_decoder(vae=fingerprint_vae(tiny_wan_folder))
    decoder.made_of = {"trained_through": [{"name": "google/vivit", "fingerprint": ""}]}
    decoder.save(tmp_path / "seen.safetensors")
    plain.carry_decoder(tmp_path / "seen.safetensors")
    assert plain.folder is not None
    networks = [network for _, network in _training_networks(plain.folder, own_decoder=True)]
    assert PixelNetwork("google/vivit") in networks


@pytest.mark.parametrize("form", ["lora", "merged"])
def test_an_export_takes_the_decoder_along_and_its_card_says_so(
    form: str, tiny_wan_pipe: WanPipeline, plain: Student, decoder_file: Path, tmp_path: Path
) -> None:
    if form == "lora":
        transformer = tiny_wan_pipe.transformer
        add_lora(transformer, 4, ["to_q"])
        plain.save(tmp_path / "additions", get_peft_model_state_dict(transformer))
        plain = Student.load(tmp_path / "additions")
    said = "shown through the decoder in `decoder.safetensors`"
    plain.export(tmp_path / "before", form=form)
    assert said not in (tmp_path / "before" / "README.md").read_text()
    student = plain.carry_decoder(decoder_file)
    student.export(tmp_path / "export", form=form)
    card = (tmp_path / "export" / "README.md").read_text()
    assert said in card
    assert "to the same latents, bit for bit" in card
    assert np.array_equal(_clip(Student.load(tmp_path / "export")), _clip(student))


def test_a_clip_that_a_decoder_enlarges_says_its_own_size(plain: Student, tmp_path: Path) -> None:
    layout = DecoderLayout.for_compression(Compression(), 4, (16, 8), (1, 1), (2, 8), upscale=2)
    StreamingDecoder(layout).save(tmp_path / "larger.safetensors")
    script = parse_script("shots: [{id: cat, prompt: a cat}]", "cat.yaml")
    options = LoadOptions(decoder=tmp_path / "larger.safetensors")
    assert render(script, tmp_path / "out", model=str(plain.folder), options=options).count("rendered") == 1
    sidecar = json.loads((tmp_path / "out" / "cat.json").read_text())
    video = probe_video(tmp_path / "out" / "cat.mp4")
    assert (video.width, video.height) == (sidecar["width"], sidecar["height"]) == (128, 96)
    assert sidecar["stages"][-1]["width"] == 64

    pool, path = ModelPool(torch.float32, "cpu"), tmp_path / "larger.safetensors"
    larger = StudentRowConfig(key="larger", model=str(plain.folder), decoder=path)
    assert pool.own_size(larger) == PixelSize(9, 96, 128)
    with pytest.raises(ValueError, match=r"its clips are 9x96x128, the others' are 9x48x64"):
        pool.row(larger, PixelSize(9, 48, 64))
    with pytest.raises(ValueError, match="shows 16 pixels along each side of a latent, expected the 8"):
        pool.row(TeacherRowConfig(key="teacher", model=plain.base_path, decoder=path), PixelSize(9, 48, 64))
