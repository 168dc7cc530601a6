"""How long clips take: as they took here before, else by their counted operations."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import torch

from swd_video.core.grid import PixelSize
from swd_video.cost.gpus import load_gpus
from swd_video.models.devices import device_name
from swd_video.studio.clips import PlannedClip
from swd_video.studio.model import ScriptModel

UTILISATION = {"cpu": 0.25, "cuda": 0.5, "mps": 0.25}
"""Share of a device's speed at products of matrices that a clip is assumed to be made at, where none was timed."""

_PROBE_SIZES, _PROBE_SECONDS = (128, 1024), 0.1


def estimate_seconds(
    clips: Sequence[PlannedClip], model: ScriptModel, report: Mapping[str, Any], precision: torch.dtype
) -> dict[str, Any] | None:
    """Seconds for some clips, at least one, with the model loaded.

    `report` is of an earlier run in the same folder, as `render.json` holds it.

    Returns:
        "seconds", "clip_seconds" on average, "from" ("measured" or "counted") and "machine"; None where operations of
        the model cannot be counted.
    """
    machine = device_name(model.device)
    timed = _timed(report, model, machine)
    counts = Counter(clip.size for clip in clips)
    seconds = {size: timed[size] for size in counts if size in timed}
    if missing := counts.keys() - timed.keys():
        operations = _operations({*missing, *timed}, model)
        if operations is None:
            return None
        speed = (
            sum(operations[size] for size in timed) / sum(timed.values())
            if timed
            else _speed(model.device, machine, precision)
        )
        seconds |= {size: operations[size] / speed for size in missing}
    total = sum(count * seconds[size] for size, count in counts.items())
    return {
        "seconds": total,
        "clip_seconds": total / len(clips),
        "from": "measured" if timed else "counted",
        "machine": machine,
    }


def _timed(report: Mapping[str, Any], model: ScriptModel, machine: str) -> dict[PixelSize, float]:
    """Median seconds of clips by their size, where this model made them on this machine in the same way."""
    made = {
        "model_fingerprint": model.fingerprint,
        "device": model.device,
        "dtype": model.dtype,
        "machine": machine,
        "decoder": model.decoder or None,
    }
    if any(report.get(key) != value for key, value in made.items()):
        return {}
    times: dict[PixelSize, list[float]] = {}
    for entry in report.get("shots", []):
        try:
            last = entry["stages"][-1]
            size = PixelSize(last["frames"], last["height"], last["width"])
            seconds = sum(float(stage["seconds"]) for stage in entry["stages"])
            times.setdefault(size, []).append(seconds + float(entry["finish_seconds"]))
        except (KeyError, IndexError, TypeError, ValueError):
            continue
    return {size: median(some) for size, some in times.items()}


def _operations(sizes: Iterable[PixelSize], model: ScriptModel) -> dict[PixelSize, int] | None:
    found = {}
    for size in sizes:
        schedule = model.schedule_of(size)
        counted = model.count_draft(schedule, len(schedule))
        if counted is None:
            return None
        found[size] = counted[1]
    return found


def _speed(device: str, machine: str, precision: torch.dtype) -> float:
    """Operations a second that a clip is assumed to be made at."""
    bf16 = precision != torch.float32
    known = [gpu for name, gpu in load_gpus().items() if device == "cuda" and name.split("-")[0] in machine]
    peak = known[0].peak_flops(bf16=bf16) if known else _matrix_speed(device, precision)
    return UTILISATION[device] * peak


def _matrix_speed(device: str, precision: torch.dtype) -> float:
    """Operations a second of a product of matrices, tried: a small one, and a large one where that takes no seconds."""
    speed = 0.0
    for size in _PROBE_SIZES:
        if speed and 2 * size**3 / speed > 10 * _PROBE_SECONDS:  # bfloat16 on a processor that has none
            break
        one = torch.ones(size, size, device=device, dtype=precision)
        (one @ one).sum().item()
        count, began = 0, time.perf_counter()
        while (passed := time.perf_counter() - began) < _PROBE_SECONDS or not count:
            (one @ one)[0, 0].item()  # waits for the device
            count += 1
        speed = 2 * size**3 * count / passed
    return speed
