"""Encoders of pixels: tokens on their grids, gradients, and what they refuse."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    ConvNextConfig,
    ConvNextModel,
    Dinov2Config,
    Dinov2Model,
    MobileNetV2Config,
    MobileNetV2Model,
    TimesformerConfig,
    TimesformerModel,
    VideoMAEConfig,
    VideoMAEModel,
    ViTConfig,
    ViTModel,
    VivitConfig,
    VivitImageProcessor,
    VivitModel,
    VJEPA2Config,
    VJEPA2Model,
)

from swd_video.core.grid import PixelSize
from swd_video.models.pixel_encoders import (
    PixelEncoder,
    TransformersEncoder,
    TransNetEncoder,
    read_pixel_form,
)
from swd_video.models.transnetv2 import TransNetTrunk

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
SIZE = {"image_size": 16, "patch_size": 4, "num_frames": 4}
BUILDERS = {
    "videomae": lambda: VideoMAEModel(VideoMAEConfig(**SMALL, **SIZE, tubelet_size=2)),
    "vjepa2": lambda: VJEPA2Model(
        VJEPA2Config(
            hidden_size=24, num_hidden_layers=2, num_attention_heads=2, patch_size=4, crop_size=16,
            frames_per_clip=4, tubelet_size=2, pred_hidden_size=24, pred_num_attention_heads=2,
            pred_num_hidden_layers=1, pred_num_mask_tokens=1,
        )
    ),
    "timesformer": lambda: TimesformerModel(TimesformerConfig(**SMALL, **SIZE)),
    "vivit": lambda: VivitModel(VivitConfig(**SMALL, image_size=16, num_frames=4, tubelet_size=[2, 4, 4])),
}  # fmt: skip
OF_PICTURES = {
    "dinov2": lambda: Dinov2Model(Dinov2Config(**SMALL, image_size=16, patch_size=4)),
    "vit": lambda: ViTModel(ViTConfig(**SMALL, image_size=16, patch_size=4)),
    "mobilenet_v2": lambda: MobileNetV2Model(MobileNetV2Config(image_size=64, depth_multiplier=0.1)),
}
KINDS = [*BUILDERS, *OF_PICTURES, "transnetv2"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random network of each kind, and the trunk of TransNetV2, saved."""
    root = tmp_path_factory.mktemp("encoders")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for kind, build in BUILDERS.items():
            build().save_pretrained(root / kind)
        save_file(TransNetTrunk().state_dict(), root / "trunk.safetensors")
        for kind, build in OF_PICTURES.items():
            build().save_pretrained(root / kind)
    return root


def load(kind: str, folders: Path) -> PixelEncoder:
    if kind == "transnetv2":
        return TransNetEncoder(folders / "trunk.safetensors", short_side_px=16)
    return TransformersEncoder(str(folders / kind))


def clip(seed: int = 0, frames: int = 4, height: int = 16, width: int = 16) -> Tensor:
    return torch.rand(1, 3, frames, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_lie_where_the_grid_says(kind: str, folders: Path) -> None:
    encoder = load(kind, folders)
    pixels = clip()
    changed = pixels.clone()
    # The last frames of the second row and the fourth column of patches.
    changed[..., 2:, 4:8, 12:16] += 1
    with torch.no_grad():
        before, after = encoder.features(pixels, [0])[0], encoder.features(changed, [0])[0]
    assert before.shape[1:4] == encoder.grid(PixelSize(4, 16, 16), 0)
    frames, rows, columns = before.shape[1:4]
    difference = (before - after).square().sum(-1)[0].double()
    shares = difference / difference.sum()
    places = [torch.linspace(0.5 / n, 1 - 0.5 / n, n, dtype=torch.float64) for n in (frames, rows, columns)]
    centre = [
        float((shares.sum([axis for axis in range(3) if axis != kept]) * places[kept]).sum())
        for kept in range(3)
    ]
    assert centre == pytest.approx([0.75, 0.375, 0.875], abs=0.07)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_pixels_and_no_weight(kind: str, folders: Path) -> None:
    encoder = load(kind, folders)
    # Another size, and a number of frames, than the network's: both are brought into its form.
    pixels = torch.cat([clip(1, 5, 24, 32), clip(2, 5, 24, 32)]).requires_grad_()
    tokens = encoder.features(pixels, [1, 0])
    alone = encoder.features(pixels[1:], [0])[0]
    torch.testing.assert_close(tokens[1][1:], alone)
    for block, found in zip((1, 0), tokens, strict=True):
        assert found.shape[1:4] == encoder.grid(PixelSize(5, 24, 32), block)
    torch.stack([found.square().mean() for found in tokens]).sum().backward()
    assert pixels.grad is not None and pixels.grad.isfinite().all()
    assert (pixels.grad.abs().sum((1, 2, 3, 4)) > 0).all()


def test_a_clip_is_read_in_the_form_the_network_was_trained_in(folders: Path, tmp_path: Path) -> None:
    model = VideoMAEModel.from_pretrained(folders / "videomae")
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.5]}'
    )
    pixels = clip(3)
    mean, std = torch.tensor([[0.5, 0.4, 0.3], [0.2, 0.2, 0.5]]).view(2, 1, 3, 1, 1, 1)
    shown = ((pixels + 1) / 2 - mean) / std
    expected = model(shown.transpose(1, 2), output_hidden_states=True).hidden_states[2]
    found = TransformersEncoder(str(tmp_path)).features(pixels, [1])[0]
    torch.testing.assert_close(found.flatten(1, 3), expected)


