"""`swd-video plan`: costs of shipped configs, and wrong input in one line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import MobileNetV2Config, MobileNetV2Model

from swd_video.cli.main import main
from swd_video.core.decoder import DecoderLayout, StreamingDecoder
from swd_video.core.grid import Compression
from swd_video.core.schedule import ScaleSchedule
from swd_video.cost.architecture import load_architecture
from swd_video.cost.networks import Transformer
from swd_video.cost.plan import planned_architecture
from swd_video.training.config import load_config

ROOT = Path(__file__).parents[2]
SWD = "configs/wan2.1_1.3b/swd_4stage.yaml"


def plan(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["plan", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def tiny_config(tiny_wan_folder: Path, tiny_schedule: ScaleSchedule, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    values = {
        "model": str(tiny_wan_folder),
        "data": {"cache": str(tmp_path / "cache")},
        "schedule": tiny_schedule.as_dict(),
        "train": {"kind": "full", "batch_size": 2, "steps": 10},
    }
    path.write_text(yaml.safe_dump(values))
    return path


def test_swd_on_wan(capsys: pytest.CaptureFixture[str]) -> None:
    counted = plan(capsys, str(ROOT / SWD), "--num-gpus", "8")
    stages = counted["stages"]
    assert [(stage["frames"], stage["height"], stage["width"]) for stage in stages] == [
        (6, 20, 34),
        (11, 30, 52),
        (16, 40, 70),
        (21, 60, 104),
    ]
    assert [stage["sigma"] for stage in stages] == [1, 0.896, 0.737, 0.602]
    assert [stage["tokens"] for stage in stages] == [1020, 4290, 11200, 32760]
    assert [stage["tflops"] for stage in stages] == pytest.approx([3.0, 14.7, 52.4, 283.0], rel=0.01)
    assert counted["transformer_tflops"] == pytest.approx(353, rel=0.01)
    assert counted["vae_decode_tflops"] == pytest.approx(275, rel=0.01)
    assert counted["vae_encode_tflops"] == pytest.approx(164, rel=0.01)
    assert counted["training"]["kind"] == "lora"
    assert counted["draft"]["stages"] == 2
    assert counted["draft"]["share"] == pytest.approx(0.091, abs=0.001)

    rows = {(row["gpu"], row["num_gpus"]): row for row in counted["training"]["lora"]["gpus"]}
    # 24 clips a step, three at a time, on 1, 2, 4 or 8 of each kind.
    assert len(rows) == 5 * 4 and counted["training"]["num_gpus_left_out"] == [3, 5, 6, 7]
    # As published: 24 clips a step on 8 GPUs of 80 GB.
    row = rows["A100-80", 8]
    assert row["clips_at_once"] == 3
    assert row["fits"] and counted["training"]["gradient_checkpointing"]
    # On a smaller GPU it does not fit, one clip at a time does.
    small = rows["4090", 8]
    assert not small["fits"]
    cures = [cure["changes"] for cure in small["would_fit_with"] if cure["same_gpus"]]
    assert any("train.micro_batch_size: 1" in changes for changes in cures)
    assert row["needed_gib"] == pytest.approx(sum(row["memory_gib"].values()))
    assert rows["H100", 8]["step_seconds"] == pytest.approx(row["step_seconds"] * 312 / 989)


def test_the_pyramid_config_has_grids_and_cost_of_the_published_table() -> None:
    grids = load_config(ROOT / "configs/wan2.1_1.3b/pyramidal_2-2-1.yaml").scale_schedule().grids
    assert list(map(str, grids)) == ["6x14x26"] * 2 + ["11x28x52"] * 2 + ["21x56x104"]
    counter = Transformer(load_architecture("Wan-AI/Wan2.1-T2V-1.3B-Diffusers"))
    assert sum(counter.evaluation(grid).forward for grid in grids) == pytest.approx(282e12, rel=0.01)


def test_the_first_config_holds_all_settings_that_swd_published() -> None:
    from swd_video.training.config import load_config

    config = load_config(ROOT / SWD)
    (mmd,), train = config.loss.mmd, config.train
    assert config.model == "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    assert (mmd.kernel.kind, mmd.block, mmd.sigma_min, mmd.sigma_max) == ("linear", (15,), 0, 0.6)
    assert train.kind == "lora" and train.rank == 128
    assert train.targets == ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")
    assert (train.lr, train.steps, train.batch_size) == (4e-6, 3000, 24)
    pixels = ["21x160x272", "41x240x416", "61x320x560", "81x480x832"]
    grids = config.scale_schedule().grids
    assert [str(Compression().pixel_size(grid)) for grid in grids] == pixels


def _says_what_to_train(path: Path) -> bool:
    text = path.read_text()
    extended = re.search(r"^extends: (\S+)", text, re.MULTILINE)
    return bool(re.search(r"^schedule:", text, re.MULTILINE)) or (
        extended is not None and _says_what_to_train(path.parent / extended[1])
    )


def _distillations() -> list[Path]:
    """Every config that says what to train, itself or through what it extends."""
    return [path for path in sorted((ROOT / "configs").rglob("*.yaml")) if _says_what_to_train(path)]


@pytest.mark.parametrize("path", _distillations(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_config_needs_weights_to_be_planned(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Counting is tested on a few; here the question is whether it can begin.
    config = load_config(path)
    assert planned_architecture(config).spec.num_blocks > 0
    note = capsys.readouterr().err
    assert note == (
        f"note: model {config.model} is not there; counted as pocket-wan, which `architecture` names.\n"
        if config.model.startswith("out/")
        else ""
    )


def test_a_teacher_that_is_there_is_planned_itself(tiny_config: Path, tiny_wan_folder: Path) -> None:
    kept = load_config(tiny_config, {"architecture": "pocket-wan"})
    assert planned_architecture(kept).name == str(tiny_wan_folder)
    absent = {"model": "out/no/such"}
    with pytest.raises(ValueError, match=r"model 'out/no/such': does not exist"):
        planned_architecture(load_config(tiny_config, absent))
    with pytest.raises(ValueError, match=r"data\.extra_grids\[1\]: latent size 99x4x4: .* Nearest .* 64x4x4"):
        planned_architecture(load_config(tiny_config, {"data.extra_grids": "[2x4x4, 99x4x4]"}))
    counted = planned_architecture(load_config(tiny_config, absent | {"architecture": str(tiny_wan_folder)}))
    assert counted.num_parameters == planned_architecture(kept).num_parameters


def test_words_for_people_say_what_fits_and_what_would(
    tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpus = tmp_path / "gpus.yaml"
    speeds = "bf16_tflops: 1, fp32_tflops: 1, bandwidth_gbps: 1"
    sizes = {"large": "1", "toy": "0.005", "dust": "0.000001"}
    gpus.write_text("".join(f"{name}: {{memory_gib: {gib}, {speeds}}}\n" for name, gib in sizes.items()))
    words = ["--gpus", str(gpus), "--num-gpus", "1", "--train.batch_size", "64"]
    assert main(["plan", str(tiny_config), *words]) == 0
    text = capsys.readouterr().out
    assert "ESTIMATED at 50% of peak speed, not run" in text
    assert "seconds of a step on 1 x A100-80, ESTIMATED: student forward " in text
    assert "encoding a clip on 3 grids and its caption: " in text
    assert "3x6x8" in text and "9x48x64" in text
    assert "train.kind: lora needs" in text
    assert text.count("DOES NOT FIT") == 2
    assert "1 x large does not fit" not in text
    assert "1 x toy does not fit; with train." in text
    assert "1 x dust does not fit, and nothing that was tried makes it fit" in text


def test_a_discriminator_counts_in_the_stages_in_which_it_has_a_say(
    tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def seconds(stages: str) -> float:
        flags = ("--gpu", "H100", "--num-gpus", "1", "--train.kind", "lora", "--loss.gan.stages", stages)
        (row,) = plan(capsys, str(tiny_config), *flags)["training"]["lora"]["gpus"]
        return float(row["part_seconds"]["gan"])

    first, later, all_of_them = seconds("[1]"), seconds("[2, 3]"), seconds("null")
    assert 0 < first < later and first + later == pytest.approx(all_of_them)


def test_flags_change_the_estimates_and_keys_the_config(
    tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--gpu", "H100", "--num-gpus", "1", "--utilisation", "0.25", "--num-clips", "10")
    counted = plan(capsys, str(tiny_config), *flags, "--train.kind", "lora", "--train.rank", "2")
    assert counted["training"]["kind"] == "lora"
    # In every block, inputs and outputs of eight layers of 32 x 32 and two of 32 x 64, twice each.
    assert counted["training"]["lora"]["trainable_parameters"] == 3 * 2 * (8 * 64 + 2 * 96)
    (row,) = counted["training"]["lora"]["gpus"]
    # A float32 run, of which one GPU does all the work.
    assert row["step_seconds"] == pytest.approx(row["step_tflops"] / (0.25 * 67))
    assert row["run_hours"] == pytest.approx(10 * row["step_seconds"] / 3600)
    assert sum(row["part_seconds"].values()) == pytest.approx(row["step_seconds"])
    parts = row["part_seconds"]
    assert min(parts[name] for name in ("student_forward", "student_backward", "mmd")) > 0
    assert parts["backward_simulation"] == parts["checkpointing_adds"] == 0
    cache = counted["latents_cache"]
    assert [row["grid"] for row in cache["grids"]] == ["2x4x4", "3x4x4", "3x6x8"]
    encode = [row["vae_encode_tflops"] for row in cache["grids"]]
    assert encode == sorted(encode) and encode[-1] == counted["vae_encode_tflops"]
    assert cache["clip_encode_tflops"] == pytest.approx(sum(encode) + counted["text_encoder_tflops"])
    (encoding,) = cache["encoding"]
    assert encoding["clip_seconds"] == pytest.approx(cache["clip_encode_tflops"] / (0.25 * 67))
    assert encoding["hours"] == pytest.approx(10 * encoding["clip_seconds"] / 3600)
    assert cache["gib"] == pytest.approx(10 * (cache["clip_mib"] + cache["caption_mib"]) / 1024)


def test_losses_with_networks_of_their_own_are_counted(
    tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--gpu", "H100", "--num-gpus", "1", "--train.kind", "lora")
    bare = plan(capsys, str(tiny_config), *words)["training"]["lora"]
    adversaries = (
        "--loss.dmd",
        "{critic_rank: 2, critic_updates: 5}",
        "--loss.gan",
        "{head: mlp}",
        "--train.backward_simulation",
        "0.5",
    )
    full = plan(capsys, str(tiny_config), *words, *adversaries)["training"]["lora"]
    extra = ("backward_simulation", "new_clips", "dmd", "gan")
    for without, last in zip(bare["stages"], full["stages"], strict=True):
        assert all(without.get(f"{name}_tflops", 0) == 0 for name in extra)
        assert without["mmd_tflops"] == last["mmd_tflops"] > 0
        assert last["clip_tflops"] == pytest.approx(
            without["clip_tflops"] + sum(last[f"{name}_tflops"] for name in extra)
        )
        assert sum(last["networks_tflops"].values()) == pytest.approx(last["clip_tflops"])
    assert [stage["backward_simulation_tflops"] > 0 for stage in full["stages"]] == [False, True, True]
    assert all(full["stages"][-1][f"{name}_tflops"] > 0 for name in extra)
    assert set(full["stages"][-1]["networks_tflops"]) == {"student", "teacher", "critic", "heads"}
    assert bare["learner_parameters"] == 0 < full["learner_parameters"]
    (before,), (after,) = bare["gpus"], full["gpus"]
    assert before["memory_gib"]["learners"] == 0
    assert after["memory_gib"]["learners"] == 16 * full["learner_parameters"] / 2**30
    assert after["memory_gib"]["feature_activations"] > before["memory_gib"]["feature_activations"]
    assert after["step_seconds"] > before["step_seconds"]


def test_upsampler_decoding_and_encoders_of_pixels_are_counted(
    tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one_gpu = ("--gpu", "H100", "--num-gpus", "1")
    bare = plan(capsys, str(tiny_config), *one_gpu)
    upsampler = ("--upsampler", "{width: 8, steps: 3}")
    pixels = ("--loss.mmd", "[{encoder: {kind: transnetv2, weights: not-made-yet}}]")
    full = plan(capsys, str(tiny_config), *one_gpu, *upsampler, *pixels)
    assert bare["upsampler_tflops"] == 0 and bare["training"]["before_tflops"] == {}
    assert [stage["upsampler_tflops"] > 0 for stage in full["stages"]] == [False, True, True]
    assert full["clip_tflops"] == pytest.approx(bare["clip_tflops"] + full["upsampler_tflops"])
    assert full["sampling"][0]["upsampler_seconds"] > 0 and full["training"]["before_tflops"]["upsampler"] > 0
    before, after = (counted["training"]["full"] for counted in (bare, full))
    assert set(after["stages"][-1]["networks_tflops"]) == {
        "upsampler",
        "student",
        "vae_decoder",
        "transnetv2",
    }
    assert before["gpus"][0]["memory_gib"]["frozen_networks"] == 0
    assert after["gpus"][0]["memory_gib"]["frozen_networks"] > 4 * full["parameters"]["vae"] / 2**30


def test_a_discriminator_of_pixels_is_counted_behind_the_decoder_that_shows_it_clips(
    tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    channels = load_architecture(plan(capsys, str(tiny_config))["model"]).spec.latent_channels
    decoder = StreamingDecoder(DecoderLayout(channels, (8, 4), (1, 1), ((2, 2),), (2, 4, 4)))
    decoder.save(tmp_path / "tiny.safetensors")
    words = ("--gpu", "H100", "--num-gpus", "1", "--load.decoder", str(tmp_path / "tiny.safetensors"))
    config = MobileNetV2Config(image_size=64, depth_multiplier=0.1)
    MobileNetV2Model(config).save_pretrained(tmp_path / "mobilenet")
    encoder = f"encoder: {{kind: transformers, name: {tmp_path / 'mobilenet'}}}"
    gan = f"{{{encoder}, block: [0, 3], window: {{frames: 2, through: %s}}}}"
    by_vae, by_decoder = (
        plan(capsys, str(tiny_config), *words, "--loss.gan", gan % through)["training"]["full"]
        for through in ("vae", "decoder")
    )
    networks = [counted["stages"][-1]["networks_tflops"] for counted in (by_vae, by_decoder)]
    assert networks[0]["vae_decoder"] > networks[1]["decoder"] > 0
    for same in ("transformers", "heads", "student"):
        assert networks[0][same] == networks[1][same] > 0
    features = [counted["gpus"][0]["memory_gib"]["feature_activations"] for counted in (by_vae, by_decoder)]
    assert features[0] > features[1]
    assert by_vae["learner_parameters"] == by_decoder["learner_parameters"] > 0


def test_a_decoder_is_counted_in_the_vae_s_place(
    tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = plan(capsys, str(tiny_config))
    channels = load_architecture(bare["model"]).spec.latent_channels
    decoder = StreamingDecoder(DecoderLayout(channels, (8, 4), (1, 1), ((2, 2),), (2, 4, 4)))
    decoder.save(tmp_path / "tiny.safetensors")
    shown = plan(capsys, str(tiny_config), "--load.decoder", str(tmp_path / "tiny.safetensors"))
    assert "vae_decode_tflops" not in shown and 0 < shown["decoder_tflops"] < bare["vae_decode_tflops"]
    saved = bare["vae_decode_tflops"] - shown["decoder_tflops"]
    assert shown["clip_tflops"] == pytest.approx(bare["clip_tflops"] - saved)
    assert shown["parameters"]["decoder"] == sum(weight.numel() for weight in decoder.parameters())
    assert shown["sampling"][0]["decoder_seconds"] > 0
    assert plan(capsys, str(tiny_config), "--load.decoder", "vae") == bare


def test_a_published_decoder_is_counted_without_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    local = "configs/wan2.1_1.3b/ours_4stage_local.yaml"
    # What would make it fit other GPUs is not asked here.
    assert main(["plan", str(ROOT / local), "--gpu", "H100", "--num-gpus", "1", "--json"]) == 0
    output = capsys.readouterr()
    assert "taew2_1.safetensors is not there; counted as what TAEHV publishes by that name." in output.err
    counted = json.loads(output.out)
    assert counted["decoder_tflops"] == pytest.approx(11.1, rel=0.01)
    assert counted["clip_tflops"] == pytest.approx(165, rel=0.01)


def test_words_name_the_upsampler_and_every_network(
    tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--upsampler", "{width: 8}", "--loss.gan", "{}", "--gpu", "H100", "--num-gpus", "1")
    assert main(["plan", str(tiny_config), *words]) == 0
    text = capsys.readouterr().out
    assert " + upsampler " in text and "training the upsampler first takes " in text
    assert re.search(r"in the last: upsampler \S+, student \S+, teacher \S+, heads \S+", text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "nobody/nothing"], "model 'nobody/nothing': its config files are not on this machine"),
        (["--model", "./nowhere"], "model './nowhere': does not exist"),
        (["--model", "pocket-wan-swd"], "is a distilled student, expected a teacher"),
        (["--gpu", "H101"], "--gpu H101: no such GPU; did you mean H100?"),
        (["--gpus", "nowhere.yaml"], "nowhere.yaml: no such config file. Check the path."),
        (["--load.decoder", "nowhere.safetensors"], "nowhere.safetensors: does not exist"),
        (["--num-gpus", "0"], "--num-gpus: got 0, expected at least 1"),
        (["--utilisation", "0"], "--utilisation: got 0.0, expected above 0"),
        (["--reserve", "1"], "--reserve: got 1.0, expected at least 0 and below 1"),
        (["--num-clips", "0"], "--num-clips: got 0, expected at least 1"),
        (["--loss.mmd", "[{block: 3}]"], "loss.mmd.block: 3 does not exist"),
        (["--loss.gan", "{block: 3}"], "loss.gan.block: 3 does not exist"),
        (
            ["--schedule", "[{sigma: 1, frames: 2, height: 3, width: 4}]"],
            "schedule[0]: latent size 2x3x4 is not a whole number of 1x2x2 patches",
        ),
        (["--train.kind", "lora", "--train.targets", "[to_z]"], "no linear layer of"),
    ],
)
def test_wrong_input_gets_one_line(
    words: list[str], message: str, tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(tiny_config), *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and message in captured.err
    assert captured.err.count("\n") == 1


def test_a_missing_config_and_another_family_get_one_line(
    tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(tmp_path / "none.yaml")]) == 2
    assert "no such config file" in capsys.readouterr().err
    other = tmp_path / "other"
    other.mkdir()
    (other / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    assert main(["plan", str(tiny_config), "--model", str(other)]) == 2
    assert "got a FluxPipeline, expected one of WanPipeline, " in capsys.readouterr().err
