"""Run what only a GPU can show, part by part, and keep all that it says in one JSON file, with the card's name.

    python -m tools.on_gpu                           # every part that out/on_gpu.json does not hold yet
    python -m tools.on_gpu --only xformers decode    # those whose names contain one of the words, done or not
    python -m tools.on_gpu --config configs/wan2.1_1.3b/swd_4stage.yaml --size 13x16x28 --device cpu --only native

Models have their true size and random weights, after the config files that come with the package; nothing is
downloaded. Each part runs in a process of its own: of one that fails or is killed one line is kept, and the others run.
What is done is not run again; what failed is, after all that was not tried. On a CPU, peaks are those of the process so
far.
"""

import copy
import gc
import json
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn
from transformers import AutoTokenizer

from swd_video.core.decoder import DecoderLayout, StreamingDecoder
from swd_video.core.grid import LatentSize
from swd_video.cost.architecture import load_architecture
from swd_video.cost.gpus import load_gpus
from swd_video.cost.networks import Transformer
from swd_video.cost.plan import Assumptions, make_plan
from swd_video.cost.process_memory import highest_bytes, in_fresh_process, peak_gib_above
from swd_video.cost.speed import Sampler, machine_name, time_once
from swd_video.cost.training_benchmark import measure_training
from swd_video.data.sections import SynthesizeConfig
from swd_video.data.synthesize import synthesize
from swd_video.files import write_json
from swd_video.machine import examine
from swd_video.models.attention import set_attention
from swd_video.models.devices import Device, Precision, choose_device, choose_precision
from swd_video.models.loading import ASSETS, LoadOptions, prepare_pipeline
from swd_video.models.published_decoders import published_layout
from swd_video.models.spec import ModelSpec
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.pipeline import ScaleWisePipeline
from swd_video.training.config import DistillConfig, load_config
from swd_video.training.decoder_config import DecoderShapeConfig

GIB, TERA = 2**30, 1e12
CLIPS = {
    "native": LoadOptions(attention="native"),
    "xformers": LoadOptions(attention="xformers"),
    "model offload": LoadOptions(cpu_offload="model"),
    "sequential offload": LoadOptions(cpu_offload="sequential"),
}
"""Ways to sample a clip."""
KINDS = (*CLIPS, "text", "decode", "training")
PARTS = {
    "configs/wan2.1_1.3b/swd_4stage.yaml": KINDS,
    "configs/wan2.1_1.3b/ours_4stage_local.yaml": ("native", "xformers"),
    "configs/wan2.1_14b/4stage.yaml": (*CLIPS, "text", "decode"),
    "configs/wan2.1_14b/4stage_local.yaml": ("native", "xformers"),
}
TIMES_AS_LONG = 10
"""Decoding is measured at the clip's length, and at so many times of it: memory should not grow."""


@dataclass(frozen=True)
class Arguments:
    """What to run."""

    out: Path = Path("out/on_gpu.json")
    """Where results are kept."""
    config: Path | None = None
    """A distillation's config to run all parts for, instead of Wan2.1-1.3B's and 14B's."""
    only: tuple[str, ...] = ()
    """Run the parts whose names contain one of these words, done or not."""
    size: str | None = None
    """Latents of the last stage, as 13x16x28; the other stages keep their share of it on each axis."""
    repeats: int = 2
    """Clips sampled, after one that warms up; the fastest time of each stage counts."""
    device: Device = "auto"
    """Where to run; auto takes cuda, then mps, then cpu."""
    dtype: Precision = "auto"
    """Precision of sampling; auto takes bfloat16 on cuda and float32 elsewhere."""


def all_parts(config: Path | None) -> dict[str, tuple[str, str]]:
    """Kind and config of every part, by its name."""
    paths = PARTS if config is None else {str(config): KINDS}
    parts = {
        f"{Path(path).parent.name}/{Path(path).stem}: {kind}": (kind, path)
        for path, kinds in paths.items()
        for kind in kinds
    }
    return {"doctor": ("doctor", ""), **parts}


