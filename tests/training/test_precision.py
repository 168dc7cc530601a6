"""The speed of bfloat16, and the warning about it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from swd_video.training.build import build_run
from swd_video.training.config import DistillConfig
from swd_video.training.precision import bf16_slowdown, settle_precision


def test_the_warning_follows_the_measurement(
    make_config: Callable[..., DistillConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slowdown = bf16_slowdown(torch.device("cpu"))
    assert slowdown > 0
    build_run(make_config(), tmp_path / "plain")
    assert "warning" not in capsys.readouterr().err
    build_run(make_config(mixed_precision="bf16"), tmp_path / "bf16")
    # Between 1 and 4 the clock may say either on a busy machine.
    if slowdown > 4 or slowdown < 1:
        assert ("train.mixed_precision: bf16 multiplies" in capsys.readouterr().err) == (slowdown > 4)


def test_auto_is_settled_by_the_measurement(
    make_config: Callable[..., DistillConfig], tmp_path: Path
) -> None:
    slowdown = bf16_slowdown(torch.device("cpu"))
    settled = settle_precision(make_config(mixed_precision="auto"), tmp_path).train.mixed_precision
    if slowdown > 4 or slowdown < 1:
        assert settled == (None if slowdown > 4 else "bf16")
    kept = make_config(mixed_precision="bf16")
    assert settle_precision(kept, tmp_path) is kept


@pytest.mark.parametrize("precision", [None, "bf16"])
def test_auto_goes_on_as_the_run_began(
    make_config: Callable[..., DistillConfig], tmp_path: Path, precision: str | None
) -> None:
    build_run(make_config(mixed_precision=precision), tmp_path)
    settled = settle_precision(make_config(mixed_precision="auto"), tmp_path)
    assert settled.train.mixed_precision == precision
    build_run(settled, tmp_path)
