"""Time a transformer of true size, with random weights, against the operations that the plan counts.

    python -m tools.real_size                       # Wan2.1-1.3B on SwD's stages, shrunk to 13x16x28 latents
    python -m tools.real_size CONFIG --size 13x16x28 --repeats 3 --json

The model's config files give the shape; no weights are loaded. One scale-wise clip is sampled on the config's
schedule, shrunk so that a CPU can pay for it, several times over; then one with as many steps, all of full size. The
fastest time of each stage counts, the first clip being the warm-up. Text encoder and VAE are not run.
"""

import json
import platform
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import Tensor, nn

from swd_video.core.grid import LatentSize
from swd_video.core.resize import resize_latents
from swd_video.core.sampling import sample_scalewise
from swd_video.core.schedule import ScaleSchedule, Stage
from swd_video.cost.architecture import Architecture, load_architecture
from swd_video.cost.networks import Transformer
from swd_video.cost.process_memory import highest_resident_bytes
from swd_video.training.config import load_config

_TERA = 1e12


@dataclass(frozen=True)
class Arguments:
    """What to time."""

    config: tyro.conf.Positional[Path] = Path("configs/wan2.1_1.3b/swd_4stage.yaml")
    """A distillation's config: its model and its schedule."""
    size: str = "13x16x28"
    """Latents of the last stage; the other stages keep their share of it on each axis."""
    repeats: int = 3
    """Clips sampled scale-wise. The full-size steps run once: each repeats the one before."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of the weights."""
    threads: int | None = None
    """Of torch; default its own choice."""
    json_output: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON object instead of a table."""


@dataclass(frozen=True)
class StageTime:
    """One evaluation of the transformer: what was predicted and what was measured.

    Attributes:
        grid: latents, as "13x16x28".
        sigma: noise level.
        tokens: of the transformer.
        tflops: as the plan counts them.
        attention_tflops: those of them that are products of queries, keys and values.
        seconds: the fastest of the repeats.
    """

    grid: str
    sigma: float
    tokens: int
    tflops: float
    attention_tflops: float
    seconds: float


def random_transformer(architecture: Architecture, dtype: torch.dtype) -> nn.Module:
    """The architecture's transformer on the CPU, with the random weights that diffusers gives it."""
    described: Any = architecture.parts["transformer"]
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # never in float32 first: that would take twice the memory
    try:
        network = type(described).from_config(described.config)
    finally:
        torch.set_default_dtype(default)
    return network.eval().requires_grad_(False)


def at_full_size(schedule: ScaleSchedule) -> ScaleSchedule:
    """The same noise levels, all on the last grid."""
    return ScaleSchedule(tuple(Stage(sigma, schedule.target) for sigma in schedule.sigmas))


@torch.no_grad()
def clip_seconds(architecture: Architecture, network: Any, schedule: ScaleSchedule) -> list[float]:
    """Sample one clip; seconds that the transformer took in each stage."""
    spec, seconds = architecture.spec, []
    generator = torch.Generator().manual_seed(0)
    prompt_embeds = torch.randn(1, spec.text_length, spec.text_dim, generator=generator).to(network.dtype)

    def predict_velocity(noisy_latents: Tensor, sigma: float, stage_index: int) -> Tensor:
        started = time.perf_counter()
        attention = schedule[stage_index].attention
        velocity = architecture.model.predict_velocity(
            noisy_latents, sigma, prompt_embeds, transformer=network, attention=attention
        )
        seconds.append(time.perf_counter() - started)
        print(f"{schedule[stage_index].grid}: {seconds[-1]:.2f} s", file=sys.stderr, flush=True)
        return velocity

    latents = sample_scalewise(
        predict_velocity,
        schedule,
        batch_size=1,
        channels=spec.latent_channels,
        upsample=resize_latents,
        generator=generator,
        dtype=network.dtype,
    )
    assert latents.isfinite().all()
    return seconds


def measure(
    architecture: Architecture, network: nn.Module, schedule: ScaleSchedule, repeats: int
) -> tuple[list[StageTime], list[StageTime]]:
    """Time the stages of a schedule, and as many steps of full size.

    Returns:
        (stages, full-size steps).
    """
    full = at_full_size(schedule)
    clips = [clip_seconds(architecture, network, schedule) for _ in range(repeats)]
    fastest = [min(times) for times in zip(*clips, strict=True)]
    full_fastest = min(clip_seconds(architecture, network, full))
    counter = Transformer(architecture)
    return (
        _stage_times(counter, architecture, schedule, fastest),
        _stage_times(counter, architecture, full, [full_fastest] * len(full)),
    )


