"""What lies in a student's folder, read and checked: `student.json`, its stages, its decoder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swd_video.core.decoder import StreamingDecoder
from swd_video.core.schedule import ScaleSchedule
from swd_video.models.checkpoints import (
    SCHEDULER_CONFIG_NAME,
    check_kinds,
    errors_in_one_line,
    read_json,
    require,
)
from swd_video.models.loading import DECODER_FILE_NAME, STUDENT_FILE_NAME
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.pipeline import POSITIONS

FORMAT = 1
SCHEDULER_FOLDER = "scheduler"
_KINDS = ("full", "lora")
_AS_THEY_ARE = ("base_model", "kind", "positions", "transformer_file", "made_of", "adapter", "draft_stages")


@dataclass(frozen=True)
class PixelNetwork:
    """A network of pixels that trained a student, and therefore must not judge it.

    Attributes:
        name: a packaged name, a folder or a hub name.
        fingerprint: of a folder's files, which tells a copy of them; else empty.
    """

    name: str
    fingerprint: str = ""


def read_facts(folder: Path) -> dict[str, Any]:
    """What `student.json` says, as fields of `Student`.

    Raises:
        ValueError: if it is not what this version writes; `check_draft_stages` is left to the caller.
    """
    path = folder / STUDENT_FILE_NAME
    facts = {"positions": "native", **read_json(path)}
    base, kind, networks = (facts.get(key) for key in ("base_model", "kind", "encoders"))
    file, made_of, adapter = (facts.get(key) for key in ("transformer_file", "made_of", "adapter"))
    for key, holds, expected in (
        ("format", facts.get("format") == FORMAT, f"{FORMAT}, as this version writes"),
        ("kind", kind in _KINDS, " or ".join(_KINDS)),
        ("base_model", isinstance(base, str) and base != "", "a model's name"),
        ("positions", facts["positions"] in POSITIONS, " or ".join(POSITIONS)),
        ("encoders", networks is None or _are_networks(networks), "a list of names and fingerprints"),
        (
            "transformer_file",
            file is None or (isinstance(file, str) and kind == "lora"),
            "a path, for a LoRA",
        ),
        ("made_of", isinstance(made_of, dict | None), "digests and settings by name"),
        ("adapter", isinstance(adapter, str | None), "module:Class"),
    ):
        require(holds, path, key, facts.get(key), expected)
    return {
        **{key: facts.get(key) for key in _AS_THEY_ARE},
        "trained_through": None if networks is None else tuple(PixelNetwork(**entry) for entry in networks),
    }


def check_draft_stages(path: Path, count: Any, schedule: ScaleSchedule) -> None:
    """Refuse what is no number of a schedule's stages; None, not measured, is none that is wrong.

    Raises:
        ValueError: if it is; the message names the file at `path`.
    """
    holds = count is None or (type(count) is int and 1 <= count <= len(schedule))
    require(holds, path, "draft_stages", count, f"a number of stages, from 1 to {len(schedule)}")


def read_scheduler(folder: Path) -> ScaleWiseFlowMatchScheduler:
    """The stages of a student, from their own folder.

    Raises:
        ValueError: if it holds no scale-wise scheduler.
    """
    path = folder / SCHEDULER_CONFIG_NAME
    config, expected = read_json(path), ScaleWiseFlowMatchScheduler.__name__
    require(config.get("_class_name") == expected, path, "_class_name", config.get("_class_name"), expected)
    require(isinstance(config.get("stages"), list), path, "stages", config.get("stages"), "a list of stages")
    check_kinds(path, ScaleWiseFlowMatchScheduler, config)
    with errors_in_one_line(path):
        scheduler: ScaleWiseFlowMatchScheduler = ScaleWiseFlowMatchScheduler.from_pretrained(folder)
    return scheduler


def read_decoder(folder: Path | None) -> StreamingDecoder | None:
    """What a student's clips are shown through in the VAE's place, where its folder holds that."""
    path = None if folder is None else folder / DECODER_FILE_NAME
    return StreamingDecoder.load(path) if path is not None and path.is_file() else None


def _are_networks(listed: Any) -> bool:
    return isinstance(listed, list) and all(
        isinstance(entry, dict)
        and {"name"} <= entry.keys() <= {"name", "fingerprint"}
        and all(isinstance(text, str) for text in entry.values())
        for entry in listed
    )
