import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEForPreTraining

from swd_video.models.pixel_encoders import TransformersEncoder
from tools.pocket import videomae
from tools.pocket.videomae import VideoMaeOptions, draw_mask, main, train


def tiny_model() -> VideoMAEForPreTraining:
    torch.manual_seed(0)
    config = VideoMAEConfig(
        image_size=16, patch_size=4, num_frames=4, tubelet_size=2, hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=32, decoder_hidden_size=16, decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2, decoder_intermediate_size=32, norm_pix_loss=True, use_mean_pooling=False,
    )  # fmt: skip
    return VideoMAEForPreTraining(config)


def wallpaper(count: int) -> np.ndarray:
    """Still clips of one and the same patch everywhere: what is hidden can be known."""
    patch = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.broadcast_to(np.tile(patch, (4, 4, 1)), (count, 7, 16, 16, 3))


def test_one_command_trains_an_encoder_that_training_loads(
    pocket_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(videomae, "build_model", tiny_model)
    command = [
        "--out",
        str(tmp_path),
        "--clips",
        "4",
        "--test-clips",
        "3",
        "--steps",
        "2",
        "--batch-size",
        "2",
    ]
    command += ["--precision", "float32", "--json"]
    assert main(command) == 0
    about = json.loads(capsys.readouterr().out)
    assert 0 < about["held_out_error"] < 10
    encoder = TransformersEncoder(str(tmp_path / "final"))
    assert encoder.features(torch.zeros(1, 3, 9, 24, 24), [0])[0].shape == (1, 2, 4, 4, 16)
    assert main([*command, "--steps", "3"]) == 2
    assert "use the same options" in capsys.readouterr().err


def test_it_learns_and_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    options = VideoMaeOptions(
        out=tmp_path / "whole",
        steps=30,
        batch_size=4,
        learning_rate=1e-2,
        checkpoint_every=10,
        precision="float32",
    )
    frames = wallpaper(12)
    whole = tiny_model()
    losses = train(whole, frames, options)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])

    class Stopped(Exception):
        pass

    class UntilStopped:
        """Clips that can be read 60 times."""

        shape, reads = frames.shape, 0

        def __len__(self) -> int:
            return len(frames)

        def __getitem__(self, index: object) -> np.ndarray:
            self.reads += 1
            if self.reads > 60:
                raise Stopped
            return frames[index]

    parts = replace(options, out=tmp_path / "parts")
    with pytest.raises(Stopped):
        train(tiny_model(), UntilStopped(), parts)  # type: ignore[arg-type]
    resumed = tiny_model()
    assert len(train(resumed, frames, parts)) == 30 - 10
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_the_same_places_are_hidden_in_all_frames() -> None:
    config = tiny_model().config
    hidden = draw_mask(config, 3, 0.75, np.random.default_rng(0)).view(3, 2, 16)
    assert torch.equal(hidden[:, 0], hidden[:, 1]) and (hidden.sum(-1) == 12).all()
    assert not torch.equal(hidden[0], hidden[1])
