"""Encoders of transformers, at tiny sizes with random weights, through folders as one downloads them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    ConvNextConfig,
    ConvNextModel,
    Dinov2Config,
    Dinov2Model,
    VideoMAEConfig,
    VideoMAEModel,
    VJEPA2Config,
    VJEPA2Model,
)

from swd_video.evaluation.clip_features import (
    FrameFeatures,
    TransformersFeatures,
    load_features,
    load_frame_features,
    pool_frames,
)

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
VISION = {**SMALL, "image_size": 16, "patch_size": 8}


def build(kind: str) -> Any:
    if kind == "videomae":
        return VideoMAEModel(VideoMAEConfig(**VISION, num_frames=4, tubelet_size=2))
    if kind == "vjepa2":
        return VJEPA2Model(
            VJEPA2Config(
                patch_size=8,
                crop_size=16,
                frames_per_clip=4,
                hidden_size=24,
                num_attention_heads=2,
                num_hidden_layers=2,
                pred_hidden_size=24,
                pred_num_attention_heads=2,
                pred_num_hidden_layers=1,
            )
        )
    if kind == "dinov2":
        return Dinov2Model(Dinov2Config(**VISION))
    if kind == "clip":
        text = {**SMALL, "vocab_size": 20, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
        return CLIPModel(CLIPConfig(text_config=text, vision_config=VISION))
    return ConvNextModel(ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2))


@pytest.fixture
def clips() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(3, 7, 20, 28, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["videomae", "vjepa2", "dinov2", "clip", "convnext"])
def test_any_video_or_image_encoder_describes_clips(kind: str, clips: np.ndarray, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        build(kind).save_pretrained(tmp_path / kind)
    encoder = load_features(str(tmp_path / kind))
    features = encoder(clips)
    assert features.dtype == np.float64 and len(features) == 3 and features.ndim == 2
    np.testing.assert_allclose(encoder(clips[1:2]), features[1:2], rtol=1e-4, atol=1e-5)
    assert np.abs(features[0] - features[1]).max() > 1e-4
    is_video = kind in ("videomae", "vjepa2")
    assert isinstance(encoder, FrameFeatures) != is_video
    if is_video:
        with pytest.raises(ValueError, match="is a video encoder, expected one of images"):
            load_frame_features(str(tmp_path / kind))
    else:
        assert features.shape[1] == 2 * 16


def test_a_preprocessor_says_how_pixels_are_normalised(clips: np.ndarray, tmp_path: Path) -> None:
    build("dinov2").save_pretrained(tmp_path / "net")
    frames = torch.from_numpy(clips[0])
    default = TransformersFeatures(str(tmp_path / "net"), "cpu").pixels(frames)
    said = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}
    (tmp_path / "net" / "preprocessor_config.json").write_text(json.dumps(said))
    network = TransformersFeatures(str(tmp_path / "net"), "cpu")
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    unit = default * std + mean
    torch.testing.assert_close(network.pixels(frames), (unit - 0.5) / 0.25, atol=1e-5, rtol=1e-4)
    assert unit.shape == (7, 3, 16, 16) and unit.min() >= 0 and unit.max() <= 1.0001


def test_what_sees_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"encoder '.*nowhere': no such folder"):
        load_features(str(tmp_path / "nowhere"))
    BertModel(BertConfig(**SMALL, vocab_size=20)).save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="takes no pixels; give a video or image encoder"):
        load_features(str(tmp_path / "bert"))


def test_pooling_tells_still_from_moving() -> None:
    still = np.ones((1, 4, 3))
    moving = np.array([[[0.0], [1.0], [0.0], [1.0]]]).repeat(3, axis=2)
    np.testing.assert_array_equal(pool_frames(still), [[1, 1, 1, 0, 0, 0]])
    np.testing.assert_array_equal(pool_frames(moving), [[0.5, 0.5, 0.5, 4, 4, 4]])
