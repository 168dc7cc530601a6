"""Whole distillations of a tiny model: what must stay, what must change, and what a kill must not change."""

import hashlib
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import WanPipeline
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from swd_video.cli.distill import run as run_command
from swd_video.cli.main import main
from swd_video.config import ConfigError, dump_config
from swd_video.core.decoder import StreamingDecoder
from swd_video.core.grid import PixelSize
from swd_video.core.pixels import frames_from_pixels
from swd_video.core.randomness import keyed_generator
from swd_video.core.schedule import ScaleSchedule
from swd_video.data.video import probe_video
from swd_video.files import alone_in
from swd_video.models.fingerprint import fingerprint_vae
from swd_video.models.loading import load_teacher
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.pipeline import ScaleWisePipeline
from swd_video.student.student import load_student
from swd_video.training.build import build_run
from swd_video.training.config import DistillConfig, load_config
from swd_video.training.finished import finished_summary
from swd_video.training.loop import train
from swd_video.training.provenance import RECORD_FILE, check_record

from ..forked import run_forked
from .conftest import train_until

MakeConfig = Callable[..., DistillConfig]

_KILLED_CHILD = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(int(sys.argv[3]))
from swd_video.training.config import load_config
from swd_video.training.build import build_run
from swd_video.training.loop import train

def kill(done, report):
    if done == 3:
        os.kill(os.getpid(), signal.SIGKILL)

