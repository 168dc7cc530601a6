"""Puts the counts together: what a schedule costs to sample, to train and to store, as plain numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from swd_video.core.grid import LatentSize
from swd_video.core.schedule import ScaleSchedule
from swd_video.cost.architecture import Architecture
from swd_video.cost.counting import GraphFlops
from swd_video.cost.gpus import Gpu
from swd_video.cost.sampling_cost import SamplingCost, count_encoding, count_sampling
from swd_video.cost.step_cost import LossShape, SharedCounters, StageTraining, StepCounter
from swd_video.cost.training_cost import LoraShape, Trainable
from swd_video.cost.training_memory import (
    BFLOAT16_BYTES,
    FLOAT32_BYTES,
    Kind,
    TrainingSetup,
    TrainingSizes,
    latents_cache_bytes,
    memory_parts,
    what_would_fit,
)
from swd_video.cost.training_time import step_flops

GIB, MIB, TERA = 2**30, 2**20, 1e12


@dataclass(frozen=True)
class Assumptions:
    """What no config says and nobody can count.

    Attributes:
        utilisation: share of a GPU's peak speed that a run reaches.
        reserve: share of a GPU's memory left to the driver, work buffers and fragmentation.
        num_clips: clips in the latent cache, each with a caption of its own.
    """

    utilisation: float
    reserve: float
    num_clips: int

    def __post_init__(self) -> None:
        if not 0 < self.utilisation <= 1:
            raise ValueError(f"--utilisation: got {self.utilisation}, expected above 0 and at most 1.")
        if not 0 <= self.reserve < 1:
            raise ValueError(f"--reserve: got {self.reserve}, expected at least 0 and below 1.")
        if self.num_clips < 1:
            raise ValueError(f"--num-clips: got {self.num_clips}, expected at least 1.")


@dataclass(frozen=True)
class Request:
    """What is planned.

    Attributes:
        architecture: the teacher.
        schedule: the stages.
        setup: training as configured, for one GPU.
        lora: shape of low-rank additions, whether or not the config trains them.
        losses: what is trained on.
        stage_weights: how often each stage is drawn, relative to the others.
        steps: optimizer steps.
        extra_grids: encoded besides the schedule's.
        keep_checkpoints: how many stay on disk.
    """

    architecture: Architecture
    schedule: ScaleSchedule
    setup: TrainingSetup
    lora: LoraShape
    losses: LossShape
    stage_weights: tuple[float, ...]
    steps: int
    extra_grids: tuple[LatentSize, ...] = ()
    keep_checkpoints: int = 1


def make_plan(
    request: Request, gpus: Sequence[Gpu], num_gpus: int, assumptions: Assumptions
) -> dict[str, Any]:
    """Count everything; JSON can hold the result.

    Args:
        request: what is planned.
        gpus: kinds of GPU to plan for.
        num_gpus: most of them; every number up to it that can share the batch evenly is planned.
        assumptions: about speed, memory and data.

    Raises:
        ValueError: if the schedule, the compared block or the additions do not fit the model.
    """
    if num_gpus < 1:
        raise ValueError(f"--num-gpus: got {num_gpus}, expected at least 1.")
    kinds = _Kinds(request)
    # A student that is a copy of the teacher runs forward as the teacher does.
    cost = count_sampling(request.architecture, request.schedule, kinds.evaluation)
    spec = request.architecture.spec
    return {
        "model": request.architecture.name,
        "size": str(spec.compression.pixel_size(request.schedule.target)),
        "parameters": request.architecture.num_parameters,
        **_sampling(request, cost),
        "weights_gib": BFLOAT16_BYTES * sum(request.architecture.num_parameters.values()) / GIB,
        "sampling": [_clip_seconds(request.architecture, cost, gpu, assumptions) for gpu in gpus],
        "training": _training(request, kinds, gpus, num_gpus, assumptions),
        "latents_cache": _latents_cache(request, cost, gpus, assumptions),
        "assumptions": {
            "utilisation": assumptions.utilisation,
            "reserve": assumptions.reserve,
            "measured_on_a_gpu": False,
        },
    }


def _sampling(request: Request, cost: SamplingCost) -> dict[str, Any]:
    pixel_size = request.architecture.spec.compression.pixel_size
    stages = [
        {
            "frames": stage.grid.frames,
            "height": stage.grid.height,
            "width": stage.grid.width,
            "sigma": stage.sigma,
            "network": request.architecture.model.transformer_at(stage.sigma),
            "tokens": stage.tokens,
            "tflops": stage.flops / TERA,
            "attention_tflops": stage.attention_flops / TERA,
            "pixels": str(pixel_size(stage.grid)),
        }
        for stage in cost.stages
    ]
    clip = cost.transformer_flops + cost.vae_decode_flops + cost.text_encoder_flops
    return {
        "stages": stages,
        "transformer_tflops": cost.transformer_flops / TERA,
        "vae_decode_tflops": cost.vae_decode_flops / TERA,
        "text_encoder_tflops": cost.text_encoder_flops / TERA,
        "clip_tflops": clip / TERA,
        "vae_encode_tflops": cost.vae_encode_flops / TERA,
    }


def _clip_seconds(
    architecture: Architecture, cost: SamplingCost, gpu: Gpu, assumptions: Assumptions
) -> dict[str, Any]:
    parameters = architecture.num_parameters
    text_parameters = sum(count for name, count in parameters.items() if name.startswith("text_encoder"))

    def seconds(flops: int, num_parameters: int) -> float:
        # In bfloat16; a part is never faster than its weights can be read.
        computing = flops / (gpu.peak_flops(bf16=True) * assumptions.utilisation)
        return max(computing, BFLOAT16_BYTES * num_parameters / (gpu.bandwidth_gbps * 1e9))

    transformer = sum(seconds(stage.flops, parameters["transformer"]) for stage in cost.stages)
    text = seconds(cost.text_encoder_flops, text_parameters)
    decode = seconds(cost.vae_decode_flops, parameters["vae"])
    return {
        "gpu": gpu.name,
        "transformer_seconds": transformer,
        "text_encoder_seconds": text,
        "vae_decode_seconds": decode,
        "clip_seconds": transformer + text + decode,
    }


class _Kinds:
    """Counts of full and of LoRA training, each taken once, when first asked for."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._shared = SharedCounters(request.architecture, request.losses)
        shapes: dict[Kind, LoraShape | None] = {"full": None, "lora": request.lora}
        self._counters = {kind: StepCounter(self._shared, lora) for kind, lora in shapes.items()}
        self._sizes: dict[tuple[Kind, bool], TrainingSizes] = {}

    def sizes(self, setup: TrainingSetup) -> TrainingSizes:
        key = setup.kind, setup.bf16
        if key not in self._sizes:
            architecture, counter = self._request.architecture, self._counters[setup.kind]
            networks, one = architecture.transformers, counter.trainable
            self._sizes[key] = TrainingSizes(
                num_parameters=sum(architecture.num_parameters[name] for name in networks),
                trainable=Trainable(len(networks) * one.total, len(networks) * one.block_matrices),
                # The last stage's: grids never shrink.
                kept=counter.kept(self._request.schedule.target, bf16=setup.bf16),
                critic=len(networks) * self._shared.critic_weights,
                heads=self._shared.head_weights,
            )
        return self._sizes[key]

    def evaluation(self, grid: LatentSize) -> GraphFlops:
        return self._shared.whole.flops(grid)

    def stages(self, kind: Kind) -> list[StageTraining]:
        grids = self._request.schedule.grids
        return [self._counters[kind].stage(grid, grids[:index]) for index, grid in enumerate(grids)]


