"""`swd-video export STUDENT --out DIR`: a student in a form that other tools load, with a model card."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from swd_video.student.card import TrainingFacts

HELP = "export a student as a diffusers LoRA or pipeline folder, with a model card"

# Of a run's config, what says how the student was trained, less what only says how the run was watched.
_SETTINGS = ("seed", "train.", "loss.")
_UNTOLD = (
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.sample_every",
    "train.sample_prompts",
    "train.log_every",
)
_FIGURES = ("steps", "seconds", "seconds_per_step")


@dataclass(frozen=True)
class Arguments:
    """Options of `swd-video export`."""

    student: tyro.conf.Positional[str]
    """The student: the student/ folder of a run, or a shipped one such as pocket-wan-swd."""
    out: Path
    """Folder of the export; one that is there is replaced, anything else is left alone."""
    form: Literal["lora", "merged"] | None = None
    """lora: a file of the additions; merged: a whole pipeline folder. Default: what the student was trained as."""
    base: str | None = None
    """Hub name of the teacher, for the card, where the student was trained from a folder."""
    license: str | None = None
    """Licence for the card, for example apache-2.0. Default: the base model's, where its folder says so."""
    push: str | None = None
    """Upload the folder to this hub repository, OWNER/NAME, which is made where it is missing."""
    json_output: Annotated[bool, tyro.conf.arg(name="json")] = field(default=False)
    """Print one JSON object on stdout: folder, form, base_model, license, files, pushed."""


def run(argv: list[str]) -> int:
    """Export a student and return 0.

    Raises:
        ValueError: the student, its form or an option does not fit.
        OSError: the hub could not be reached or refused.
    """
    arguments = tyro.cli(
        Arguments,
        prog="swd-video export",
        description=HELP,
        args=argv,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    from swd_video.student.export import check_push, export_student, push_folder, student_base_name

    if arguments.push is not None:
        check_push(arguments.push, student_base_name(arguments.student, arguments.base, arguments.out))
    done = export_student(
        arguments.student,
        arguments.out,
        form=arguments.form,
        base_model=arguments.base,
        license=arguments.license,
        training=_training_facts(Path(arguments.student)),
        repo=arguments.push,
    )
    _say(f"{done.form} of a student of {done.base_model}: {done.folder}, {len(done.files)} files")
    if done.license is None:
        _say("the licence of the base model is not known here; name it with --license")
    pushed = None if arguments.push is None else push_folder(done.folder, arguments.push)
    if pushed is not None:
        _say(f"pushed to {pushed}")
    if arguments.json_output:
        report = {
            "folder": str(done.folder.resolve()),
            "form": done.form,
            "base_model": done.base_model,
            "license": done.license,
            "files": done.files,
            "pushed": pushed,
        }
        print(json.dumps(report))
    return 0


def _training_facts(student: Path) -> "TrainingFacts":
    """What the run's folder, around the student's, says."""
    from swd_video.config import flatten
    from swd_video.models.checkpoints import read_json, require
    from swd_video.student.card import TrainingFacts
    from swd_video.training.config import load_config

    run_folder = student.absolute().parent
    summary_path, config_path = run_folder / "train.json", run_folder / "config.yaml"
    summary: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    if student.is_dir() and summary_path.is_file():
        summary = read_json(summary_path)
        for key in _FIGURES:
            number = isinstance(summary.get(key, 0), int | float)
            require(number, summary_path, key, summary.get(key), "a number")
        losses = summary.get("stage_losses", [])
        numbers = isinstance(losses, list) and all(isinstance(loss, int | float | None) for loss in losses)
        require(numbers, summary_path, "stage_losses", losses, "a list of numbers")
    if student.is_dir() and config_path.is_file():
        settings = {
            key: value
            for key, value in flatten(load_config(config_path)).items()
            if key.startswith(_SETTINGS) and key not in _UNTOLD and value is not None
        }
    return TrainingFacts(
        summary={name: summary[name] for name in _FIGURES if name in summary},
        stage_losses=summary.get("stage_losses", ()),
        settings=settings,
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr)