def measure(kind: str, path: str, arguments: Arguments) -> dict[str, Any]:
    """Run one part, in this process."""
    if kind == "doctor":
        return examine()
    config, name = load_config(path), choose_device(arguments.device)
    if arguments.size is not None:
        compression = load_architecture(config.model).spec.compression
        schedule = config.scale_schedule().scaled_to(LatentSize.parse(arguments.size), compression)
        config = load_config(path, {"schedule": schedule.as_dict()})
    device, dtype = torch.device(name), choose_precision(arguments.dtype, name)
    if kind == "text":
        return measure_text(config, device, dtype)
    if kind == "decode":
        return measure_decoders(config, device, dtype)
    if kind == "training":
        return measure_step(config, device, dtype)
    return measure_clip(config, device, dtype, CLIPS[kind], arguments.repeats)


def measure_clip(
    config: DistillConfig, device: torch.device, dtype: torch.dtype, options: LoadOptions, repeats: int
) -> dict[str, Any]:
    """Seconds and memory of every stage, beside the operations that `plan` counts."""
    architecture, schedule = load_architecture(config.model), config.scale_schedule()
    spec, counter = architecture.spec, Transformer(architecture)
    tokens = schedule.tokens(spec.compression)
    counts = [counter.evaluation(stage.grid, stage.attention) for stage in schedule]

    pipe, adapter = architecture.model.pipe, type(architecture.model)
    # Only what is sent to and fro needs its other networks.
    names = list(architecture.parts) if options.cpu_offload else architecture.transformers
    waits = torch.device("cpu") if options.cpu_offload else device
    parts = {name: random_part(architecture.parts[name], device, dtype).to(waits) for name in names}
    pipe.register_modules(**parts)
    if options.cpu_offload:
        prepare_pipeline(pipe, adapter, device=device, dtype=dtype, options=options)
    else:
        for network in parts.values():
            set_attention(network, options.attention, device=device, dtype=dtype, mask=adapter.attention_mask)
    model = adapter.from_pipeline(pipe, text_length=spec.text_length)
    sample = ScaleWisePipeline(model, ScaleWiseFlowMatchScheduler.from_schedule(schedule), config.positions)
    sample.set_progress_bar_config(disable=True)
    embeds = torch.randn(1, spec.text_length, spec.text_dim).to(device, dtype)
    runs: list[list[float]] = []
    peaks: list[list[float]] = []
    for _ in range(1 + repeats):
        take_peak(device)
        peaks.append([])
        clip = sample(
            prompt_embeds=embeds,
            output_type="latent",
            callback_on_step_end=lambda *_: peaks[-1].append(take_peak(device)),
        )
        runs.append(clip.stage_seconds)
    seconds = [min(times) for times in zip(*runs[1:], strict=True)]
    stages = [
        {
            "grid": str(stage.grid),
            "sigma": stage.sigma,
            "tokens": number,
            "tflops": count.forward / TERA,
            "attention_tflops": count.attention / TERA,
            "seconds": spent,
            "tflops_a_second": count.forward / TERA / spent,
            "peak_gib": peak,
        }
        for stage, number, count, spent, peak in zip(
            schedule, tokens, counts, seconds, peaks[-1], strict=True
        )
    ]
    return {
        "model": config.model,
        "options": options.model_dump(mode="json", exclude_defaults=True),
        "dtype": str(dtype),
        "weights_gib": sum(map(weights_gib, parts.values())),
        "stages": stages,
        "clip_seconds": sum(seconds),
        "clip_tflops": sum(row["tflops"] for row in stages),
    }


