import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from swd_video.cli.main import main
from swd_video.core.flow import convert_sigma
from swd_video.core.grid import LatentSize
from swd_video.core.schedule import ScaleSchedule
from swd_video.cost.architecture import load_architecture
from swd_video.cost.networks import Transformer
from swd_video.data.latent_cache import CacheHeader
from swd_video.data.latent_cache_writing import LatentCacheWriter

SMALL, LARGE = LatentSize(2, 4, 4), LatentSize(5, 8, 8)
CONFIG = """
model: {model}
data: {{cache: unused}}
schedule:
  - {{sigma: 1.0, frames: 2, height: 4, width: 4}}
  - {{sigma: 0.6, frames: 3, height: 6, width: 6}}
  - {{sigma: 0.2, frames: 5, height: 8, width: 8}}
train: {{kind: full}}
"""


def smooth(clips: int, size: LatentSize = LARGE, noise: float = 0.0) -> Tensor:
    """Clips that hold only the mean of each frame and the lowest frequency along height, and noise."""
    generator = torch.Generator().manual_seed(0)
    amplitudes = torch.randn(clips, 4, size.frames, 2, generator=generator)
    wave = torch.cos(torch.pi * (torch.arange(size.height) + 0.5) / size.height)
    pictures = amplitudes[..., :1] + amplitudes[..., 1:] * wave
    clean = pictures[..., None].expand(*pictures.shape, size.width)
    return (clean + noise * torch.randn(clean.shape, generator=generator)).contiguous()


def write_cache(folder: Path, latents: Tensor, model: str) -> Path:
    grids = (SMALL, LatentSize(*latents.shape[2:]))
    clips = len(latents)
    header = CacheHeader(
        model=model,
        encoders="",
        clips_digest="d",
        num_clips=clips,
        num_captions=1,
        fps=12.0,
        grids=grids,
    )
    writer = LatentCacheWriter(folder, header)
    writer.write_prompts("prompts-00000.safetensors", ["x"], torch.zeros(1, 2, 3))
    everything = {grids[0]: torch.zeros(clips, 4, *SMALL.as_tuple()), grids[1]: latents}
    writer.write_latents("latents-00000.safetensors", {str(clip): "x" for clip in range(clips)}, everything)
    writer.finish()
    return folder


