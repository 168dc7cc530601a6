"""Show that the package still computes what it did, to the bit, after its code was changed without meaning to.

    python -m tools.sameness record out/before.json                # before the change
    python -m tools.sameness compare out/before.json               # after it: 0 and one line, or 1 and what differs
    python -m tools.sameness compare out/before.json --only mmd plan

Everything goes through the command line, in processes of their own, so nothing here depends on where code lies: clips
of the shipped student, short trainings of the shipped teacher, `plan` of every config, and an evaluation. All of it
takes minutes. Where a key of a config gets another name, the texts below follow.

Each process has one thread on the CPU, so that sums are added in one order however busy the machine is. Bits hold for
one machine and one set of packages: record and compare on the same.
"""

import hashlib
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import av
import numpy as np
import tyro
import yaml

ROOT = Path(__file__).parents[1]
PROGRAM = "swd_video.cli.main"
TOLERANCE = 1e-9
"""Of numbers, relative. Losses are float32, so theirs have to be the same."""

CAPTIONS = {
    "a panda moving right on a green meadow": (220, 40, 30),
    "a whale floating up at sunset": (30, 200, 60),
    "a bee standing still in the snow": (40, 60, 230),
}
CLIPS_PER_CAPTION, CLIP_FRAMES, CLIP_SIZE_PX = 4, 28, 96

SCRIPT = """
title: Sameness
model: pocket-wan-swd
seed: 7
shots:
  - {id: panda, prompt: a panda moving right on a green meadow}
  - {id: whale, prompt: a whale floating up at sunset, seed: 1}
  - {id: penguin, prompt: a penguin moving left in the snow, seed: 2}
  - {id: pumpkin, prompt: a pumpkin coming closer at night}
  - {id: racing-car, prompt: a racing car moving right on a sandy beach}
  - {id: bee, prompt: a bee falling down under a blue sky, seed: 3}
  - {id: tree, prompt: a christmas tree standing still in the snow}
  - {id: alien, prompt: an alien floating up at night}
"""

# What all trainings share; each of the texts after it is laid over it. CLIPS and RUN are folders.
TRAINING = """
model: pocket-wan
seed: 5
data: {manifest: CLIPS/manifest.jsonl, cache: RUN/latents}
schedule:
  - {sigma: 1.00, frames: 2, height: 4, width: 4}
  - {sigma: 0.64, frames: 3, height: 6, width: 6}
train: {kind: full, steps: 4, batch_size: 4, lr: 1e-3, ema_decay: 0.9, checkpoint_every: 2, log_every: 1}
"""

TRAININGS = {
    "mmd": """
loss:
  mmd: [{kernel: {kind: linear}, block: 3}]
""",
    "mmd-dmd-gan": """
loss:
  group: 2
  mmd:
    - {kernel: {kind: pseudo_huber}, weight: 0.25, block: [1, 4]}
    - {kernel: {kind: rbf}, weight: 0.5, block: [1, 4], join: tokens}
  dmd: {guidance_scale: 3, scale_adapted: true, critic_rank: 4, critic_updates: 2}
  gan: {weight: 0.01, block: 4}
train: {backward_simulation: 0.5}
""",
    "lora": """
upsampler: {width: 8, steps: 3, batch_size: 4}
loss:
  mmd: [{kernel: {kind: rational_quadratic}, block: 3, tokens: frame}]
train:
  kind: lora
  rank: 4
  micro_batch_size: 2
  stages_per_step: 2
  optimizer: {kind: muon}
  gradient_checkpointing: true
  sample_every: 2
  sample_prompts: [a panda moving right on a green meadow]
""",
    "adapt": """
adapt: {sigma_shift: 2.0, empty_prompts: 0.5}
""",
    "processes": """
loss:
  mmd: [{kernel: {kind: linear}, block: 3}]
""",
}

EVALUATION = """
prompts: [a panda moving right on a green meadow, a whale floating up at sunset, a bee standing still in the snow]
samples_per_prompt: 2
seed: 3
rows:
  - {kind: real, key: real, clips: {manifest: CLIPS/manifest.jsonl, count: 6}}
  - {kind: teacher, key: teacher, model: pocket-wan, steps: 2, guidance_scale: 3}
  - {kind: student, key: student, model: pocket-wan-swd}
reference: teacher
metrics:
  real_clips: {manifest: CLIPS/manifest.jsonl, first: 6}
cost: null
page: {prompts: 1}
"""


@dataclass(frozen=True)
class Arguments:
    """What to do."""

    action: tyro.conf.Positional[Literal["record", "compare"]]
    """Write what is computed now, or hold it against what was written."""
    file: tyro.conf.Positional[Path]
    """JSON file of what was computed."""
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = ()
    """Some runs: render, mmd, mmd-dmd-gan, lora, adapt, processes, evaluate, plan, or plan:configs/pocket/swd.yaml."""
    jobs: int = field(default_factory=lambda: min(os.cpu_count() or 1, 4))
    """Runs at a time, each on one core."""


