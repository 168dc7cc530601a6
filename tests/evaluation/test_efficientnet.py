from pathlib import Path

import numpy as np
import pytest
import torch

from swd_video.evaluation import efficientnet
from swd_video.evaluation.efficientnet import EfficientNetLite0, find_weights, load_efficientnet


def test_the_released_weights_fit_and_recognise_a_picture() -> None:
    """A drawn traffic light is one of ImageNet's classes (920): the weights are read in the right order."""
    picture = np.full((224, 224, 3), (150, 190, 230), dtype=np.uint8)
    picture[20:204, 76:148] = 25
    rows, columns = np.mgrid[:224, :224]
    for centre, colour in ((55, (255, 30, 20)), (112, (90, 80, 20)), (169, (20, 80, 40))):
        picture[(rows - centre) ** 2 + (columns - 112) ** 2 < 24**2] = colour
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        best = load_efficientnet()(pixels)[0].topk(5).indices.tolist()
    assert 920 in best


def test_network_is_frozen_and_has_the_papers_size() -> None:
    net = load_efficientnet()
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(4.65e6, rel=0.01)
    assert net.features(torch.zeros(2, 3, 64, 80)).shape == (2, 320)


def test_wrong_or_missing_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = tmp_path / "wrong.pth"
    torch.save({"_conv_stem.weight": EfficientNetLite0().conv_stem.weight.detach()}, wrong)
    with pytest.raises(ValueError, match=r"wrong\.pth: lacks 295 weights of EfficientNet-Lite0"):
        load_efficientnet(wrong)
    wrong.write_bytes(wrong.read_bytes()[:100])
    with pytest.raises(
        ValueError, match=r"wrong\.pth: cannot be read as weights \(.*; install the package again"
    ):
        load_efficientnet(wrong)
    assert find_weights().is_file()
    monkeypatch.setattr(efficientnet, "WEIGHTS_PACKAGE", "no_such_package_of_weights")
    with pytest.raises(ValueError, match=r"swd-video\[evaluation\]"):
        find_weights()
