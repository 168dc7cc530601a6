"""The model card of an exported student: what it is, how it was made, and how to load it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import ModelCard, ModelCardData

from swd_video.config import flatten
from swd_video.core.schedule import ScaleSchedule
from swd_video.models.checkpoints import find_weights, read_json, require
from swd_video.models.loading import (
    DECODER_FILE_NAME,
    HUB_NAME,
    folder_here,
    read_model_index,
    read_video_spec,
    shipped_models,
)
from swd_video.models.wan import wan_fps
from swd_video.student.student import TRANSFORMER_FOLDER, Student, adds_up

CARD_NAME = "README.md"
TAG = "swd-video"
"""In the card of every export; says that the folder may be replaced by another one."""

_DECODER = (
    f"With swd-video its clips are shown through the decoder in `{DECODER_FILE_NAME}`, or, where that is asked for, "
    "through the VAE; a stock pipeline knows the VAE alone."
)
_UNPUBLISHED = "path/to/this/folder"
_FIGURES = ("steps", "seconds", "seconds_per_step")
# Of a run's config, what says how the student was trained, less what only says how the run was watched.
_SETTINGS = ("seed", "train.", "loss.")
_UNTOLD = {
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.sample_every",
    "train.sample_prompts",
    "train.log_every",
}


def write_card(student: Student, base_model: str, form: str, license: str | None, repo: str | None) -> str:
    """The text of `README.md`, with the metadata that the hub reads in front.

    Args:
        student: which; figures of its training are those that lie beside its folder.
        base_model: the teacher, as a hub name, a shipped name or a folder.
        form: "lora" or "merged".
        license: identifier of the licence, where it is known.
        repo: hub name under which readers load the export, where it gets one.

    Raises:
        ValueError: if a file of the run beside the student is broken.
    """
    base = student.base_path
    per_token = read_model_index(base).get("expand_timesteps", False)
    spec = read_video_spec(base)
    data = ModelCardData(
        base_model=base_model if HUB_NAME.fullmatch(base_model) else None,
        library_name="diffusers",
        license=license,
        pipeline_tag="text-to-video",
        tags=[TAG, "scale-wise-distillation", *(["lora"] if form == "lora" else [])],
    )
    what = "LoRA" if form == "lora" else "Pipeline"
    source = repo or _UNPUBLISHED
    same = f"to the same {'clip' if student.decoder is None else 'latents'}, bit for bit"
    if form == "lora":
        fused = _is_fused(base)
        stock = stock_lora_code(base_model, source, spec.text_length, fused=fused is not False)
        same += " if the files of the base model's transformer are in float32" if fused is None else ""
    else:
        stock = stock_merged_code(source, spec.text_length)
    parts = [
        f"# {what}: a scale-wise student of {base_model}",
        f"It makes clips at {spec.fps or wan_fps(per_token):g} frames a second in {len(student.schedule)} evaluations "
        "of the transformer, without guidance, on latent grids that grow in space and time. Made by swd-video, an "
        "independent implementation of [Scale-wise Distillation of Diffusion Models](https://arxiv.org/abs/2503.16397).",
        "## Stages",
        _stages_table(student.schedule),
        "It was trained for these stages and the clips of the last one; more steps, guidance and other sizes are "
        "not what it knows.",
        "## How to load it",
        "With swd-video:",
        _python(own_code(source)),
        "A stock diffusers pipeline cannot sample it: the base model takes a timestep for every token."
        if per_token
        else f"With a stock diffusers pipeline and the scheduler of swd-video, {same}:\n\n{_python(stock)}",
        *([] if student.decoder is None else [_DECODER]),
        "## Training",
        *_training(student),
        "## Licence",
        _license(license, base_model),
    ]
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")
    return str(card)


def stock_lora_code(
    base_model: str, source: str, text_length: int | None = None, *, fused: bool = True
) -> str:
    """Python that samples an exported LoRA with a stock `WanPipeline`, as our own pipeline does, bit for bit.

    `fused` says whether ours adds it up with the weights, as it does unless the base model's files are in bfloat16.
    """
    find, base = "", json.dumps(base_model, ensure_ascii=False)
    if base_model in shipped_models():
        find, base = (
            "\nfrom swd_video.models.loading import resolve_model_path",
            f"resolve_model_path({base})",
        )
    cast, dtypes, dtype, fuse = "", "", "torch.bfloat16", ""
    if fused:
        cast = "\nfrom swd_video.models.checkpoints import cast_network"
        dtypes, dtype = '\ndtypes = {"transformer": torch.float32, "default": torch.bfloat16}', "dtypes"
        fuse = """