def _stage_times(
    counter: Transformer, architecture: Architecture, schedule: ScaleSchedule, seconds: list[float]
) -> list[StageTime]:
    tokens = schedule.tokens(architecture.spec.compression)
    rows = []
    for stage, number, spent in zip(schedule, tokens, seconds, strict=True):
        cost = counter.evaluation(stage.grid, stage.attention)
        flops, attention = cost.forward / _TERA, cost.attention / _TERA
        rows.append(StageTime(str(stage.grid), stage.sigma, number, flops, attention, spent))
    return rows


def summarise(stages: list[StageTime], full: list[StageTime]) -> dict[str, Any]:
    """Totals, and the cost of the clip as a share of the full-size steps': predicted and measured."""
    sums = {
        name: (sum(row.tflops for row in rows), sum(row.seconds for row in rows))
        for name, rows in (("stages", stages), ("full", full))
    }
    predicted, measured = (sums["stages"][index] / sums["full"][index] for index in (0, 1))
    return {
        "stages": [asdict(row) for row in stages],
        "full_steps": [asdict(row) for row in full],
        "clip_tflops": sums["stages"][0],
        "clip_seconds": sums["stages"][1],
        "full_tflops": sums["full"][0],
        "full_seconds": sums["full"][1],
        "predicted_ratio": predicted,
        "measured_ratio": measured,
        "ratio_deviation": measured / predicted - 1,
    }


def describe(result: dict[str, Any]) -> str:
    """The result as a table and a verdict."""
    lines = [
        f"{result['model']} ({result['parameters'] / 1e9:.3g} billion weights, {result['dtype']}) on {result['cpu']}, "
        f"{result['threads']} threads",
        f"{'':12}{'latents':>12}{'tokens':>8}{'TFLOPs':>9}{'attention':>11}{'seconds':>9}{'GFLOP/s':>9}",
    ]
    rows = [(f"stage {number}", row) for number, row in enumerate(result["stages"], start=1)]
    for name, row in [*rows, ("full step", result["full_steps"][0])]:
        attention = row["attention_tflops"] / row["tflops"]
        speed = 1000 * row["tflops"] / row["seconds"]
        lines.append(
            f"{name:12}{row['grid']:>12}{row['tokens']:>8}{row['tflops']:>9.3f}{attention:>11.0%}"
            f"{row['seconds']:>9.2f}{speed:>9.0f}"
        )
    for name, label in (("clip", "clip"), ("full", f"{len(result['full_steps'])} full steps")):
        lines.append(f"{label:12}{result[f'{name}_tflops']:>29.3f}{result[f'{name}_seconds']:>20.2f}")
    lines.append(
        f"clip : full steps, predicted {result['predicted_ratio']:.3f}, measured {result['measured_ratio']:.3f} "
        f"({result['ratio_deviation']:+.1%}); peak memory {result['peak_gib']:.1f} GiB"
    )
    return "\n".join(lines)


def main() -> None:
    """Build the network, time it and print the comparison."""
    arguments = tyro.cli(Arguments, description=__doc__)
    if arguments.repeats < 1:
        raise ValueError(f"--repeats: got {arguments.repeats}, expected at least 1.")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    config = load_config(arguments.config)
    architecture = load_architecture(config.model)
    compression = architecture.spec.compression
    schedule = config.scale_schedule().scaled_to(LatentSize.parse(arguments.size), compression)
    network = random_transformer(architecture, getattr(torch, arguments.dtype))
    result = {
        "model": config.model,
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "dtype": arguments.dtype,
        "cpu": f"{platform.machine()} ({torch.backends.cpu.get_cpu_capability()})",
        "threads": torch.get_num_threads(),
        **summarise(*measure(architecture, network, schedule, arguments.repeats)),
        "peak_gib": highest_resident_bytes() / 2**30,
    }
    print(json.dumps(result) if arguments.json_output else describe(result))


if __name__ == "__main__":
    main()