def _training(
    request: Request, kinds: _Kinds, gpus: Sequence[Gpu], num_gpus: int, assumptions: Assumptions
) -> dict[str, Any]:
    setup = request.setup
    plan: dict[str, Any] = {
        "kind": setup.kind,
        "steps": request.steps,
        "bf16": setup.bf16,
        "gradient_checkpointing": setup.checkpointing,
        "supported": len(request.architecture.transformers) == 1,
    }
    counts = range(1, num_gpus + 1)
    fitting = [count for count in counts if replace(setup, num_gpus=count).divides]
    plan["num_gpus_left_out"] = [count for count in counts if count not in fitting]
    for kind in ("full", "lora"):
        plan[kind] = _training_kind(request, kinds, kind, gpus, fitting, assumptions)
    return plan


def _training_kind(
    request: Request,
    kinds: _Kinds,
    kind: Kind,
    gpus: Sequence[Gpu],
    counts: Sequence[int],
    assumptions: Assumptions,
) -> dict[str, Any]:
    # A whole network does not train in bfloat16.
    teacher = request.setup.half_teacher and kind == "lora"
    base = replace(request.setup, kind=kind, half_teacher=teacher)
    stages = [stage.with_checkpointing(base.checkpointing) for stage in kinds.stages(kind)]
    rows = []
    for gpu in gpus:
        for count in counts:
            setup = replace(base, num_gpus=count)
            rows.append(
                {"gpu": gpu.name, "num_gpus": count, "clips_at_once": setup.clips_at_once}
                | _fit(setup, kinds, gpu, assumptions)
                | _step_time(request, setup, stages, gpu, assumptions)
            )
    sizes = kinds.sizes(base)
    trainable, learners = sizes.trainable.total, sizes.critic + sizes.heads
    moments = memory_parts(base, sizes)["optimizer"]
    # The student's weights and their average, and what learns beside it with its two moments.
    kept = 2 * FLOAT32_BYTES * trainable + moments + 3 * FLOAT32_BYTES * learners
    return {
        "trainable_parameters": trainable,
        "opponent_parameters": learners,
        "stages": [_stage_tflops(stage) for stage in stages],
        "checkpoints_gib": request.keep_checkpoints * kept / GIB,
        "gpus": rows,
    }