def json_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    assert main(["spectrum", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_cache_gives_grids_and_a_schedule_to_paste(
    tiny_wan_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = write_cache(tmp_path / "cache", smooth(11), str(tiny_wan_folder))
    arguments = ["spectrum", str(cache), "--sigmas", "0.9", "0.05", "--stages", "3", "--budget", "1.8"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{cache}: 11 clips of 5x8x8, 4 channels\n")
    pasted = ScaleSchedule.from_dict(_pasted(text))
    assert pasted.target == LARGE and len(pasted) == 3
    # Nothing but the mean and the lowest frequency along height: 2 rows and, for the patch, 2 columns.
    assert [(grid.height, grid.width) for grid in pasted.grids] == [(2, 2), (2, 2), (8, 8)]

    found = json_of(capsys, cache, *arguments[2:])
    assert ScaleSchedule.from_dict(found["schedule"]["stages"]) == pasted
    assert (found["clips"], found["channels"], found["size"]) == (11, 4, "5x8x8")
    assert [(row["sigma"], row["height"], row["width"]) for row in found["grids"]] == [
        (0.9, 2, 2),
        (0.05, 2, 2),
    ]
    assert found["grids"][1]["frames"] == 5
    assert found["schedule"]["cost"] <= 1.8 and found["schedule"]["shift"] >= 1
    assert all(row["hidden"] for row in found["schedule"]["handovers"])
    assert found["schedule"]["counted"] == f"FLOPs of the transformer of {tiny_wan_folder}"
    assert len(found["power"]["frames"]) == 5 and found["lowest_sigmas"]["width"][1:] == pytest.approx(
        [0] * 7
    )


def _pasted(text: str) -> list[dict]:
    return yaml.safe_load(text[text.index("schedule:\n") :])["schedule"]


def test_power_is_that_of_the_latents_whatever_holds_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    latents = smooth(11, noise=0.3).half()
    cache = write_cache(tmp_path / "cache", latents, "gone")
    save_file(
        {"a": latents[:9], "b": latents[9], "c": latents[10:], "steps": torch.ones(3)}, tmp_path / "f.st"
    )
    from_cache, from_file = json_of(capsys, cache), json_of(capsys, tmp_path / "f.st")
    assert from_cache["power"]["frames"] == pytest.approx(from_file["power"]["frames"])
    assert from_cache["clips"] == from_file["clips"] == 11
    mean = sum(from_file["power"]["width"]) / 8
    assert mean == pytest.approx(latents.double().square().mean().item())
    assert "the cache's model 'gone' cannot be read" in from_cache["schedule"]["counted"]
    assert "no model is known" in from_file["schedule"]["counted"]
    capsys.readouterr()
    assert main(["spectrum", str(tmp_path / "f.st")]) == 0
    assert capsys.readouterr().err == (
        "warning: no model is known; name one with --model: grids are whole numbers of 1x2x2 latents, "
        "and costs are tokens.\n"
    )
    assert json_of(capsys, tmp_path / "f.st", "--key", "a")["clips"] == 9


def test_a_config_s_schedule_is_held_against_the_spectra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """White latents have power 1 everywhere: nothing is hidden below sigma 1/2, everything above."""
    white = torch.randn(64, 4, *LARGE.as_tuple(), generator=torch.Generator().manual_seed(0))
    save_file({"latents": white}, tmp_path / "white.safetensors")
    (tmp_path / "swd.yaml").write_text(CONFIG.format(model="pocket-wan"))
    arguments = [tmp_path / "white.safetensors", "--config", tmp_path / "swd.yaml", "--averaging", "radial"]
    checked = json_of(capsys, *arguments)["checked"]
    assert [(row["grid"], row["sigma"], row["needed"], row["hidden"]) for row in checked["handovers"]] == [
        ("2x4x4", 0.6, "1x2x2", True),
        ("3x6x6", 0.2, "5x8x8", False),
    ]
    assert checked["handovers"][1]["lost_over_noise"] == pytest.approx(16, rel=0.05)
    assert checked["cost"] == pytest.approx((8 + 27 + 80) / 80)
    assert main(["spectrum", *map(str, arguments)]) == 0
    text = capsys.readouterr().out
    assert "2x4x4            0.600  1x2x2" in text and "NOT hidden" in text


@pytest.mark.parametrize(
    ("model", "patch", "shift", "level"),
    [
        # Fitted to the levels of 320 tokens: shifted by exp(0.95 + (320 - 1024) / 3072 * 1.1), stretched to end at 0.1.
        ("Lightricks/LTX-Video", (1, 1, 1), 2.3194, 0.539),
        ("hunyuanvideo-community/HunyuanVideo", (1, 2, 2), 7.0, 0.779),
        ("zai-org/CogVideoX-2b", (1, 2, 2), 3.82, 0.658),
        ("Wan-AI/Wan2.2-TI2V-5B-Diffusers", (1, 2, 2), 5.0, 0.716),
    ],
)
def test_every_family_gives_costs_and_patch(
    model: str,
    patch: tuple[int, int, int],
    shift: float,
    level: float,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Latents without detail: the smallest grid is one patch, so stages but the last are as cheap as can be."""
    save_file({"latents": smooth(4)}, tmp_path / "l.safetensors")
    channels = load_architecture(model).spec.latent_channels
    words = ["--model", model, "--sigmas", "0.602", "--from-shift", "3", "--stages", "2", "--budget", "2"]
    assert main(["spectrum", str(tmp_path / "l.safetensors"), *words, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err.startswith(
        f"warning: the latents have 4 channels and those of {model} {channels}; they are another"
    )
    found = json.loads(out)
    counter = Transformer(load_architecture(model))
    small, full = (counter.evaluation(LatentSize(**stage)).forward for stage in _grids(found))
    assert found["schedule"]["cost"] == pytest.approx((small + full) / full)
    assert found["schedule"]["counted"] == f"FLOPs of the transformer of {model}"
    assert found["schedule"]["patch"] == "x".join(map(str, patch))
    (row,) = found["grids"]
    # Wan's level at the model's own shift: as many of its steps are left.
    assert found["shift"] == pytest.approx(shift, rel=1e-3) and row["sigma"] == pytest.approx(level)
    assert row["steps_left"] == pytest.approx(convert_sigma(0.602, 3.0, 1.0), abs=2e-3)
    assert found["schedule"]["shift"] == found["shift"]  # even steps of the model's own meet the budget
    assert found["schedule"]["stages"][1]["sigma"] == round(convert_sigma(0.5, 1.0, found["shift"]), 3)
    # The lowest frequency along height needs two rows, nothing needs two columns.
    assert (row["height"], row["width"]) == (2, patch[2])


def _grids(found: dict) -> list[dict]:
    axes = ("frames", "height", "width")
    return [{axis: stage[axis] for axis in axes} for stage in found["schedule"]["stages"]]


def test_the_plot_shows_both_curves_and_appears_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"latents": smooth(3, LatentSize(3, 4, 6), noise=0.2)}, tmp_path / "l.safetensors")
    plot = tmp_path / "spectrum.png"
    (tmp_path / ".spectrum.png.tmp").symlink_to(tmp_path / "planted")
    json_of(capsys, tmp_path / "l.safetensors", "--plot", plot, "--budget", "2")
    with Image.open(plot) as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
    assert {(28, 92, 170), (140, 178, 222), (190, 88, 30)} <= colours
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".spectrum.png.tmp",
        "l.safetensors",
        "spectrum.png",
    ]


def test_constant_latents_can_be_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"latents": torch.zeros(1, 4, 2, 2, 2)}, tmp_path / "l.safetensors")
    json_of(capsys, tmp_path / "l.safetensors", "--plot", tmp_path / "p.PNG", "--budget", "4")
    assert (tmp_path / "p.PNG").is_file()


def test_wrong_input_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error_of(*arguments: object) -> str:
        assert main(["spectrum", *map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        return error

    def file_of(name: str, **tensors: Tensor) -> Path:
        save_file(tensors, tmp_path / name)
        return tmp_path / name

    good = file_of("good", latents=smooth(2))
    (tmp_path / "folder").mkdir()
    assert "no cache of latents here" in error_of(tmp_path / "folder")
    assert "no such file or folder" in error_of(tmp_path / "none")
    (tmp_path / "pickle.pt").write_bytes(b"\x80\x04K\x01.")
    assert "cannot be read as safetensors" in error_of(tmp_path / "pickle.pt")
    (tmp_path / "cut").write_bytes(good.read_bytes()[:-10])
    assert "cannot be read as safetensors" in error_of(tmp_path / "cut")
    assert "holds no latents" in error_of(file_of("flat", x=torch.zeros(3, 3)))
    assert "holds no clip" in error_of(file_of("empty", x=torch.zeros(0, 4, 3, 2, 2)))
    mixed = file_of("mixed", a=torch.zeros(1, 4, 3, 2, 2), b=torch.zeros(1, 4, 3, 2, 4))
    assert "4 channels, 3x2x2 and of 4 channels, 3x2x4, expected latents of one size" in error_of(mixed)
    assert "--key c: no such latents; the file has a, b." in error_of(mixed, "--key", "c")
    assert "one latent frame" in error_of(file_of("still", x=torch.zeros(1, 4, 1, 2, 2)))
    broken = smooth(12)
    broken[9, 0, 0, 0, 0] = math.nan
    assert "clip 9 (from 0) holds infinite or nan" in error_of(file_of("nan", x=broken))
    odd = file_of("odd", x=torch.ones(1, 4, 3, 3, 4))
    assert f"{odd}: latent size 3x3x4 is not a whole number of 1x2x2 patches" in error_of(odd)
    assert "--budget: got inf" in error_of(good, "--budget", "inf")

    assert "--sigmas: got 1.5" in error_of(good, "--sigmas", "1.5")
    assert "stages: got 0" in error_of(good, "--stages", "0")
    assert "--shift: got 0, expected a number above 0" in error_of(good, "--shift", "0")
    assert "--from-shift: got inf" in error_of(good, "--from-shift", "inf")
    assert "own shift is not known. Give it with --shift" in error_of(good, "--from-shift", "3")
    assert "stages: the first two of 20 are closer" in error_of(good, "--stages", "20", "--shift", "60")
    assert "--budget: got 0" in error_of(good, "--budget", "0")
    assert "cost at least" in error_of(good, "--budget", "0.5")
    assert "expected a name that ends in .png" in error_of(good, "--plot", tmp_path / "plot.pdf")
    assert "--model: model 'none': does not exist" in error_of(good, "--model", "none")
    (tmp_path / "swd.yaml").write_text(CONFIG.format(model="pocket-wan"))
    small = file_of("small", x=torch.ones(1, 4, 3, 4, 4))
    assert "ends on 5x8x8, the latents are 3x4x4" in error_of(
        small, "--config", tmp_path / "swd.yaml", "--budget", "2"
    )