def measure_text(config: DistillConfig, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Seconds and memory of each text encoder on one prompt."""
    architecture, found = load_architecture(config.model), {}
    for name, length in architecture.model.text_tokens.items():
        encoder = random_part(architecture.parts[name], device, dtype)
        ids = torch.zeros(1, length, dtype=torch.long, device=device)
        found[name] = {
            "weights_gib": weights_gib(encoder),
            **measured(partial(encoder, input_ids=ids), device),
        }
    return {"model": config.model, "dtype": str(dtype), "text": found}


def measure_decoders(config: DistillConfig, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The VAE beside TAEHV's decoder, or where there is none one of our own, on a clip and on one ten times as long."""
    architecture, target = load_architecture(config.model), config.scale_schedule().target
    model, spec = architecture.model, architecture.spec
    vae = random_part(architecture.parts["vae"], device, dtype)
    model.pipe.register_modules(vae=vae)
    layout = default_layout(spec) if model.published_decoder is None else published_layout(model)
    tiny = StreamingDecoder(layout).to(device, dtype).requires_grad_(False).eval()
    decoders: dict[str, Callable[[Tensor], object]] = {
        "vae": lambda latents: deque(model.decode_in_parts(latents), maxlen=0),
        "tiny": lambda latents: deque(tiny.stream(latents), maxlen=0),
    }
    rows = []
    for name, decode in decoders.items():
        for frames in (target.frames, TIMES_AS_LONG * (target.frames - 1) + 1):
            latents = torch.randn(1, spec.latent_channels, frames, target.height, target.width, device=device)
            run = partial(decode, latents)
            found = attempt(lambda: measured(run, device))  # noqa: B023
            rows.append({"decoder": name, "latent_frames": frames, **found})
    return {"model": config.model, "dtype": str(dtype), "tiny_gib": weights_gib(tiny), "rows": rows}


def measure_step(config: DistillConfig, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """A training step of as many clips as the config takes at once, all on the last stage, beside its plan."""
    name, clips = config.model, config.train.micro_batch_size or config.train.batch_size
    with tempfile.TemporaryDirectory() as place:
        folder, cache = Path(place) / "model", Path(place) / "latents"
        save_random_model(name, folder, device, dtype)
        made = SynthesizeConfig(
            model=str(folder),
            prompts=tuple(f"clip {number}" for number in range(clips)),
            grids=tuple(map(str, config.scale_schedule().distinct_grids)),
            steps=1,
            guidance_scale=1,
            batch_size=1,
            dtype=str(dtype).removeprefix("torch."),  # type: ignore[arg-type]  # one of its three
        )
        synthesize(made, cache, device=device.type)
        weights = [1e-9] * (len(config.schedule) - 1) + [1.0]
        train = {"batch_size": clips, "stages_per_step": 1, "stage_weights": weights}
        values = config.model_dump(mode="json")
        values |= {"model": str(folder), "train": values["train"] | train}
        values["data"] |= {"manifest": None, "cache": str(cache)}
        config = DistillConfig.model_validate(values)
        plan = make_plan(config, list(load_gpus().values())[:1], 1, Assumptions())["training"]
        gc.collect()  # the model that made the latents would count too
        take_peak(device)
        found = measure_training(config, steps=1, rounds=1)
    planned = plan[plan["kind"]]["gpus"][0]
    return {
        "planned_tflops": planned["step_tflops"],
        "tflops_a_second": planned["step_tflops"] / found["step_seconds"],
        "planned_gib": planned["needed_gib"],
        **found,
        "model": name,
    }


def default_layout(spec: ModelSpec) -> DecoderLayout:
    """Widths and blocks as a config has them by default; patches are what the levels between leave."""
    default, compression = DecoderShapeConfig(), spec.compression
    levels = 2 ** (len(default.widths) - 1)
    patch = (max(1, compression.temporal // levels), max(1, compression.spatial // levels))
    return DecoderLayout.for_compression(
        compression, spec.latent_channels, default.widths, default.blocks, patch
    )


def save_random_model(name: str, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
    """A model's folder with random weights, and text encoders of one layer, as none runs in a step."""
    architecture = load_architecture(name)
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "pocket-wan" / "tokenizer")
    pipe, parts = architecture.model.pipe, {}
    for part, network in architecture.parts.items():
        if part.startswith("text_encoder"):
            parts[part] = one_layer(network, len(tokenizer)).to(dtype)
            parts[part.replace("text_encoder", "tokenizer")] = tokenizer
        else:
            parts[part] = random_part(network, device, dtype)
    scheduler = pipe.scheduler or FlowMatchEulerDiscreteScheduler()
    pipe.register_modules(**parts, scheduler=scheduler)
    pipe.save_pretrained(folder)


def one_layer(encoder: Any, vocabulary: int) -> nn.Module:
    """A text encoder like one that has no weights, with a single layer and another vocabulary."""
    config = copy.deepcopy(encoder.config)
    config.vocab_size = vocabulary
    for key in {"num_layers", "num_hidden_layers"} & set(config.to_dict()):
        setattr(config, key, 1)
    network: nn.Module = type(encoder)(config)
    return network


def random_part(described: Any, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A network like one that has no weights, with those that its class starts with."""
    default, kind, config = torch.get_default_dtype(), type(described), described.config
    torch.set_default_dtype(dtype)  # never in float32 first: that would take twice the memory
    try:
        with device:
            network = kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
    finally:
        torch.set_default_dtype(default)
    return network.eval().requires_grad_(False)


def measured(run: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Seconds of a call after one that warms up, and how much more memory it took than was held before."""
    with torch.no_grad():
        peak_gib = peak_gib_above(run, device)
        return {"seconds": time_once(Sampler(run)).total, "peak_gib_above_held": peak_gib}


def take_peak(device: torch.device) -> float:
    """GiB held at most, on CUDA since this was asked last."""
    peak = highest_bytes(device) / GIB
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    return peak


def weights_gib(network: nn.Module) -> float:
    """Of a network."""
    return sum(weight.numel() * weight.element_size() for weight in network.parameters()) / GIB


def attempt(call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a call finds, or in one line why it failed."""
    try:
        return call()
    except Exception as error:  # whatever went wrong is the finding
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        return {"error": f"{type(error).__name__}: {reason}"}


def run_part(kind: str, path: str, arguments: Arguments) -> dict[str, Any]:
    """`measure`, with the machine and the seconds that all of it took."""
    started = time.monotonic()
    found = measure(kind, path, arguments)
    return {
        "machine": machine_name(choose_device(arguments.device)),
        "part_seconds": time.monotonic() - started,
        **found,
    }


def main() -> int:
    """Run what is asked for; 1 if a part failed, else 0."""
    arguments = tyro.cli(Arguments, description=__doc__)
    record: dict[str, Any] = (
        json.loads(arguments.out.read_text()) if arguments.out.is_file() else {"parts": {}}
    )
    parts, done = all_parts(arguments.config), record["parts"]
    if arguments.only:
        chosen = [name for name in parts if any(word in name for word in arguments.only)]
    else:
        missing = [name for name in parts if name not in done or "error" in done[name]]
        chosen = sorted(missing, key=done.__contains__)
    if arguments.only and not chosen:
        raise SystemExit(f"--only: got {', '.join(arguments.only)}; the parts are {', '.join(parts)}.")
    for name in chosen:
        print(f"{name} ...", file=sys.stderr, flush=True)
        if "error" in done.setdefault(
            name, {"error": ""}
        ):  # what was measured before stays until it is measured anew
            done[name] = {"error": "did not come to its end"}
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.out, record)
        done[name] = attempt(lambda: in_fresh_process(run_part, *parts[name], arguments))  # noqa: B023
        record["card"] = done[name].get("machine", record.get("card"))
        write_json(arguments.out, record)
        print(json.dumps({name: done[name]}), flush=True)
    return int(any("error" in done[name] for name in chosen))


if __name__ == "__main__":
    raise SystemExit(main())
