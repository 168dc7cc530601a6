"""The model card of an exported student: what it is, how it was made, and how to load it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from swd_video.core.schedule import ScaleSchedule
from swd_video.models.loading import HUB_NAME, shipped_models

TAG = "swd-video"
"""In the card of every export; says that the folder may be replaced by another one."""


@dataclass(frozen=True)
class TrainingFacts:
    """How a student was trained, where the run's folder still says so.

    Attributes:
        summary: steps, seconds and the like, by name.
        stage_losses: smoothed loss of every stage; None for one that was never trained.
        settings: keys of the config and their values.
        made_of: digests of teacher, VAE, clips and upsampler, by name.
    """

    summary: Mapping[str, float | int] = field(default_factory=dict)
    stage_losses: Sequence[float | None] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    made_of: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CardFacts:
    """Everything that a card says.

    Attributes:
        form: "lora" or "merged".
        source: name or folder under which readers load the export.
        base_model: the teacher, as a hub name, a shipped name or a folder.
        license: identifier of the licence, where it is known.
        schedule: stages that the student was distilled for.
        fps: frames per second of its clips.
        text_length: tokens of a prompt, where it is not the tokenizer's limit.
        stock: whether a stock diffusers pipeline can sample it.
        training: figures of the run.
    """

    form: str
    source: str
    base_model: str
    license: str | None
    schedule: ScaleSchedule
    fps: float
    text_length: int | None
    stock: bool
    training: TrainingFacts


def write_card(facts: CardFacts) -> str:
    """The text of `README.md`, with the metadata that the hub reads in front."""
    data = ModelCardData(
        base_model=facts.base_model if HUB_NAME.fullmatch(facts.base_model) else None,
        library_name="diffusers",
        license=facts.license,
        pipeline_tag="text-to-video",
        tags=[TAG, "scale-wise-distillation", *(["lora"] if facts.form == "lora" else [])],
    )
    what = "LoRA" if facts.form == "lora" else "Pipeline"
    parts = [
        f"# {what}: a scale-wise student of {facts.base_model}",
        f"It makes clips at {facts.fps:g} frames a second in {len(facts.schedule)} evaluations of the transformer, "
        "without guidance, on latent grids that grow in space and time. Made by swd-video, an independent "
        "implementation of [Scale-wise Distillation of Diffusion Models](https://arxiv.org/abs/2503.16397).",
        "## Stages",
        _stages_table(facts.schedule),
        "It was trained for these stages and the clips of the last one; more steps, guidance and other sizes are "
        "not what it knows.",
        "## How to load it",
        *_loading(facts),
        "## Training",
        *_training(facts),
        "## Licence",
        _license(facts),
    ]
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")
    return str(card)


def stock_lora_code(base_model: str, source: str, text_length: int | None = None) -> str:
    """Python that samples an exported LoRA with a stock `WanPipeline`, as our own pipeline does, bit for bit."""
    imports = ["import torch", "from diffusers import WanPipeline"]
    base = repr(base_model).replace("'", '"')
    if base_model in shipped_models():
        imports.append("from swd_video.models.loading import resolve_model_path")
        base = f"resolve_model_path({base})"
    imports.append("from swd_video.schedulers import ScaleWiseFlowMatchScheduler")
    return "\n".join(
        [
            *imports,
            "",
            f'student = "{source}"',
            f"pipe = WanPipeline.from_pretrained({base}, dtype=torch.bfloat16)",
            "pipe.load_lora_weights(student)",
            "pipe.fuse_lora()",
            'pipe.scheduler = ScaleWiseFlowMatchScheduler.from_pretrained(student, subfolder="scheduler")',
            "",
            _stock_call(text_length),
        ]
    )


def stock_merged_code(source: str, text_length: int | None = None) -> str:
    """The same for an exported folder; one on the hub is downloaded first, see docs/export.md."""
    imports = ["import torch", "from diffusers import DiffusionPipeline"]
    student = f'"{source}"'
    if HUB_NAME.fullmatch(source):
        imports.append("from huggingface_hub import snapshot_download")
        student = f"snapshot_download({student})"
    return "\n".join(
        [
            *imports,
            "",
            "import swd_video.schedulers  # diffusers takes another package's scheduler once it is imported",
            "",
            f"pipe = DiffusionPipeline.from_pretrained({student}, dtype=torch.bfloat16)",
            "",
            _stock_call(text_length),
        ]
    )


def own_code(source: str) -> str:
    """Python that samples either form with our own pipeline."""
    imports = ["import torch"]
    folder = f'"{source}"'
    if HUB_NAME.fullmatch(source):
        imports.append("from huggingface_hub import snapshot_download")
        folder = f"snapshot_download({folder})"
    return "\n".join(
        [
            *imports,
            "from swd_video.student.loading import load_pipeline",
            "",
            f"pipe = load_pipeline({folder}, dtype=torch.bfloat16)",
            'video = pipe("a cat in the grass", generator=torch.Generator().manual_seed(7)).frames[0]',
        ]
    )


def _stock_call(text_length: int | None) -> str:
    length = "min(512, pipe.tokenizer.model_max_length)" if text_length is None else str(text_length)
    return f"""\
