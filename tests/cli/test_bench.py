"""`swd-video bench mmd`: figures that were measured, and mistakes in one line."""

import json

import pytest

from swd_video.cli.bench import run


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


@pytest.mark.parametrize(
    "words, message",
    [
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