class RunFailed(Exception):
    """A command of the package ended with an error; the message is its last lines."""


def swd_video(*words: str, launcher: tuple[str, ...] = ("-m",)) -> str:
    """Run a command of the package on one thread of the CPU, and return what it prints."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "ACCELERATE_USE_CPU": "1",
    }
    command = [sys.executable, *launcher, PROGRAM, *words]
    result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RunFailed(f"{' '.join(words)}: exit {result.returncode}: {result.stderr.strip()[-2000:]}")
    return result.stdout


def two_processes() -> tuple[str, ...]:
    """What starts a command twice, which meet at a free port: docs/distill.md."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    config = ("--config_file", "configs/accelerate/cpu2.yaml", "--main_process_port", port)
    return ("-m", "accelerate.commands.launch", *config, "--module")


def write_clips(folder: Path) -> None:
    """Squares that move, each caption with its colour and its clips with their speeds, and their manifest."""
    folder.mkdir()
    lines = []
    for number in range(CLIPS_PER_CAPTION * len(CAPTIONS)):
        speed, kind = divmod(number, len(CAPTIONS))
        caption, colour = list(CAPTIONS.items())[kind]
        with av.open(str(folder / f"{number}.mp4"), "w") as container:
            stream: Any = container.add_stream("libx264", rate=16)
            stream.width, stream.height, stream.pix_fmt = CLIP_SIZE_PX, CLIP_SIZE_PX, "yuv420p"
            stream.options = {"crf": "12", "threads": "1"}
            for step in range(CLIP_FRAMES):
                picture = np.full((CLIP_SIZE_PX, CLIP_SIZE_PX, 3), 120 + 30 * speed, dtype=np.uint8)
                left = 2 + 4 * kind + (1 + speed) * step % 60
                picture[24:56, left : left + 24] = colour
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        lines.append(json.dumps({"path": f"{number}.mp4", "caption": caption}))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def laid_over(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The values with the changes, key by key in sections that both have."""
    merged = dict(values)
    for key, change in changes.items():
        both = isinstance(change, dict) and isinstance(values.get(key), dict)
        merged[key] = laid_over(values[key], change) if both else change
    return merged


def config_text(name: str, clips: Path, run: Path) -> str:
    """The YAML of the evaluation or of a training."""
    text = EVALUATION
    if name != "evaluate":
        text = yaml.safe_dump(laid_over(yaml.safe_load(TRAINING), yaml.safe_load(TRAININGS[name])))
    return text.replace("CLIPS", clips.as_posix()).replace("RUN", run.as_posix())


def file_hash(path: Path) -> str:
    """Of its bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tensors_hash(path: Path) -> dict[str, Any]:
    """Number and hash of a safetensors file's tensors: names, types, shapes and bytes, and not what else it says."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    digest = hashlib.sha256()
    for name, tensor in sorted(header.items()):
        first, last = (start + offset for offset in tensor["data_offsets"])
        digest.update(json.dumps([name, tensor["dtype"], tensor["shape"]]).encode())
        digest.update(content[first:last])
    return {"tensors": len(header), "sha256": digest.hexdigest()}


def logged_losses(run: Path) -> dict[str, list[float]]:
    """Every loss of every step, by its TensorBoard tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, list[float]] = {}
    for path in sorted(run.rglob("events.out.tfevents.*")):
        events = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
        for tag in sorted(events.Tags()["scalars"]):
            if tag.startswith("loss/"):
                found.setdefault(tag, []).extend(event.value for event in events.Scalars(tag))
    if not found:
        raise RunFailed(f"no losses in the TensorBoard events under {run}")
    return found


def render(clips: Path, run: Path) -> dict[str, Any]:
    """Hashes of the clips of the shipped student."""
    (run / "script.yaml").write_text(SCRIPT, encoding="utf-8")
    swd_video("render", str(run / "script.yaml"), "--out", str(run / "out"), "--device", "cpu")
    return {path.name: file_hash(path) for path in sorted((run / "out").rglob("*.mp4"))}


def training(name: str, clips: Path, run: Path) -> dict[str, Any]:
    """Losses, and hashes of the weights, the scheduler and the sample clips that a training leaves."""
    config, out = run / "config.yaml", run / "out"
    config.write_text(config_text(name, clips, run), encoding="utf-8")
    launcher = two_processes() if name == "processes" else ("-m",)
    command = "adapt" if name == "adapt" else "distill"
    swd_video(command, str(config), "--out", str(out), launcher=launcher)
    result = out / ("teacher" if name == "adapt" else "student")
    return {
        "losses": logged_losses(out),
        "weights": {
            path.relative_to(result).as_posix(): tensors_hash(path)
            for path in sorted(result.rglob("*.safetensors"))
        },
        "scheduler": [file_hash(path) for path in sorted(result.rglob("scheduler_config.json"))],
        "samples": [file_hash(path) for path in sorted((out / "samples").rglob("*.mp4"))],
    }