channels = pipe.transformer.config.in_channels
generator = torch.Generator().manual_seed(7)
video = pipe(
    "a cat in the grass",
    latents=pipe.scheduler.draw_first_noise(1, channels, generator),
    num_inference_steps=len(pipe.scheduler.timesteps),
    guidance_scale=1.0,
    max_sequence_length={length},
).frames[0]"""


def _stages_table(schedule: ScaleSchedule) -> str:
    rows = [
        f"| {index} | {stage.sigma:g} | {1000 * stage.sigma:g} | {stage.grid} |"
        for index, stage in enumerate(schedule, start=1)
    ]
    head = "| stage | sigma | timestep | latent grid (frames x height x width) |\n|---|---|---|---|\n"
    return head + "\n".join(rows)


def _loading(facts: CardFacts) -> list[str]:
    parts = ["With swd-video:", _python(own_code(facts.source))]
    if not facts.stock:
        return [
            *parts,
            "A stock diffusers pipeline cannot sample it: the base model takes a timestep for every token.",
        ]
    if facts.form == "lora":
        code = stock_lora_code(facts.base_model, facts.source, facts.text_length)
    else:
        code = stock_merged_code(facts.source, facts.text_length)
    return [
        *parts,
        "With a stock diffusers pipeline and the scheduler of swd-video, to the same clip, bit for bit:",
        _python(code),
    ]


def _training(facts: CardFacts) -> list[str]:
    training = facts.training
    if not training.summary and not training.settings and not training.made_of:
        return ["The export found no record of the training run."]
    rows = [(name, f"{value:g}") for name, value in training.summary.items()]
    rows += [
        (f"loss of stage {index}", "never trained" if loss is None else f"{loss:.4g}")
        for index, loss in enumerate(training.stage_losses, start=1)
    ]
    tables = [_table(("figure", "value"), rows)] if rows else []
    if training.settings:
        settings = [(f"`{key}`", str(value)) for key, value in training.settings.items()]
        tables.append(_table(("setting", "value"), settings))
    if training.made_of:
        tables.append(
            _table(("made of", "digest"), [(key, f"`{value}`") for key, value in training.made_of.items()])
        )
    return [*tables, "Losses are those of training, smoothed; they do not say how good the clips are."]


def _license(facts: CardFacts) -> str:
    if facts.license is None:
        return f"That of the base model, {facts.base_model}; the export did not find which one it is."
    return f"{facts.license}. The terms of the base model, {facts.base_model}, hold too."


def _table(head: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    lines = [head, ("---", "---"), *rows]
    return "\n".join(f"| {left} | {right} |" for left, right in lines)


def _python(code: str) -> str:
    return f"```python\n{code}\n```"
