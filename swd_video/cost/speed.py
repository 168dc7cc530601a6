"""Cost: seconds by part, several samplers interleaved in one process, and counted TFLOPs."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import numpy as np
import torch
from torch import nn

from swd_video.core.interval import Estimate
from swd_video.cost.counting import FlopCounter
from swd_video.models.devices import cpu_name


@dataclass
class Timing:
    """Wall seconds of one run.

    Attributes:
        total: Seconds of the whole call.
        parts: Seconds inside each timed module.
        calls: Forward passes of each timed module.
        processor: Seconds of the processor's work for this process, which other programs do not stretch.
    """

    total: float
    parts: dict[str, float]
    calls: dict[str, int]
    processor: float = 0.0


@dataclass(frozen=True)
class Sampler:
    """Something to time: a call that makes one clip, and the modules whose share is wanted.

    Attributes:
        run: Makes one clip.
        modules: Named modules timed apart, such as `transformer`, `text_encoder`, `vae`; none inside another.
    """

    run: Callable[[], object]
    modules: Mapping[str, nn.Module] = field(default_factory=dict)


def time_once(sampler: Sampler) -> Timing:
    """Time one run, with the seconds inside each named module measured by forward hooks."""
    parts = dict.fromkeys(sampler.modules, 0.0)
    calls = dict.fromkeys(sampler.modules, 0)
    started: dict[str, float] = {}

    def enter(name: str) -> None:
        started[name] = _now()

    def leave(name: str) -> None:
        parts[name] += _now() - started.pop(name)
        calls[name] += 1

    with _hooked(sampler.modules, enter, leave):
        begin, worked = _now(), time.process_time()
        sampler.run()
        total, worked = _now() - begin, time.process_time() - worked
    return Timing(total, parts, calls, worked)


def time_interleaved(
    samplers: Mapping[str, Sampler],
    *,
    rounds: int,
    warmup: int = 1,
    on_run: Callable[[str, Timing], None] | None = None,
) -> dict[str, list[Timing]]:
    """Time samplers side by side: every round runs each once, starting one further each time.

    Interleaving spreads whatever else the machine does over all of them; the rotation spreads order effects.

    Returns:
        For each name, its `rounds` timings in order.
    """
    names = list(samplers)
    timings: dict[str, list[Timing]] = {name: [] for name in names}
    for name in names:
        for _ in range(warmup):
            samplers[name].run()
    for turn in range(rounds):
        first = turn % max(len(names), 1)
        for name in names[first:] + names[:first]:
            timing = time_once(samplers[name])
            timings[name].append(timing)
            if on_run is not None:
                on_run(name, timing)
    return timings


def by_stage(parts: Mapping[str, float]) -> dict[str, float]:
    """Seconds or operations by part, where the transformer's hold those of what takes its clips from grid to grid."""
    if "transformer" not in parts:
        return dict(parts)
    between = parts.keys() - {"transformer", "text_encoder", "vae", "decoder"}
    return {**parts, "transformer": parts["transformer"] + sum(parts[name] for name in between)}


def median_seconds(timings: list[Timing], part: str | None = None) -> Estimate:
    """Median seconds of runs, of the whole call or of one part, with a bootstrap interval of the median."""
    seconds = np.array([t.total if part is None else by_stage(t.parts)[part] for t in timings])
    draws = np.median(np.random.default_rng(0).choice(seconds, size=(2000, len(seconds))), axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return Estimate(float(median(seconds)), float(low), float(high), len(seconds))


def count_tflops(run: Callable[[], object], modules: Mapping[str, nn.Module]) -> dict[str, float]:
    """TFLOPs spent inside each named module during one call; a multiplication and an addition count as two."""
    counter = FlopCounter()
    totals = dict.fromkeys(modules, 0)
    started: dict[str, int] = {}

    def enter(name: str) -> None:
        started[name] = counter.flops.total()

    def leave(name: str) -> None:
        totals[name] += counter.flops.total() - started.pop(name)

    with counter, _hooked(modules, enter, leave):
        run()
    return {name: flops / 1e12 for name, flops in totals.items()}


def machine_name(device: str | torch.device) -> str:
    """What computes on a device: the processor, and the GPU where it is one."""
    kind = torch.device(device).type
    gpu = torch.cuda.get_device_name(device) if kind == "cuda" else kind
    return cpu_name() if kind == "cpu" else f"{gpu}, {cpu_name()}"


@contextmanager
def _hooked(
    modules: Mapping[str, nn.Module], enter: Callable[[str], None], leave: Callable[[str], None]
) -> Iterator[None]:
    handles = []
    for name, module in modules.items():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: enter(name)))
        handles.append(module.register_forward_hook(lambda *_, name=name: leave(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