train(build_run(load_config(sys.argv[1]), Path(sys.argv[2])), on_step=kill)
"""


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_student_in_windows_is_sampled_as_it_was_trained(
    local_schedule: ScaleSchedule, make_config: MakeConfig, tmp_path: Path
) -> None:
    samples = {"sample_every": 2, "sample_prompts": ["a red square moves right"], "samples_per_prompt": 1}
    config = make_config(schedule=local_schedule, steps=2, gradient_checkpointing=True, **samples)
    run = build_run(config, tmp_path / "run")
    # Before its first step the student is the teacher.
    pipe = ScaleWisePipeline(
        load_teacher(config.model), ScaleWiseFlowMatchScheduler.from_schedule(local_schedule)
    )
    generator = [keyed_generator(config.seed, "sample", 0, 0)]
    clip = pipe(config.train.sample_prompts[0], generator=generator, output_type="latent").frames
    frames = frames_from_pixels(pipe.model.decode(clip)[0]).permute(1, 2, 3, 0)
    # Copies of weights that lie elsewhere in memory may round otherwise.
    sample = run.samples.sample()[0][0]
    assert np.abs(sample.astype(int) - frames.numpy()).max() <= 1
    assert (sample != frames.numpy()).mean() < 1e-3

    train(run)
    assert load_config(tmp_path / "run" / "config.yaml") == config
    assert load_student(tmp_path / "run" / "student").scheduler.schedule == local_schedule


def test_a_killed_run_ends_with_the_same_files(make_config: MakeConfig, tmp_path: Path) -> None:
    mmd = [
        {},
        {"kernel": {"kind": "rbf", "estimator": "paired"}, "join": "means"},
        {"kernel": {"kind": "rbf", "random_features": 8}, "tokens": "motion"},
    ]
    config = make_config(
        mmd=mmd,
        parts={"group": 2},
        steps=5,
        batch_size=4,
        stages_per_step=2,
        sample_every=2,
        sample_prompts=["a red square"],
        samples_per_prompt=1,
    )
    train(build_run(config, tmp_path / "straight"))

    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    child = run_forked(_KILLED_CHILD, path, tmp_path / "killed", torch.get_num_threads())
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert [p.name for p in (tmp_path / "killed" / "checkpoints").iterdir()] == ["step_00000002"]
    assert not (tmp_path / "killed" / "student").exists()

    train(build_run(config, tmp_path / "killed"))
    for part in ("student", "samples"):
        straight = _digests(tmp_path / "straight" / part)
        assert straight and _digests(tmp_path / "killed" / part) == straight


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_stopped_lora_run_ends_with_the_same_student(
    optimizer: str, make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config("lora", steps=5, mixed_precision="bf16", optimizer={"kind": optimizer})
    train(build_run(config, tmp_path / "straight"))

    train_until(build_run(config, tmp_path / "stopped"), 3)
    train(build_run(config, tmp_path / "stopped"))
    straight = _digests(tmp_path / "straight" / "student")
    assert straight and _digests(tmp_path / "stopped" / "student") == straight


def test_the_teacher_stays_and_the_student_renders(
    make_config: MakeConfig, tiny_wan_folder: Path, tiny_schedule: ScaleSchedule, tmp_path: Path
) -> None:
    before = _digests(tiny_wan_folder)
    run = build_run(
        make_config(sample_every=4, sample_prompts=["a red square", "a blue one"]), tmp_path / "run"
    )
    teacher = {
        name: weight.clone() for name, weight in run.stepper.networks.model.transformer.state_dict().items()
    }
    summary = train(run)
    assert summary.steps == 4 and summary.loss is not None
    assert all(
        torch.equal(weight, teacher[name])
        for name, weight in run.stepper.networks.model.transformer.state_dict().items()
    )
    assert _digests(tiny_wan_folder) == before

    pipe = load_student(tmp_path / "run" / "student")
    assert pipe.scheduler.schedule == tiny_schedule
    assert any(not torch.equal(w, teacher[name]) for name, w in pipe.model.transformer.state_dict().items())
    frames = pipe("a red square", generator=torch.Generator().manual_seed(0), output_type="np").frames
    assert frames.shape == (1, 9, 48, 64, 3)

    samples = tmp_path / "run" / "samples" / "step_00000004"
    names = ["00-0.mp4", "00-1.mp4", "01-0.mp4", "01-1.mp4", "contact.png", "measures.json"]
    assert sorted(path.name for path in samples.iterdir()) == names
    info = probe_video(samples / "00-0.mp4")
    assert PixelSize(info.frames, info.height, info.width) == PixelSize(9, 48, 64)
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_samples_stand_beside_the_teachers(
    kind: str, make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(
        kind,
        steps=1,
        sample_every=1,
        sample_prompts=["a red square", "a blue one"],
        teacher_samples={"steps": 2, "guidance_scale": 2.0},
        collapse_share=0.99,
        lr=1e-30,
    )
    run = build_run(config, tmp_path / "run")
    train(run)
    folder = tmp_path / "run" / "samples"
    values = json.loads((folder / "step_00000001" / "measures.json").read_text())
    reference = json.loads((folder / "teacher" / "measures.json").read_text())
    for name in ("diversity", "motion", "saturation"):
        assert values[f"{name}_share"] == pytest.approx(values[name] / reference[name])
    rings = min(values[f"{name}_share"] for name in reference) < 0.99 or values["saturation_share"] > 1 / 0.99
    assert ("warning: step 1: the student's" in capsys.readouterr().err) == rings
    assert len(list((folder / "teacher").glob("*.mp4"))) == 4

    log = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert log.Scalars("validation/motion_share")[-1].value == pytest.approx(values["motion_share"])
    event = log.Images("samples/a red square")[-1]
    assert (event.step, event.height, event.width) == (1, 48, 2 * 64)

    # Made once: another start of the run reads them.
    again = build_run(config, tmp_path / "run").samples
    assert again is not None and run.samples is not None
    stored = (folder / "teacher.safetensors").stat().st_mtime_ns
    clips = zip(again.reference_clips, run.samples.reference_clips, strict=True)
    assert all(np.array_equal(a, b) for some, others in clips for a, b in zip(some, others, strict=True))
    assert (folder / "teacher.safetensors").stat().st_mtime_ns == stored

    # Those of other prompts take their place, also where they are looked at.
    others = {"steps": 2, "sample_every": 2, "sample_prompts": ("a green cat",)}
    train(
        build_run(
            config.model_copy(update={"train": config.train.model_copy(update=others)}), tmp_path / "run"
        )
    )
    assert len(list((folder / "teacher").glob("*.mp4"))) == 2
    assert json.loads((folder / "teacher" / "measures.json").read_text()) != reference


def test_without_a_teacher_samples_are_measured_against_training_clips(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    run = build_run(make_config(sample_every=1, sample_prompts=["a red square"]), tmp_path / "run")
    assert run.samples is not None
    assert [len(some) for some in run.samples.reference_clips] == [2]
    _, shares = run.samples.write(1, run.samples.sample())
    assert set(shares) == {"diversity", "motion", "saturation"}
    assert not (tmp_path / "run" / "samples" / "teacher").exists()


def test_lora_loads_in_stock_diffusers_at_full_strength(
    make_config: MakeConfig, tiny_wan_folder: Path, stock_inputs: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    run = build_run(make_config("lora", ema_decay=0.0, lr=1e-2), tmp_path / "run")
    train(run)
    pipe = WanPipeline.from_pretrained(tiny_wan_folder)
    with torch.no_grad():
        base = pipe.transformer(**stock_inputs).sample
        pipe.load_lora_weights(tmp_path / "run" / "student")
        loaded = pipe.transformer(**stock_inputs).sample
        student = run.stepper.networks.student(**stock_inputs).sample
    torch.testing.assert_close(loaded, student)
    assert (loaded - base).abs().max() > 1e-3


def test_samples_do_not_disturb_training(make_config: MakeConfig, tmp_path: Path) -> None:
    samples = {
        "sample_every": 2,
        "sample_prompts": ["a red square"],
        "samples_per_prompt": 1,
        "teacher_samples": {"steps": 2, "guidance_scale": 2.0},
    }
    losses: dict[str, list[float]] = {}
    for name, more in (("without", {}), ("with", samples)):
        run = build_run(make_config("lora", **more), tmp_path / name)
        before = torch.random.get_rng_state()
        train(
            run, on_step=lambda _, report, name=name: losses.setdefault(name, []).append(report.stages[0][1])
        )
        assert torch.equal(torch.random.get_rng_state(), before)
    assert losses["with"] == losses["without"] and len(losses["with"]) == 4
    assert _digests(tmp_path / "with" / "student" / "scheduler") == _digests(
        tmp_path / "without" / "student" / "scheduler"
    )
    lora = "student/pytorch_lora_weights.safetensors"
    assert (tmp_path / "with" / lora).read_bytes() == (tmp_path / "without" / lora).read_bytes()


def test_the_seed_decides(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config()
    train(build_run(config, tmp_path / "a"))
    train(build_run(config.model_copy(update={"seed": 6}), tmp_path / "b"))
    assert _digests(tmp_path / "a" / "student") != _digests(tmp_path / "b" / "student")


def test_bf16_muon_and_stage_weights_run(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(mixed_precision="bf16", optimizer={"kind": "muon"}, stage_weights=[1, 1e-9, 1e-9])
    summary = train(build_run(config, tmp_path / "run"))
    first, second, third = summary.stage_losses
    assert first is not None and second is None and third is None


def test_command_writes_resumes_and_reports(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "config.yaml", tmp_path / "run"
    path.write_text(dump_config(make_config()))
    assert run_command(["--train.steps", "2", str(path), "--out", str(out), "--json"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["steps"] == 2 and Path(printed["student"]) == out / "student"
    saved = load_config(out / "config.yaml")
    assert saved == load_config(path, {"train.steps": "2"})

    before = _digests(out)
    with alone_in(out):
        assert main(["distill", str(path), "--out", str(out), "--train.steps", "2"]) == 1
    assert f"error: {out}: another run" in capsys.readouterr().err
    assert run_command([str(path), "--out", str(out), "--train.steps", "2"]) == 0  # nothing left to do
    assert _digests(out) == before
    out = out.rename(tmp_path / "moved")
    capsys.readouterr()
    assert run_command([str(path), "--out", str(out), "--train.steps", "2", "--json"]) == 0
    assert Path(yaml.safe_load(capsys.readouterr().out)["student"]) == out / "student"
    assert finished_summary(load_config(path), out) is None
    assert run_command([str(path), "--out", str(out)]) == 0  # two more steps
    assert _digests(out / "student") != before
    for change, named in (
        (["--train.lr", "0.1"], r"train\.lr \(0\.001 there, 0\.1 now\)"),
        (["--train.kind", "lora", "--train.rank", "2"], r'train\.kind \("full" there, "lora" now\)'),
        (["--data.manifest", "null"], r"data\.manifest \(.* there, null now\)"),
    ):
        with pytest.raises(ConfigError, match=f"another {named}"):
            run_command([str(path), "--out", str(out), *change])


def test_a_finished_run_takes_another_decoder_and_says_what_came_too_late(
    make_config: MakeConfig,
    tiny_decoder: Callable[..., StreamingDecoder],
    tiny_wan_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, out, decoder = tmp_path / "config.yaml", tmp_path / "run", tmp_path / "decoder.safetensors"
    path.write_text(dump_config(make_config("lora", steps=1)))
    tiny_decoder(vae=fingerprint_vae(tiny_wan_folder)).save(decoder)
    words = ["distill", str(path), "--out", str(out)]
    assert main(words) == 0
    weights = _digests(out / "student")
    assert main([*words, "--load.decoder", str(tmp_path / "gone.safetensors")]) == 2
    capsys.readouterr()
    samples = ["--train.sample_every", "1", "--train.sample_prompts", "[a fox]"]
    assert main([*words, "--load.decoder", str(decoder), *samples]) == 0
    assert (
        f"note: {out} is finished, so train.sample_every, train.sample_prompts changed nothing; raise train.steps"
        in capsys.readouterr().err
    )
    assert _digests(out / "student").items() > weights.items()
    assert load_student(out / "student").model.decoder is not None
    assert load_config(out / "config.yaml") == load_config(path, {"load.decoder": str(decoder)})
    # As the file says again: no decoder, and nothing to say.
    assert main([*words, "--load.decoder", "null"]) == 0
    assert "note: " not in capsys.readouterr().err and _digests(out / "student") == weights


def test_a_mistake_leaves_nothing_behind_and_a_corrected_command_runs(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "config.yaml", tmp_path / "runs" / "first"
    path.write_text(dump_config(make_config("lora", steps=1)))
    common = [str(path), "--out", str(out)]
    samples = ["--train.sample_every", "1", "--train.sample_prompts", "[a fox]"]
    for mistake in (
        ["--model", str(tmp_path / "no-model")],
        ["--data.manifest", str(tmp_path / "no.jsonl"), "--data.cache", str(tmp_path / "no-cache")],
        ["--loss.mmd", "[{block: 3}]"],
        ["--train.targets", '["nowhere"]'],
        [*samples, "--train.teacher_samples", "{guidance_scale: 1, negative_prompt: blurred}"],
        ["--data.cache", f"{out}/../first"],
    ):
        ours_alone = {"--loss.mmd", "--train.teacher_samples"}.intersection(mistake)
        for command in ("distill",) if ours_alone else ("distill", "adapt"):
            assert main([command, *common, *mistake]) == 2
            said = capsys.readouterr().err.splitlines()[-1]
            assert said.startswith("error: ")
            assert not out.exists()
    assert (
        said
        == f"error: data.cache: {out}/../first is the folder of the run, --out, as well; give each its own."
    )
    assert main(["distill", *common]) == 0
    assert load_config(out / "config.yaml") == load_config(path)


def test_command_says_when_training_blows_up(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(make_config(lr=1e30, max_grad_norm=None)))
    assert run_command([str(path), "--out", str(tmp_path / "run")]) == 1
    assert "error: step 1, stage " in capsys.readouterr().err
    assert not (tmp_path / "run" / "student").exists()
    # The last step's weights are seen by no further loss.
    command = [
        "distill",
        str(path),
        "--out",
        str(tmp_path / "one"),
        "--train.steps",
        "1",
        "--train.lr",
        "1e39",
    ]
    assert main(command) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: step 0: the optimizer moved ") and said.endswith(
        "train.mixed_precision to null."
    )
    assert "weights.safetensors) beyond all numbers; none of it is kept. Lower train.lr, " in said
    assert not list((tmp_path / "one").rglob("*.safetensors"))


_SHORT_OF_ROOM = """
import resource, sys
from swd_video.cli.main import main
from swd_video.training import loop