pipe.fuse_lora()
pipe.unload_lora_weights()
cast_network(pipe.transformer, torch.bfloat16)"""
    return f"""\
import torch
from diffusers import WanPipeline{cast}{find}
from swd_video.schedulers import ScaleWiseFlowMatchScheduler

student = "{source}"{dtypes}
pipe = WanPipeline.from_pretrained({base}, dtype={dtype})
pipe.load_lora_weights(student){fuse}
pipe.scheduler = ScaleWiseFlowMatchScheduler.from_pretrained(student, subfolder="scheduler")

{_stock_call(text_length)}"""


def _is_fused(base: str) -> bool | None:
    """Whether additions to a base model are summed with its weights in bfloat16; None where these are not here."""
    folder = folder_here(base)
    if folder is None or not (folder / TRANSFORMER_FOLDER).is_dir():
        return None
    return adds_up(find_weights(folder / TRANSFORMER_FOLDER), torch.bfloat16)


def stock_merged_code(source: str, text_length: int | None = None) -> str:
    """The same for an exported folder; one on the hub is downloaded first, see docs/export.md."""
    fetch, student = _from_hub(source)
    return f"""\
import torch
from diffusers import DiffusionPipeline{fetch}

import swd_video.schedulers  # diffusers takes another package's scheduler once it is imported

pipe = DiffusionPipeline.from_pretrained({student}, dtype=torch.bfloat16)

{_stock_call(text_length)}"""


def own_code(source: str) -> str:
    """Python that samples either form with our own pipeline."""
    fetch, student = _from_hub(source)
    return f"""\
import torch{fetch}
from swd_video.student.student import load_student

pipe = load_student({student}, dtype=torch.bfloat16)
video = pipe("a cat in the grass", generator=torch.Generator().manual_seed(7)).frames[0]"""


def _from_hub(source: str) -> tuple[str, str]:
    """An import to add, and what stands for a folder that may have to be downloaded first."""
    if HUB_NAME.fullmatch(source):
        return "\nfrom huggingface_hub import snapshot_download", f'snapshot_download("{source}")'
    return "", f'"{source}"'


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
        (str(index), f"{stage.sigma:g}", f"{1000 * stage.sigma:g}", str(stage.grid))
        for index, stage in enumerate(schedule, start=1)
    ]
    return _table(("stage", "sigma", "timestep", "latent grid (frames x height x width)"), rows)


def _training(student: Student) -> list[str]:
    """Tables of what the run's folder, around the student's, says, and of what the student is made of."""
    run = Path() if student.folder is None else student.folder.absolute().parent
    summary = _read_summary(run / "train.json")
    figures = [(name, f"{summary[name]:g}") for name in _FIGURES if name in summary]
    figures += [
        (f"loss of stage {index}", "never trained" if loss is None else f"{loss:.4g}")
        for index, loss in enumerate(summary.get("stage_losses", ()), start=1)
    ]
    config = run / "config.yaml"
    values = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}
    settings = [
        (f"`{key}`", str(value))
        for key, value in flatten(values).items()
        if key.startswith(_SETTINGS) and key not in _UNTOLD and value is not None
    ]
    digests = [
        (key, f"`{value}`") for key, value in (student.made_of or {}).items() if isinstance(value, str)
    ]
    tables = [
        _table(head, rows)
        for head, rows in (
            (("figure", "value"), figures),
            (("setting", "value"), settings),
            (("made of", "digest"), digests),
        )
        if rows
    ]
    if not tables:
        return ["The export found no record of the training run."]
    return [*tables, "Losses are those of training, smoothed; they do not say how good the clips are."]


def _read_summary(path: Path) -> dict[str, Any]:
    summary = read_json(path) if path.is_file() else {}
    for key in _FIGURES:
        require(isinstance(summary.get(key, 0), int | float), path, key, summary.get(key), "a number")
    losses = summary.get("stage_losses", [])
    numbers = isinstance(losses, list) and all(isinstance(loss, int | float | None) for loss in losses)
    require(numbers, path, "stage_losses", losses, "a list of numbers")
    return summary


def _license(license: str | None, base_model: str) -> str:
    if license is None:
        return f"That of the base model, {base_model}; the export did not find which one it is."
    return f"{license}. The terms of the base model, {base_model}, hold too."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], f"|{'---|' * len(head)}", *lines[1:]])


def _python(code: str) -> str:
    return f"```python\n{code}\n```"
