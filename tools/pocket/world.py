"""Make the whole pocket world anew and larger on one GPU, part by part, each of less than ten minutes.

    python -m tools.pocket.world --part vae                   # then teacher, teacher-more, students, ...; or 1, 2, 3
    python -m tools.pocket.world --part 2 --deliver out/of2   # and pack what it made into files below 16 MiB
    python -m tools.pocket.world --part 3 --from out/of1 out/of2   # on another machine, which has these alone
    python -m tools.pocket.world --part 1 --rehearse          # on a processor, tiny, through the same code

A part that was stopped, or whose time ran out, goes on when it is run again; a finished one says so and does nothing.
docs/pocket-gpu.md has the table of parts.
"""

import argparse
import json
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from swd_video.config import Section, dump_config, load_config_as
from swd_video.cost.speed import machine_name
from swd_video.evaluation.config import EvaluateConfig
from swd_video.files import alone_in, write_json, write_text
from swd_video.models.devices import choose_device
from tools.pocket import corpus, parcel
from tools.pocket.side_by_side import run_side_by_side

CONFIGS = Path("configs/world")
RESERVE_SECONDS = 25.0
"""What is left of a part for packing."""
REPORT = "world.json"


class World(Section):
    """What is made: options of the tools, and keys of the configs in configs/world, by name."""

    size: str
    """Of clips, frames x height x width."""
    text: dict[str, Any]
    """Options of `tools.pocket.text`."""
    corpus: dict[str, Any]
    """Options of `tools.pocket.corpus build` for training clips."""
    choose: dict[str, Any]
    """The same for clips of combinations that no network learns."""
    encoders: int
    """Processes that read and encode clips side by side."""
    vae: dict[str, Any]
    """Options of `tools.pocket.vae`; `minutes` is training time."""
    transformer: dict[str, int]
    """Shape of teachers: options of `tools.pocket.teacher init`."""
    teachers: dict[str, dict[str, Any]]
    """Options of `tools.pocket.teacher train` for each; `minutes` is training time."""
    student: dict[str, Any]
    """Keys of every student's config."""
    students: dict[str, dict[str, Any]]
    """Further keys of each student's config."""
    decoder: dict[str, Any]
    """Keys of decoder.yaml."""
    judge: dict[str, Any]
    """Options of `tools.pocket.judge`."""
    evaluate: dict[str, Any]
    """Keys of evaluate.yaml."""


@dataclass(frozen=True)
class Job:
    """Something that is made once."""

    needs: tuple[str, ...] = ()
    """What has to be in the folder, one name of each group "a|b"."""
    keeps: tuple[str, ...] = ()
    """What of it later parts need on another machine; what keeps nothing is made anew there."""
    halves: tuple[str, ...] = ()
    """Folders whose weights are kept in float16 from then on."""
    picture: str = ""
    """Pattern of a picture to look at."""


_PIPELINE = "teacher-more/final|teacher/final|start"


def _teacher(name: str, start: str) -> Job:
    return Job((start, "latents"), (f"{name}/final",), (f"{name}/final/transformer",), f"{name}/sheet-*.png")


def _student(name: str) -> Job:
    folder = f"students/{name}/student"
    return Job(("teacher-more/final", "latents"), (folder,), (f"{folder}/transformer",))


JOBS = {
    "text": Job((), ("text",), ("text/text_encoder",)),
    "vae": Job((), ("vae/final", "vae/report.json"), ("vae/final",), "vae/sheet.png"),
    "corpus": Job(),
    "choose": Job(),
    "start": Job(("vae/final|teacher/final/vae", "text|teacher/final")),
    "latents": Job((_PIPELINE, "corpus")),
    "teacher": _teacher("teacher", "start"),
    "start-more": Job(("teacher/final",)),
    "teacher-more": _teacher("teacher-more", "start-more"),
    "teacher-full": _teacher("teacher-full", "start"),
    **{name: _student(name) for name in ("staged", "full4", "full2", "full1")},
    "decoder": Job(
        ("teacher-more/final", "latents", "choose"), ("decoder/decoder.safetensors", "decoder/report.json")
    ),
    "judge": Job((), ("judge/judge.json", "judge/judge.safetensors")),
    "evaluation": Job(
        ("judge/judge.json", "teacher-more/final", "students/staged/student"),
        ("evaluation/evaluation.json", "evaluation/table.md"),
    ),
    "sheet": Job(("evaluation",), ("sheet.webp",), (), "sheet.webp"),
}

