"""`swd-video bench`: figures that were measured, and mistakes in one line."""

import json
from pathlib import Path

import pytest

from swd_video.cli.bench import run
from swd_video.cost.clip_benchmark import summarise


def test_the_exact_loss_needs_no_matrix_of_pairs_and_equals_the_naive_form(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sizes = ["--tokens", "4096", "--channels", "8", "--naive-tokens", "2048"]
    assert run(["mmd", *sizes, "--rounds", "1", "--random-features", "256", "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert "naive form" in captured.err
    assert result["tokens"] == 4096 and result["kernel"] == "rbf" and result["seconds"] > 0
    assert result["inputs_gib"] == 2 * 4096 * 8 * 4 / 2**30
    # One matrix of all pairs would be 0.0625 GiB; the naive form keeps six of a quarter of that.
    assert 0 < result["peak_gib_above_inputs"] < 0.06
    naive = result["naive"]
    assert naive["peak_gib_above_inputs"] > 0.06
    assert naive["exact_loss"] == pytest.approx(naive["loss"], rel=1e-3)
    assert naive["exact_over_naive_seconds"] == pytest.approx(naive["exact_seconds"] / naive["seconds"])
    assert 0 < result["random_features"]["relative_error"] < 0.3


def test_a_clip_is_timed_from_text_to_pixels(
    student_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["clip", str(student_folder), "--batch", "2", "--device", "cpu", "--rounds"]
    assert run([*words, "2", "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert captured.err.count("teacher: ") == 2
    # Those of diffusers' own pipeline of the family.
    assert result["teacher_steps"] == 50 and result["teacher_guidance_scale"] == 5
    assert result["size"] == "9x48x64" and result["stages"] == 3
    assert set(result["seconds_a_clip"]) == {"text", "stages", "decode", "all"}
    assert all(seconds > 0 for seconds in result["seconds_a_clip"].values())
    # A hundred evaluations against three smaller ones.
    assert result["teacher_over_student"] > 3 and result["peak_gib"] > 0
    assert run([*words, "1"]) == 0
    assert "teacher, 50 steps" in capsys.readouterr().out


def test_ways_to_make_a_clip_are_sums_of_parts_within_a_round() -> None:
    seconds = {
        "text": [1.0, 1.0, 3.0],
        "stages": [2.0, 4.0, 2.0],
        "full_steps": [8.0, 8.0, 8.0],
        "teacher": [93.0, 93.0, 45.0],
        "vae": [7.0, 7.0, 7.0],
        "decoder": [2.0, 1.0, 5.0],
    }
    result = summarise(seconds)
    # The student's rounds are 5, 6 and 10 seconds: the sum of medians would be another.
    assert result["seconds_a_clip"] == {"text": 1.0, "stages": 2.0, "decode": 2.0, "all": 6.0}
    assert result["teacher_over_student"] == 100 / 6
    assert result["full_steps_over_student"] == 16 / 6
    assert result["full_steps_same_decoder_over_student"] == 10 / 6
    teacher = next(row for row in result["rows"] if (row["way"], row["through"]) == ("teacher", "vae"))
    assert teacher["all"] == 100 and teacher["over_student_spread"] == [5.2, 20]
    # Without a decoder of its own, the student is shown through the VAE: 10, 12 and 12 seconds.
    alone = summarise({name: values for name, values in seconds.items() if name != "decoder"})
    assert alone["full_steps_over_student"] == alone["full_steps_same_decoder_over_student"] == 1.5
    assert alone["seconds_a_clip"]["decode"] == 7 and len(alone["rows"]) == 3


@pytest.mark.parametrize(
    "words, message",
    [
        (["clip", "pocket-wan-swd", "--rounds", "0"], "--rounds: got 0, expected at least 1"),
        (["clip", "pocket-wan"], "expected a scale-wise student"),
        (["mdm"], "nothing is called 'mdm'. Did you mean `mmd`?"),
        (["mmd", "--tokens", "1"], "--tokens: got 1, expected at least 2"),
        (["mmd", "--naive-tokens", "1"], "--naive-tokens: got 1, expected 0 or at least 2"),
        (["mmd", "--bandwidths", "0"], "--bandwidths: got (0.0,), expected numbers above 0"),
        (["mmd", "--bandwidths", "1", "2", "4"], "--random-features: 1024 are shared by 3 bandwidths"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        run(words)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_help_lists_the_benches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(["--help"])
    assert stopped.value.code == 0
    listed = capsys.readouterr().out
    assert "  mmd " in listed and "  training " in listed
    with pytest.raises(SystemExit) as stopped:
        run(["mmd", "--help"])
    assert stopped.value.code == 0
    assert "--tokens" in capsys.readouterr().out
