"""Puts the counts together: what a config's schedule costs to sample, to train and to store, as plain numbers."""

import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from swd_video.core.grid import LatentSize
from swd_video.cost.architecture import Architecture, load_architecture
from swd_video.cost.drafting import count_showing
from swd_video.cost.gpus import Gpu
from swd_video.cost.memory import BFLOAT16_BYTES, FLOAT32_BYTES, Setup, memory_parts, what_would_fit
from swd_video.cost.networks import Transformer, count_encoding, count_text, planned_decoder
from swd_video.cost.step import Sizes, StepCost
from swd_video.objectives.passes import Pass
from swd_video.training.config import DistillConfig
from swd_video.training.passes import passes_before, upsampler_passes

GIB, MIB, TERA = 2**30, 2**20, 1e12


@dataclass(frozen=True)
class Assumptions:
    """What no config says and nobody can count.

    Attributes:
        utilisation: share of a GPU's peak speed that a run reaches.
        reserve: share of a GPU's memory left to the driver, work buffers and fragmentation.
        num_clips: clips in the latent cache, each with a caption of its own.
    """

    utilisation: float = 0.5
    reserve: float = 0.1
    num_clips: int = 1000

    def __post_init__(self) -> None:
        if not 0 < self.utilisation <= 1:
            raise ValueError(f"--utilisation: got {self.utilisation}, expected above 0 and at most 1.")
        if not 0 <= self.reserve < 1:
            raise ValueError(f"--reserve: got {self.reserve}, expected at least 0 and below 1.")
        if self.num_clips < 1:
            raise ValueError(f"--num-clips: got {self.num_clips}, expected at least 1.")


def planned_architecture(config: DistillConfig) -> Architecture:
    """The teacher; where it is a folder that is not there yet, the model of its shape that the config names.

    Raises:
        ValueError: if neither can be found, or a grid of the config is not legal for it.
    """
    name = config.model
    if config.architecture is not None and not Path(name).is_dir():
        print(
            f"note: model {name} is not there; counted as {config.architecture}, which `architecture` names.",
            file=sys.stderr,
        )
        name = config.architecture
    architecture = load_architecture(name, config.load.adapter)
    compression = architecture.spec.compression
    architecture.model.tokens(config.scale_schedule())
    for index, text in enumerate(config.data.extra_grids):
        try:
            compression.tokens(LatentSize.parse(text))
        except ValueError as error:
            raise ValueError(f"data.extra_grids[{index}]: {error}") from None
    return architecture


def make_plan(
    config: DistillConfig, gpus: Sequence[Gpu], num_gpus: int, assumptions: Assumptions
) -> dict[str, Any]:
    """Count everything; JSON can hold the result.

    Every number of GPUs up to `num_gpus` that can share the batch evenly is planned.

    Raises:
        ValueError: if the schedule, a block or additions do not fit the model, or it cannot be found.
    """
    if num_gpus < 1:
        raise ValueError(f"--num-gpus: got {num_gpus}, expected at least 1.")
    architecture = planned_architecture(config)
    return _Plan(config, architecture, gpus, num_gpus, assumptions).as_dict()