def _stage_tflops(parts: Mapping[str, float | int]) -> dict[str, float]:
    tflops = {f"{name}_tflops": flops / TERA for name, flops in parts.items()}
    return {"clip_tflops": sum(tflops.values()), **tflops}


def _fit(setup: TrainingSetup, kinds: _Kinds, gpu: Gpu, assumptions: Assumptions) -> dict[str, Any]:
    parts = memory_parts(setup, kinds.sizes(setup))
    needed, available = sum(parts.values()), gpu.memory_gib * GIB * (1 - assumptions.reserve)
    fits = needed <= available
    cures = [] if fits else what_would_fit(setup, kinds.sizes, available)
    return {
        "memory_gib": {name: size / GIB for name, size in parts.items()},
        "needed_gib": needed / GIB,
        "available_gib": available / GIB,
        "fits": fits,
        "would_fit_with": [
            {
                "changes": list(cure.changes),
                "same_gpus": cure.same_gpus,
                "needed_gib": cure.needed_bytes / GIB,
            }
            for cure in cures
        ],
    }


def _step_time(
    request: Request,
    setup: TrainingSetup,
    stages: Sequence[Mapping[str, float | int]],
    gpu: Gpu,
    assumptions: Assumptions,
) -> dict[str, Any]:
    speed = gpu.peak_flops(bf16=setup.bf16) * assumptions.utilisation * setup.num_gpus
    flops = {
        part: step_flops([stage[part] for stage in stages], request.stage_weights, setup)
        for part in stages[0]
    }
    done = sum(flops.values())
    seconds = done / speed
    return {
        "step_tflops": done / TERA,
        "step_seconds": seconds,
        "part_seconds": {part: number / speed for part, number in flops.items()},
        "run_hours": request.steps * seconds / 3600,
    }


def _latents_cache(
    request: Request, cost: SamplingCost, gpus: Sequence[Gpu], assumptions: Assumptions
) -> dict[str, Any]:
    architecture, num_clips = request.architecture, assumptions.num_clips
    spec = architecture.spec
    grids = dict.fromkeys((*request.extra_grids, *request.schedule.distinct_grids))
    size = latents_cache_bytes(
        cells=sum(grid.frames * grid.height * grid.width for grid in grids),
        channels=spec.latent_channels,
        prompt_numbers=spec.text_length * spec.text_dim,
    )
    counted = {request.schedule.target: cost.vae_encode_flops}
    flops = {grid: counted[grid] if grid in counted else count_encoding(architecture, grid) for grid in grids}
    encode = sum(flops.values()) + cost.text_encoder_flops
    # In `load.dtype`, as the encoders are.
    bf16, share = request.setup.half_teacher, assumptions.utilisation
    seconds = {gpu.name: encode / (gpu.peak_flops(bf16=bf16) * share) for gpu in gpus}
    return {
        "num_clips": num_clips,
        "clip_mib": size["clip"] / MIB,
        "caption_mib": size["caption"] / MIB,
        "gib": num_clips * (size["clip"] + size["caption"]) / GIB,
        "grids": [{"grid": str(grid), "vae_encode_tflops": flops[grid] / TERA} for grid in grids],
        "clip_encode_tflops": encode / TERA,
        "encoding": [
            {"gpu": name, "clip_seconds": clip, "hours": num_clips * clip / 3600}
            for name, clip in seconds.items()
        ],
    }
