"""The comparison with the public SwD code: on a function of the same signature, and where the copy is absent."""

import json
from pathlib import Path

import pytest

from tools.compare_with_swd import LOSSES_FILE, main

# The textbook forms under the signature that the comparison calls; `scale` breaks them.
STAND_IN = """
import torch

def mmd_loss_(x, y, kernel="linear", sigma=100, do_batch_mmd=False, c=0.001, eps=1e-5):
    if do_batch_mmd:
        x, y = (tokens.reshape(1, -1, tokens.shape[-1]) for tokens in (x, y))
    if kernel == "linear":
        return (((x.mean(1) - y.mean(1)) ** 2 + c**2).sqrt() - c).mean() * scale
    total = 0
    for a, b in zip(x, y):
        k = lambda p, q: torch.exp(-torch.cdist(p, q) ** 2 / (2 * sigma**2))
        n = len(a)
        inside = sum((k(p, p).sum() - n) / (n * (n - 1)) for p in (a, b))
        total = total + inside - 2 * k(a, b).mean()
    return total / len(x) * scale
"""


@pytest.mark.parametrize("scale, code", [(1.0, 0), (1.01, 1)])
def test_agreement_and_difference_are_told(
    scale: float, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / LOSSES_FILE
    path.parent.mkdir()
    path.write_text(f"scale = {scale}\n{STAND_IN}")
    assert main([str(tmp_path), "--json"]) == code
    comparisons = json.loads(capsys.readouterr().out)["comparisons"]
    assert len(comparisons) == 5
    assert all((one["value_gap"] < 1e-4) == (code == 0) for one in comparisons)


def test_an_absent_copy_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "no copy of the public SwD code here" in capsys.readouterr().err