def plan(config: str, clips: Path, run: Path) -> dict[str, Any]:
    """What `plan` prints, whole."""
    printed: dict[str, Any] = json.loads(swd_video("plan", config, "--json"))
    return printed


def evaluate(clips: Path, run: Path) -> dict[str, Any]:
    """The numbers of an evaluation."""
    config = run / "evaluate.yaml"
    config.write_text(config_text("evaluate", clips, run), encoding="utf-8")
    printed = swd_video("evaluate", str(config), "--out", str(run / "out"), "--device", "cpu", "--json")
    return {key: value for key, value in leaves(json.loads(printed)) if isinstance(value, float)}


def planned_configs() -> list[str]:
    """Configs of distillations, which are those with a schedule, of their own or of a file that they extend."""
    paths = sorted((ROOT / "configs").rglob("*.yaml"))
    return [path.relative_to(ROOT).as_posix() for path in paths if has_schedule(path)]


def has_schedule(path: Path) -> bool:
    """Whether a config has one, or extends one that has."""
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    return "schedule" in values or ("extends" in values and has_schedule(path.parent / values["extends"]))


def all_runs() -> dict[str, Callable[[Path, Path], dict[str, Any]]]:
    """By name; each takes the folder of clips and a folder of its own."""
    return {
        "render": render,
        "evaluate": evaluate,
        **{name: partial(training, name) for name in TRAININGS},
        **{f"plan:{config}": partial(plan, config) for config in planned_configs()},
    }


def compute(names: list[str], jobs: int) -> dict[str, Any]:
    """What the runs give; of one that failed, `failed` and why."""
    runs = all_runs()
    with tempfile.TemporaryDirectory(prefix="sameness-") as folder:
        clips = Path(folder) / "clips"
        write_clips(clips)

        def measure(name: str) -> dict[str, Any]:
            started = time.monotonic()
            own = Path(folder) / name.replace(":", "-").replace("/", "-")
            own.mkdir()
            try:
                result = runs[name](clips, own) if name in runs else {"failed": "there is no such run now"}
            except RunFailed as error:
                result = {"failed": str(error)}
            print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
            return result

        with ThreadPoolExecutor(jobs) as pool:
            return dict(zip(names, pool.map(measure, names), strict=True))


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """All values inside of lists and sections, with their dotted keys."""
    if isinstance(value, (dict, list)):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, value


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """A line for each value that is not the same."""
    old, new = dict(leaves(before)), dict(leaves(after))
    lines = []
    for key in [*old, *(key for key in new if key not in old)]:
        if key not in new:
            lines.append(f"{key}: was {old[key]!r}, is gone")
        elif key not in old:
            lines.append(f"{key}: is new, {new[key]!r}")
        elif not _same(old[key], new[key]):
            lines.append(f"{key}: was {old[key]!r}, is {new[key]!r}")
    return lines


def _same(old: Any, new: Any) -> bool:
    numbers = type(old) in (int, float) and type(new) in (int, float)
    return math.isclose(old, new, rel_tol=TOLERANCE) if numbers else bool(old == new)


def main() -> int:
    """Record or compare; returns the exit code."""
    arguments = tyro.cli(Arguments, description=__doc__)
    recorded: dict[str, Any] = {}
    if arguments.action == "compare":
        if not arguments.file.exists():
            raise SystemExit(f"{arguments.file}: is not there; record it first, before the change")
        recorded = json.loads(arguments.file.read_text(encoding="utf-8"))
    only = arguments.only
    known = list(recorded["runs"]) if recorded else list(all_runs())
    names = [name for name in known if not only or name in only or name.split(":")[0] in only]
    if not names:
        raise SystemExit(f"--only: no run is called {', '.join(only)}; there are {', '.join(known)}")
    packages = {name: version(name) for name in ("torch", "diffusers", "av")}
    runs = compute(names, arguments.jobs)
    if arguments.action == "record":
        failed = [f"{name}: {run['failed']}" for name, run in runs.items() if "failed" in run]
        if failed:
            raise SystemExit("\n".join(failed) + "\nnothing was written")
        arguments.file.write_text(
            json.dumps({"packages": packages, "runs": runs}, indent=1) + "\n", encoding="utf-8"
        )
        print(f"wrote {len(runs)} runs to {arguments.file}")
        return 0
    before = {"packages": recorded["packages"], "runs": {name: recorded["runs"][name] for name in names}}
    lines = differences(before, {"packages": packages, "runs": runs})
    print("\n".join(lines) if lines else f"{len(runs)} runs give the same as in {arguments.file}")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