class _Plan:
    def __init__(
        self,
        config: DistillConfig,
        architecture: Architecture,
        gpus: Sequence[Gpu],
        num_gpus: int,
        assumptions: Assumptions,
    ) -> None:
        self.config, self.architecture, self.gpus, self.num_gpus = config, architecture, gpus, num_gpus
        self.assumptions, self.step = assumptions, StepCost(config, architecture)
        self.schedule = config.scale_schedule()
        self.parameters = dict(architecture.num_parameters)
        self.decoding, self.decoder = "vae_decode", self.step.network("vae_decoder", "full")
        if isinstance(config.load.decoder, Path):
            self.decoding, self.decoder = "decoder", planned_decoder(config.load.decoder, architecture.model)
            self.parameters["decoder"] = self.decoder.weights

    def as_dict(self) -> dict[str, Any]:
        architecture, parameters = self.architecture, self.parameters
        text_tflops = count_text(architecture) / TERA
        grids = (*self.config.data.extra_latent_grids, *self.schedule.distinct_grids)
        encode_tflops = {grid: count_encoding(architecture, grid) / TERA for grid in grids}
        sampling = self._sampling(text_tflops)
        return {
            "model": architecture.name,
            "size": str(architecture.spec.compression.pixel_size(self.schedule.target)),
            "parameters": parameters,
            **sampling,
            "vae_encode_tflops": encode_tflops[self.schedule.target],
            "weights_gib": BFLOAT16_BYTES * sum(parameters.values()) / GIB,
            "sampling": [self._clip_seconds(sampling, gpu) for gpu in self.gpus],
            "training": self._training(),
            "latents_cache": self._latents_cache(encode_tflops, text_tflops),
            "assumptions": {
                "utilisation": self.assumptions.utilisation,
                "reserve": self.assumptions.reserve,
                "measured_on_a_gpu": False,
            },
        }

    def _sampling(self, text_tflops: float) -> dict[str, Any]:
        model, compression = self.architecture.model, self.architecture.spec.compression
        upsampling = [
            self._tflops(upsampler_passes(self.config, index)) for index in range(len(self.schedule))
        ]
        stages: list[dict[str, Any]] = []
        for index, (stage, tokens) in enumerate(
            zip(self.schedule, self.schedule.tokens(compression), strict=True)
        ):
            # A student that is a copy of the teacher runs as the teacher does.
            cost = self.step.network("teacher", "full").flops(
                Pass("teacher", stage.grid, attention=stage.attention)
            )
            stages.append(
                {
                    "frames": stage.grid.frames,
                    "height": stage.grid.height,
                    "width": stage.grid.width,
                    "sigma": stage.sigma,
                    "network": model.transformer_at(stage.sigma),
                    "tokens": tokens,
                    "tflops": cost.forward / TERA,
                    "attention_tflops": cost.attention / TERA,
                    "upsampler_tflops": upsampling[index],
                    "pixels": str(compression.pixel_size(stage.grid)),
                }
            )

        def parts(count: int) -> dict[str, float]:
            """Of the first stages, and of showing what the last of them gave."""
            shown = count_showing(self.decoder, self.architecture, self.schedule.grids[count - 1])
            return {
                "transformer_tflops": sum(stage["tflops"] for stage in stages[:count]),
                "upsampler_tflops": sum(upsampling[:count]),
                f"{self.decoding}_tflops": shown / TERA,
                "text_encoder_tflops": text_tflops,
            }

        whole, half = parts(len(stages)), self.schedule.first_half
        clip, draft = sum(whole.values()), sum(parts(half).values())
        return {
            "stages": stages,
            **whole,
            "clip_tflops": clip,
            "draft": {"stages": half, "tflops": draft, "share": draft / clip},
        }

    def _tflops(self, passes: Sequence[Pass]) -> float:
        costs = [(one.clips, self.step.network(one.network, "full").flops(one)) for one in passes]
        return sum((clips * (cost.forward + cost.backward) / TERA for clips, cost in costs), start=0.0)

    def _clip_seconds(self, sampling: dict[str, Any], gpu: Gpu) -> dict[str, Any]:
        parameters, decoding = self.parameters, self.decoding
        text_parameters = sum(count for name, count in parameters.items() if name.startswith("text_encoder"))

        def seconds(tflops: float, num_parameters: int = 0) -> float:
            # In bfloat16; a part is never faster than its weights can be read.
            computing = self._seconds(tflops, gpu, bf16=True)
            return max(computing, BFLOAT16_BYTES * num_parameters / (gpu.bandwidth_gbps * 1e9))

        parts = {
            "transformer_seconds": sum(
                seconds(stage["tflops"], parameters["transformer"]) for stage in sampling["stages"]
            ),
            "upsampler_seconds": self._seconds(sampling["upsampler_tflops"], gpu, bf16=False),
            "text_encoder_seconds": seconds(sampling["text_encoder_tflops"], text_parameters),
            f"{decoding}_seconds": seconds(
                sampling[f"{decoding}_tflops"], parameters[decoding.removesuffix("_decode")]
            ),
        }
        return {"gpu": gpu.name, **parts, "clip_seconds": sum(parts.values())}

    def _seconds(self, tflops: float, gpu: Gpu, *, bf16: bool) -> float:
        return tflops * TERA / (gpu.peak_flops(bf16=bf16) * self.assumptions.utilisation)

    def _training(self) -> dict[str, Any]:
        setup, train = Setup(self.config), self.config.train
        counts = range(1, self.num_gpus + 1)
        fitting = [count for count in counts if Setup(self.config, count).divides]
        return {
            "kind": setup.kind,
            "steps": train.steps,
            "bf16": setup.bf16,
            "gradient_checkpointing": train.gradient_checkpointing,
            "supported": len(self.architecture.transformers) == 1,
            "before_tflops": {name: self._tflops(some) for name, some in passes_before(self.config).items()},
            "num_gpus_left_out": [count for count in counts if count not in fitting],
            **{kind: self._training_of_kind(setup.of_kind(kind), fitting) for kind in ("full", "lora")},
        }

    def _training_of_kind(self, setup: Setup, counts: Sequence[int]) -> dict[str, Any]:
        train = setup.config.train
        stages = [self._stage(index, setup) for index in range(len(self.schedule))]
        sizes = self._sizes(setup)
        moments = memory_parts(setup, sizes)["optimizer"]
        learners = sizes.critic + sizes.heads
        # The student's weights and their average, and what learns beside it with its two moments.
        kept = 2 * FLOAT32_BYTES * sizes.trainable + moments + 3 * FLOAT32_BYTES * learners
        return {
            "trainable_parameters": sizes.trainable,
            "learner_parameters": learners,
            "stages": stages,
            "checkpoints_gib": train.keep_checkpoints * kept / GIB,
            "gpus": [self._row(setup, stages, gpu, count) for gpu in self.gpus for count in counts],
        }

    def _sizes(self, setup: Setup) -> Sizes:
        return self.step.sizes(setup.kind, setup.bf16, setup.config.train.gradient_checkpointing)

    def _stage(self, index: int, setup: Setup) -> dict[str, Any]:
        """TFLOPs for one clip of a stage, by what they are for and by network."""
        parts: dict[str, float] = {}
        networks: defaultdict[str, float] = defaultdict(float)
        float32: defaultdict[str, float] = defaultdict(float)
        again = 0.0
        for part, counted in self.step.counted(index, setup.kind).items():
            forward = backward = 0.0
            for one, flops in counted:
                there, back = one.clips * flops.forward / TERA, one.clips * flops.backward / TERA
                forward, backward = forward + there, backward + back
                networks[_name(one)] += there + back
                network = self.step.network(one.network, setup.kind)
                if not network.autocasts:
                    float32[part] += there + back
                if one.gradient != "none" and isinstance(network, Transformer):
                    again += there
            split = {"student_forward": forward, "student_backward": backward}
            parts |= split if part == "student" else {part: forward + backward}
        parts["checkpointing_adds"] = again if setup.config.train.gradient_checkpointing else 0.0
        return {
            "clip_tflops": sum(parts.values()),
            **{f"{part}_tflops": tflops for part, tflops in parts.items()},
            "networks_tflops": dict(networks),
            "float32_tflops": dict(float32),
        }

    def _row(self, setup: Setup, stages: Sequence[dict[str, Any]], gpu: Gpu, num_gpus: int) -> dict[str, Any]:
        """A training on so many GPUs of a kind: whether it fits, and how long it takes."""
        setup = replace(setup, num_gpus=num_gpus)
        train = setup.config.train
        parts = memory_parts(setup, self._sizes(setup))
        needed, available = sum(parts.values()), gpu.memory_gib * GIB * (1 - self.assumptions.reserve)
        cures = [] if needed <= available else what_would_fit(setup, self._sizes, available)
        # All GPUs work on the same stage at the same time: none waits.
        weights = train.stage_weights or (1.0,) * len(stages)

        def of_step(numbers: Iterable[float]) -> float:
            weighted = sum(weight * number for weight, number in zip(weights, numbers, strict=True))
            return train.batch_size * weighted / sum(weights)

        tflops = {
            key.removesuffix("_tflops"): of_step(stage[key] for stage in stages)
            for key in stages[0]
            if key not in ("clip_tflops", "networks_tflops", "float32_tflops")
        }
        seconds = {}
        for part, number in tflops.items():
            # What does not obey autocast.
            float32 = of_step(stage["float32_tflops"].get(part, 0.0) for stage in stages)
            seconds[part] = self._seconds((number - float32) / num_gpus, gpu, bf16=setup.bf16)
            seconds[part] += self._seconds(float32 / num_gpus, gpu, bf16=False)
        step_seconds = sum(seconds.values())
        return {
            "gpu": gpu.name,
            "num_gpus": num_gpus,
            "clips_at_once": setup.clips_at_once,
            "memory_gib": {name: size / GIB for name, size in parts.items()},
            "needed_gib": needed / GIB,
            "available_gib": available / GIB,
            "fits": needed <= available,
            "would_fit_with": [
                {
                    "changes": list(cure.changes),
                    "same_gpus": cure.same_gpus,
                    "needed_gib": cure.needed_bytes / GIB,
                }
                for cure in cures
            ],
            "step_tflops": sum(tflops.values()),
            "step_seconds": step_seconds,
            "part_seconds": seconds,
            "run_hours": train.steps * step_seconds / 3600,
        }

    def _latents_cache(self, encode_tflops: dict[LatentSize, float], text_tflops: float) -> dict[str, Any]:
        spec, num_clips = self.architecture.spec, self.assumptions.num_clips
        # In half precision: every clip on all its grids, and each distinct caption.
        cells = sum(grid.frames * grid.height * grid.width for grid in encode_tflops)
        clip, caption = 2 * cells * spec.latent_channels, 2 * spec.text_length * spec.text_dim
        tflops = sum(encode_tflops.values()) + text_tflops
        # In `load.dtype`, as the encoders are.
        bf16 = self.config.load.dtype != "float32"
        seconds = {gpu.name: self._seconds(tflops, gpu, bf16=bf16) for gpu in self.gpus}
        return {
            "num_clips": num_clips,
            "clip_mib": clip / MIB,
            "caption_mib": caption / MIB,
            "gib": num_clips * (clip + caption) / GIB,
            "grids": [{"grid": str(grid), "vae_encode_tflops": cost} for grid, cost in encode_tflops.items()],
            "clip_encode_tflops": tflops,
            "encoding": [
                {"gpu": name, "clip_seconds": clip_seconds, "hours": num_clips * clip_seconds / 3600}
                for name, clip_seconds in seconds.items()
            ],
        }


def _name(one: Pass) -> str:
    return one.network if isinstance(one.network, str) else str(getattr(one.network, "kind", one.network))