def test_longer_and_shorter_clips(folders: Path) -> None:
    longer = TransformersEncoder(str(folders / "vjepa2"), frames=8)
    assert longer.features(clip(frames=9), [0])[0].shape == (1, 4, 4, 4, 24)
    with pytest.raises(ValueError, match=r"frames: got 7 .* expected a multiple of 2"):
        TransformersEncoder(str(folders / "vjepa2"), frames=7)
    with pytest.raises(ValueError, match=r"frames: got 8 .* a videomae, expected 4"):
        TransformersEncoder(str(folders / "videomae"), frames=8)


def test_networks_whose_tokens_have_no_known_place_are_refused(folders: Path, tmp_path: Path) -> None:
    ConvNextModel(ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[4, 4, 4, 4])).save_pretrained(tmp_path)
    known = "videomae, vjepa2, timesformer, vivit, dinov2, vit, mobilenet_v2"
    with pytest.raises(ValueError, match=rf"is a convnext, .* expected one of {known}$"):
        TransformersEncoder(str(tmp_path))
    with pytest.raises(ValueError, match="no such folder"):
        TransformersEncoder(str(tmp_path / "nothing"))
    with pytest.raises(
        ValueError,
        match=r"have no place in TransNetV2's trunk, .*\. `python -m tools\.transnetv2 --out FILE` makes one\.",
    ):
        TransNetEncoder(folders / "videomae" / "model.safetensors")
    with pytest.raises(
        ValueError,
        match=r"nothing\.safetensors: does not exist; .*\. `python -m tools\.transnetv2 --out FILE` makes one\.",
    ):
        TransNetEncoder(tmp_path / "nothing.safetensors")


def test_encoders_without_their_weights_are_refused(folders: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(folders / "videomae", tmp_path / "own")
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "classifier.weight": torch.ones(2, 3)}, folder / "model.safetensors")
    TransformersEncoder(str(folder))  # heads that other tasks left are as usual
    name = next(name for name in weights if "encoder.layer.1." in name)
    save_file({key: weight for key, weight in weights.items() if key != name}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=rf"own: lacks 1 weights of VideoMAEModel, the first is {name}"):
        TransformersEncoder(str(folder))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"pytorch_model\.bin: is a pickled checkpoint, .* save_pretrained\."
    ):
        TransformersEncoder(str(folder))


def test_a_processor_may_want_pixels_in_another_range(folders: Path) -> None:
    processor = VivitImageProcessor(crop_size={"height": 16, "width": 16}, size={"shortest_edge": 16})
    processor.save_pretrained(folders / "vivit")
    pixels = clip()
    form = read_pixel_form(str(folders / "vivit"), AutoConfig.from_pretrained(folders / "vivit"))
    frames = ((pixels[0].movedim(0, -1) + 1) * 127.5).round().byte()
    wanted = processor(list(frames.numpy()), return_tensors="pt")["pixel_values"][0].movedim(0, 1)
    torch.testing.assert_close(form.shape(frames.movedim(-1, 0)[None] / 127.5 - 1)[0], wanted)
    assert wanted.min() < -2.5
