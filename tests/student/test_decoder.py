"""A student that carries a decoder: saved, loaded, asked for another, given one later."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanPipeline

from swd_video.core.decoder import StreamingDecoder
from swd_video.core.schedule import ScaleSchedule
from swd_video.models.decoding import decode_whole
from swd_video.models.fingerprint import fingerprint_encoders
from swd_video.models.loading import LoadOptions
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.student import Student


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
    tiny_decoder(encoders=fingerprint_encoders(tiny_wan_folder)).save(path)
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
    tiny_decoder(encoders="another").save(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="for the VAE with fingerprint another"):
        plain.carry_decoder(tmp_path / "other.safetensors")
    assert plain.folder is not None
    assert not (plain.folder / "decoder.safetensors").exists()