train = loop.train

def train_with_little_room(run):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, resource.RLIM_INFINITY))
    return train(run)

loop.train = train_with_little_room
sys.exit(main(["distill", sys.argv[1], "--out", sys.argv[2]]))
"""


def test_no_room_for_tensorboard_is_one_line(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config("lora", log_every=1, steps=8, checkpoint_every=8)
    path, out = tmp_path / "config.yaml", tmp_path / "run"
    path.write_text(dump_config(config))
    build_run(config, tmp_path / "encoded")
    child = run_forked(_SHORT_OF_ROOM, path, out)
    assert child.returncode == 1
    assert "Traceback" not in child.stderr and 'File "' not in child.stderr
    assert f"error: {out}/tensorboard: File too large" in child.stderr


def test_a_cache_that_does_not_fit_is_refused(make_config: MakeConfig, cache: Path, tmp_path: Path) -> None:
    config = make_config()
    build_run(config, tmp_path / "first")  # the cache is there now
    stages = [*config.schedule[:2], config.schedule[2].model_copy(update={"width": 10})]
    wider = config.model_copy(update={"schedule": tuple(stages)})
    with pytest.raises(ConfigError, match=r"has no latents on 3x6x10, it has 2x4x4, 3x4x4, 3x6x8"):
        build_run(wider, tmp_path / "second")
    other = tmp_path / "other.jsonl"
    other.write_text('{"path": "x.mp4", "caption": "x"}\n')
    data = config.data.model_copy(update={"manifest": str(other)})
    with pytest.raises(ConfigError, match="holds other clips than"):
        build_run(config.model_copy(update={"data": data}), tmp_path / "third")


def test_a_run_does_not_go_on_with_another_teacher_or_other_clips(
    make_config: MakeConfig, tiny_wan_folder: Path, tmp_path: Path
) -> None:
    config, run = make_config("lora", steps=1), tmp_path / "run"
    teacher = tmp_path / "teacher"
    shutil.copytree(tiny_wan_folder, teacher)
    config = config.model_copy(update={"model": str(teacher)})
    train(build_run(config, run))
    record = json.loads((run / "made_of.json").read_text())
    assert finished_summary(config, run) is not None
    assert record["teacher"] and record["vae"] and record["upsampler"] is None

    longer = config.model_copy(update={"train": config.train.model_copy(update={"steps": 2})})
    for key, words in {"latents": "latents \\(data.cache\\)", "clips": "clips", "vae": "VAE or text"}.items():
        (run / "made_of.json").write_text(json.dumps(record | {key: "other"}))
        for start in (lambda: finished_summary(config, run), lambda: build_run(longer, run)):
            with pytest.raises(
                ConfigError, match=f"holds a run with another {words}.*: other there, {record[key]} now"
            ):
                start()
    (run / "made_of.json").write_text(json.dumps(record))
    weights = teacher / "transformer" / "diffusion_pytorch_model.safetensors"
    moved = {name: weight + 1 for name, weight in load_file(weights).items()}
    weights.unlink()  # it may be mapped into memory
    save_file(moved, weights)
    for start in (lambda: finished_summary(config, run), lambda: build_run(longer, run)):
        with pytest.raises(ConfigError, match=r"another teacher \(model, load\.transformer_file\): "):
            start()
    # A run of an older version has no record: what it was begun with is not known, and nothing is made up.
    (run / "made_of.json").unlink()
    train(build_run(longer, run))
    assert "made_of" not in json.loads((run / "student" / "student.json").read_text())
    assert not (run / "made_of.json").exists()


@pytest.mark.parametrize("text", ["{", "[]", "null"])
def test_a_damaged_record_of_what_a_run_is_made_of_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / RECORD_FILE
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"^{path}: is damaged; delete it"):
        check_record(tmp_path, {})


def test_a_run_does_not_go_on_with_another_network_to_look_through(
    make_config: MakeConfig, small_encoders: dict[str, str], tmp_path: Path
) -> None:
    encoder, run = tmp_path / "encoder", tmp_path / "run"
    shutil.copytree(small_encoders["encoder"], encoder)
    term = {"encoder": {"kind": "transformers", "name": str(encoder)}, "block": 0}
    config = make_config(mmd=[term], parts={"window": {"frames": 1}}, steps=1)
    train(build_run(config, run))
    encoder.rename(tmp_path / "away")
    assert finished_summary(config, run) is not None, "of a finished run it may be gone"
    (tmp_path / "away").rename(encoder)
    file = encoder / "model.safetensors"
    moved = {name: weight + 1 for name, weight in load_file(file).items()}
    file.unlink()
    save_file(moved, file, metadata={"format": "pt"})
    longer = config.model_copy(update={"train": config.train.model_copy(update={"steps": 2})})
    for start in (lambda: finished_summary(config, run), lambda: build_run(longer, run)):
        with pytest.raises(ConfigError, match=r"another network that is looked through \(encoder\): "):
            start()


def test_fewer_steps_than_were_taken_are_refused_and_a_damaged_summary_is_written_again(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config("lora", steps=2)
    train(build_run(config, tmp_path))
    (tmp_path / "train.json").write_text("{")
    assert finished_summary(config, tmp_path) is None
    shutil.rmtree(tmp_path / "student")
    train(build_run(config, tmp_path))
    assert finished_summary(config, tmp_path) is not None
    shutil.rmtree(tmp_path / "student")
    assert finished_summary(config, tmp_path) is None
    fewer = config.model_copy(update={"train": config.train.model_copy(update={"steps": 1})})
    said = {name: (tmp_path / name).read_bytes() for name in ("config.yaml", "made_of.json")}
    with pytest.raises(ValueError, match=r"train\.steps: 1, but the run in .* has taken 2"):
        build_run(fewer, tmp_path)
    assert said == {name: (tmp_path / name).read_bytes() for name in said}, "refused, it changes nothing"


def test_a_cache_alone_is_enough_and_none_at_all_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config()
    build_run(config, tmp_path / "first")
    alone = config.data.model_copy(update={"manifest": None})
    assert len(build_run(config.model_copy(update={"data": alone}), tmp_path / "second").stepper.clips) == 6
    nowhere = alone.model_copy(update={"cache": str(tmp_path / "nowhere")})
    with pytest.raises(ConfigError, match=r"data\.cache: .*nowhere.*data\.manifest"):
        build_run(config.model_copy(update={"data": nowhere}), tmp_path / "third")


def test_a_block_or_a_grid_that_cannot_be_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"loss\.mmd\[0\]\.block: 3 does not exist"):
        build_run(make_config(mmd=[{"block": 3}]), tmp_path / "a")
    terms = [{"block": 7, "weight": 0}, {"block": [0, 5]}]
    with pytest.raises(ConfigError, match=r"loss\.mmd\[1\]\.block: 5 does not exist"):
        build_run(make_config(mmd=terms), tmp_path / "c")
    config = make_config()
    stages = (*config.schedule[:2], config.schedule[2].model_copy(update={"width": 9}))
    with pytest.raises(ValueError, match=r"schedule\[2\]: .*not a whole number"):
        build_run(config.model_copy(update={"schedule": stages}), tmp_path / "b")
