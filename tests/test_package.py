"""What `import swd_video` offers."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import swd_video


def test_every_name_is_offered_and_found() -> None:
    assert swd_video.__all__ == sorted(swd_video.__all__) and set(swd_video.__all__) <= set(dir(swd_video))
    for name in swd_video.__all__:
        assert getattr(swd_video, name) is not None
    with pytest.raises(AttributeError, match="module 'swd_video' has no attribute 'load_studnet'"):
        swd_video.load_studnet  # noqa: B018


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import swd_video; print(*set(sys.modules) - before)"
    new = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "pydantic", "diffusers", "yaml", "numpy"} & {name.partition(".")[0] for name in new}
    assert [name for name in new if name.startswith("swd_video")] == ["swd_video"]


def test_overrides_go_with_a_file(make_config: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="overrides: go with a config's file"):
        swd_video.distill(make_config(), tmp_path / "run", overrides={"train.steps": 1})
    with pytest.raises(ValueError, match=r"train\.steps: .*got 0"):
        swd_video.distill(tmp_path / "config-in.yaml", tmp_path / "run", overrides={"train.steps": 0})
    assert not (tmp_path / "run").exists()
