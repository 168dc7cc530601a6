"""A run that came to its end and is asked for again."""

import json
import sys
from dataclasses import replace
from pathlib import Path

from swd_video.config import dump_config
from swd_video.files import write_text
from swd_video.models.fsdp import join_processes
from swd_video.student.student import STUDENT_FOLDER, Student
from swd_video.training.config import DistillConfig, load_config
from swd_video.training.loop import SUMMARY_FILE, TrainSummary
from swd_video.training.provenance import (
    CONFIG_FILE,
    check_record,
    check_same_run,
    digests_of_model,
    known_now,
)


def finished_summary(
    config: DistillConfig, folder: Path, config_file: str = CONFIG_FILE
) -> TrainSummary | None:
    """What an earlier run of the same config left in `folder`, if it came to its end and what it made is still there.

    Raises:
        ConfigError: if the folder holds a run of another config.
    """
    changed = check_same_run(config, folder, config_file)
    path = folder / SUMMARY_FILE
    if not path.is_file():
        return None
    try:
        summary = TrainSummary(**json.loads(path.read_text(encoding="utf-8")))
        # Below the folder where it lies now: a run may have been moved, or copied.
        summary = replace(summary, student=str(folder / Path(summary.student).name))
        is_there = Path(summary.student).is_dir()
    except (ValueError, TypeError):
        return None  # damaged: the last checkpoint says the same, and all is written again
    if not is_there or summary.steps != config.train.steps:
        return None
    check_record(folder, known_now(lambda: digests_of_model(config), config.data.cache))
    if "train.kept_share" in changed:
        return None  # no step is missing, and the student is written anew
    if changed and join_processes().is_main_process:
        _take_late(config, folder, config_file, changed)
    return summary


def _take_late(config: DistillConfig, folder: Path, config_file: str, changed: list[str]) -> None:
    """What changed once a run was finished: its student takes another decoder; all else is about steps."""
    if "load.decoder" in changed and config_file == CONFIG_FILE:
        changed = [key for key in changed if key != "load.decoder"]
        decoder = config.load.decoder
        Student.load(folder / STUDENT_FOLDER).carry_decoder(decoder if isinstance(decoder, Path) else None)
        saved = load_config(folder / config_file, {"load.decoder": decoder})
        write_text(folder / config_file, dump_config(saved), durable=True)
    if changed:
        print(
            f"note: {folder} is finished, so {', '.join(changed)} changed nothing; raise train.steps, or choose "
            "another --out.",
            file=sys.stderr,
        )