# The recipe: of each part what is made one after the other, and in brackets side by side.
PARTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "vae": (("text", "vae", "corpus", "choose"),),
    "teacher": (("corpus", "start"), ("latents",), ("teacher",)),
    "teacher-more": (("corpus", "start-more"), ("latents",), ("teacher-more",)),
    "students": (("corpus",), ("latents",), ("staged", "full1")),
    "students-full": (("corpus",), ("latents",), ("full4", "full2")),
    "decoder": (("corpus", "choose"), ("latents",), ("decoder", "judge")),
    "teacher-full": (("corpus", "start"), ("latents",), ("teacher-full",)),
    "evaluation": (("evaluation",), ("sheet",)),
}


def flags(options: Mapping[str, Any]) -> list[str]:
    """Options as words of a command line: `base_dim: 48` as --base-dim 48, a list as several words."""
    words: list[str] = []
    for name, value in options.items():
        values = value if isinstance(value, list | tuple) else [value]
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return words


def keys(values: Mapping[str, Any]) -> list[str]:
    """Keys of a config as words of a command line: `train.steps: 3` as --train.steps 3, all else as JSON."""
    return [
        word
        for key, value in values.items()
        for word in (f"--{key}", value if isinstance(value, str) else json.dumps(value))
    ]


@dataclass
class Maker:
    """Makes the parts of a world in a folder."""

    out: Path
    world: World
    device: str
    deadline: float
    """Of `time.monotonic`."""

    def is_done(self, job: str) -> bool:
        """Whether it came to its end here or on the machine that it was packed on."""
        return (self.out / "done" / job).is_file()

    @property
    def minutes_left(self) -> float:
        """Of this part."""
        return (self.deadline - time.monotonic()) / 60

    def found(self, names: str) -> Path:
        """The first of several, "a|b", that is there.

        Raises:
            ValueError: if none is.
        """
        for name in names.split("|"):
            if (self.out / name).exists():
                return self.out / name
        raise ValueError(
            f"{self.out}: has no {names.replace('|', ' or ')}; run the part before, or give its parcel as --from."
        )

    def commands(self, job: str) -> list[list[str]]:
        """What makes it: words behind `python -m`, several to be run side by side."""
        out, world, auto = self.out, self.world, {"device": self.device}
        if job in ("corpus", "choose"):
            split = "train" if job == "corpus" else job
            options = {"out": out / job, "split": split, "size": world.size, **getattr(world, job)}
            return [["tools.pocket.corpus", "build", "--lossless", *flags(options)]]
        if job == "text":
            return [["tools.pocket.text", *flags({"out": out / "text", **world.text})]]
        if job == "vae":
            options = {"out": out / "vae", "size": world.size, "threads": 1, **auto}
            return [["tools.pocket.vae", *flags(options | self.timed(world.vae))]]
        if job in ("start", "start-more"):
            vae, text = (self.found(names) for names in JOBS["start"].needs)
            options = {"vae": vae, "text": text, "out": out / job, "size": world.size, **world.transformer}
            options |= {"start": out / "teacher" / "final"} if job == "start-more" else {}
            return [["tools.pocket.teacher", "init", *flags(options)]]
        if job in world.teachers:
            start = out / ("start-more" if job == "teacher-more" else "start")
            options = {"pipeline": start, "cache": out / "latents", "out": out / job, "threads": 1, **auto}
            return [["tools.pocket.teacher", "train", *flags(options | self.timed(world.teachers[job]))]]
        if job == "judge":
            return [["tools.pocket.judge", *flags({"out": out / "judge", **auto, **world.judge})]]
        if job == "sheet":
            options = {"evaluation": out / "evaluation", "out": out / "sheet.webp", **auto}
            rows = ("real", "codec", "teacher-50", "staged")
            return [["tools.pocket.sheet", str(self.evaluation()), *flags(options | {"rows": rows})]]
        return [["swd_video.cli.main", *words] for words in self.package_commands(job)]

    def package_commands(self, job: str) -> list[list[str]]:
        """The same for what the package's own commands make."""
        out, world = self.out, self.world
        values = {"data.manifest": f"{out}/corpus/manifest.jsonl", "data.cache": f"{out}/latents"}
        if job == "latents":
            values |= {"model": str(self.found(_PIPELINE)), **world.student, **world.students["staged"]}
            values = {key: value for key, value in values.items() if not key.startswith(("train.", "loss."))}
            words = ["encode", f"{CONFIGS}/staged.yaml", "--device", self.device, *keys(values)]
            return [
                [*words, "--shard", f"{number}/{world.encoders}"] for number in range(1, 1 + world.encoders)
            ]
        values["model"] = f"{out}/teacher-more/final"
        if job in world.students:
            values |= world.student | world.students[job]
            return [["distill", f"{CONFIGS}/{job}.yaml", "--out", f"{out}/students/{job}", *keys(values)]]
        if job == "decoder":
            values |= {"held_out.manifest": f"{out}/choose/manifest.jsonl", **world.decoder}
            values |= {"train.mixed_precision": "bf16"} if self.device == "cuda" else {}
            return [["decoder", f"{CONFIGS}/decoder.yaml", "--out", f"{out}/decoder", *keys(values)]]
        assert job == "evaluation"
        return [["evaluate", str(self.evaluation()), *flags({"out": out / job, "device": self.device})]]

    def timed(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options of a training that ends with this part at the latest."""
        return {**options, "minutes": round(max(0.01, min(options["minutes"], self.minutes_left)), 3)}

    def evaluation(self) -> Path:
        """Write the evaluation's config for this folder, without rows of models that were not made."""
        config = load_config_as(EvaluateConfig, CONFIGS / "evaluate.yaml", self.world.evaluate)
        values = yaml.safe_load(dump_config(config).replace("out/world/", f"{self.out}/"))
        rows = []
        for row in values["rows"]:
            made = (row.get("model"), row.get("through_vae_of"), row.get("decoder"))
            if all(Path(path).exists() for path in made if path is not None):
                rows.append(row)
            if row["kind"] == "real" and values["num_prompts"]:
                samples = values["samples_per_prompt"]
                row["clips"] |= {"samples_per_prompt": samples, "count": values["num_prompts"] * samples}
        names = [row["key"] for row in rows]
        values |= {"rows": rows, "against": [key for key in values["against"] if key in names]}
        write_text(self.out / "evaluate.yaml", yaml.safe_dump(values, sort_keys=False))
        return self.out / "evaluate.yaml"

    def check(self, part: str) -> None:
        """Find out at once whether a part lacks what it does not make itself.

        Raises:
            ValueError: if so.
        """
        earlier: list[str] = []
        for group in PARTS[part]:
            for names in (names for job in group if not self.is_done(job) for names in JOBS[job].needs):
                if not any(name.split("/")[0] in earlier for name in names.split("|")):
                    self.found(names)
            earlier += group
        wanted = [f"{code}.webp" for code in corpus.SUBJECTS.values()]
        if missing := [name for name in wanted if not (corpus.EMOJI_FOLDER / name).is_file()]:
            raise ValueError(
                f"{corpus.EMOJI_FOLDER}: lacks {missing[0]} and {len(missing) - 1} more; run `python -m "
                "tools.pocket.corpus fetch` where there is a network, and bring the folder."
            )

    def make(self, part: str) -> bool:
        """Make what a part has not made yet, for as long as there is time; returns whether it is finished."""
        for group in PARTS[part]:
            jobs = [job for job in group if not self.is_done(job)]
            for job in jobs:
                options = self.world.teachers.get(job, self.world.vae if job == "vae" else {})
                if self.minutes_left < options.get("minutes", 0) / 2:
                    say(f"{job}: {self.minutes_left:.1f} minutes are too few to begin with.")
                    return False
            if not self.run(jobs):
                return False
        return True

    def run(self, jobs: Sequence[str]) -> bool:
        """Run the commands of several jobs side by side; returns whether all of them came to their end in time."""
        environment = {"PYTHONUNBUFFERED": "1"}
        if self.device == "cpu":
            environment["ACCELERATE_USE_CPU"] = "true"
        commands = {job: self.commands(job) for job in jobs}
        run_side_by_side(commands, self.out / "logs", self.deadline, environment, self.finish)
        return all(self.is_done(job) for job in jobs)

    def finish(self, job: str, seconds: float) -> None:
        """Note that a job came to its end."""
        for folder in JOBS[job].halves:
            parcel.halve(self.out / folder)
        report = self.report()
        report["machine"] = machine_name(choose_device(self.device))
        report.setdefault("seconds", {})[job] = round(seconds, 1)
        if job == "vae":
            report["vae"] = json.loads((self.out / "vae" / "report.json").read_text())
        write_json(self.out / REPORT, report)
        (self.out / "done").mkdir(exist_ok=True)
        write_text(self.out / "done" / job, "")
        say(f"{job}: done in {seconds:.0f} s")

    def report(self) -> dict[str, Any]:
        """What is known of what was made so far."""
        path = self.out / REPORT
        return json.loads(path.read_text()) if path.is_file() else {}

    def deliver(self, part: str, target: Path) -> None:
        """Pack what a part has made so far."""
        done = [job for group in PARTS[part] for job in group if self.is_done(job)]
        groups = [[*JOBS[job].keeps, f"done/{job}"] for job in done if JOBS[job].keeps]
        left_out = parcel.pack(self.out, [*groups, ["logs"]], target, part, self.report())
        for job in done:
            pictures = sorted(self.out.glob(JOBS[job].picture)) if JOBS[job].picture else []
            for picture in pictures[-1:]:
                shutil.copyfile(picture, target / f"{job}{picture.suffix}")
        say(f"delivered to {target}" + (f", without {', '.join(left_out)}" if left_out else ""))


def say(text: str) -> None:
    """Tell how it goes."""
    print(text, file=sys.stderr, flush=True)


def part_named(text: str) -> str:
    """A part by its name or its number from 1.

    Raises:
        ValueError: if there is none.
    """
    names = list(PARTS)
    if text.isdecimal() and 1 <= int(text) <= len(names):
        return names[int(text) - 1]
    if text not in names:
        known = ", ".join(f"{number} {name}" for number, name in enumerate(names, 1))
        raise ValueError(f"--part: got {text!r}, expected one of {known}.")
    return text


def run(arguments: argparse.Namespace) -> int:
    """Run a part; returns 1 if it is not finished, else 0."""
    part, out = part_named(arguments.part), arguments.out
    if not arguments.minutes > 0:
        raise ValueError(f"--minutes: got {arguments.minutes:g}, expected more than 0.")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device: got cuda, which does not work here; try `--device cpu --rehearse`.")
    world = load_config_as(World, CONFIGS / ("rehearsal.yaml" if arguments.rehearse else "world.yaml"))
    deadline = time.monotonic() + 60 * arguments.minutes - (0 if arguments.rehearse else RESERVE_SECONDS)
    maker = Maker(out, world, arguments.device, deadline)
    with alone_in(out):
        for folder in arguments.from_ or ():
            parcel.unpack(folder, out)
        if all(maker.is_done(job) for group in PARTS[part] for job in group):
            say(f"part {part} is finished already: nothing to do.")
            return 0
        maker.check(part)
        try:
            finished = maker.make(part)
        finally:
            if arguments.deliver is not None:
                maker.deliver(part, arguments.deliver)
        say(f"part {part} is " + ("finished." if finished else "not finished: run it again to go on."))
        return 0 if finished else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", required=True, help=f"name or number: {', '.join(PARTS)}")
    parser.add_argument("--out", type=Path, default=Path("out/world"))
    parser.add_argument("--minutes", type=float, default=9.0, help="after which it stops")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rehearse", action="store_true", help="everything tiny, with --device cpu")
    parser.add_argument("--deliver", type=Path, help="folder for what the part made, in files below 16 MiB")
    parser.add_argument("--from", dest="from_", type=Path, nargs="+", help="folders that --deliver wrote")
    arguments = parser.parse_args(argv)
    # Stopped by `timeout` or the like, it must not leave behind what it started.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        return run(arguments)
    except RuntimeError as error:
        say(f"error: {error}")
        return 1
    except (ValueError, OSError) as error:
        say(f"error: {error}")
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
