"""A plan in words and tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_PART_WORDS = {
    "weights": "weights of teacher and student",
    "gradients": "gradients",
    "gradient_buckets": "copies of them to average",
    "optimizer": "optimizer",
    "ema": "running average",
    "learners": "critic and discriminator, their gradients and optimizers",
    "frozen_networks": "VAE, encoders of pixels, what the student carries",
    "activations": "activations of the student",
    "feature_activations": "activations on the way back to its clips",
    "learner_activations": "activations of the critic or discriminator, when it learns",
}


def describe(plan: Mapping[str, Any]) -> str:
    """Return a plan as text for people; what was estimated says so."""
    sections = [_model(plan), _stages(plan), _clip(plan), _training(plan), _disk(plan)]
    return "\n\n".join("\n".join(section) for section in sections)


def _model(plan: Mapping[str, Any]) -> list[str]:
    parts = ", ".join(
        f"{name.replace('_', ' ')} {count / 1e9:.3g}" for name, count in plan["parameters"].items()
    )
    return [
        f"{plan['model']}, clips of {plan['size']}; billions of weights: {parts}; "
        f"{plan['weights_gib']:.1f} GiB in bfloat16"
    ]


def _stages(plan: Mapping[str, Any]) -> list[str]:
    rows = [("stage", "sigma", "latent grid", "pixels", "tokens", "TFLOPs", "attention")]
    for number, stage in enumerate(plan["stages"], start=1):
        rows.append(
            (
                str(number),
                f"{stage['sigma']:g}",
                f"{stage['frames']}x{stage['height']}x{stage['width']}",
                stage["pixels"],
                f"{stage['tokens']:,}",
                _number(stage["tflops"]),
                f"{stage['attention_tflops'] / stage['tflops']:.0%}",
            )
        )
    parts = " + ".join(f"{_words(part)} {_number(plan[f'{part}_tflops'])}" for part in _parts_of_clip(plan))
    total = (
        f"one clip: {parts} = {_number(plan['clip_tflops'])} TFLOPs; encoding a training clip on the last grid "
        f"{_number(plan['vae_encode_tflops'])}"
    )
    half = plan["draft"]
    draft = (
        f"a draft, {half['stages']} of {len(plan['stages'])} stages and showing what the last gave: "
        f"{_number(half['tflops'])} TFLOPs, {half['share']:.1%} of a clip"
    )
    return [*_table(rows), total, draft]


def _clip(plan: Mapping[str, Any]) -> list[str]:
    parts = [*_parts_of_clip(plan), "clip"]
    rows = [("GPU", *map(_words, parts))]
    for row in plan["sampling"]:
        rows.append((row["gpu"], *(_number(row[f"{part}_seconds"]) for part in parts)))
    share = plan["assumptions"]["utilisation"]
    return [f"seconds a clip in bfloat16, ESTIMATED at {share:.0%} of peak speed, not run:", *_table(rows)]


def _parts_of_clip(plan: Mapping[str, Any]) -> list[str]:
    """What a clip is made by, in running order."""
    parts = [key.removesuffix("_seconds") for key in plan["sampling"][0] if key.endswith("_seconds")]
    return [part for part in parts if part != "clip" and plan[f"{part}_tflops"]]


def _words(part: str) -> str:
    return part.replace("_", " ").replace("vae", "VAE")


def _training(plan: Mapping[str, Any]) -> list[str]:
    training = plan["training"]
    kind = training["kind"]
    counted, other = training[kind], training["lora" if kind == "full" else "full"]
    precision = "bfloat16 autocast" if training["bf16"] else "float32"
    if training["gradient_checkpointing"]:
        precision += ", gradient checkpointing"
    first = counted["gpus"][0]
    lines = [
        f"training ({kind}, {precision}, {counted['trainable_parameters'] / 1e6:,.4g} million weights train), "
        f"{training['steps']:,} steps; a clip takes "
        f"{', '.join(_number(stage['clip_tflops']) for stage in counted['stages'])} TFLOPs by stage",
        "in the last: " + _listed(counted["stages"][-1]["networks_tflops"]),
        f"GiB on one GPU in the last stage with {first['clips_at_once']} clips at once:",
        *_table([(_PART_WORDS[name], f"{size:.1f}") for name, size in first["memory_gib"].items() if size]),
        "",
        f"time ESTIMATED at {plan['assumptions']['utilisation']:.0%} of peak speed, not run; "
        f"{plan['assumptions']['reserve']:.0%} of memory kept free:",
        *_table(_training_rows(counted["gpus"])),
        _parts(counted["gpus"]),
    ]
    for name, tflops in training["before_tflops"].items():
        lines.append(f"training the {name} first takes {_number(tflops)} TFLOPs")
    if left_out := training["num_gpus_left_out"]:
        numbers = ", ".join(map(str, left_out))
        lines.append(f"left out, as they cannot share the batch in equal passes: {numbers} GPUs")
    last = [row for row in counted["gpus"] if row["num_gpus"] == counted["gpus"][-1]["num_gpus"]]
    lines += [line for row in last for line in _cures(row)]
    fitting = [f"{row['num_gpus']} x {row['gpu']}" for row in other["gpus"] if row["fits"]]
    name = "lora" if kind == "full" else "full"
    lines.append(
        f"train.kind: {name} needs {other['gpus'][0]['needed_gib']:.1f} GiB and "
        + (f"fits {', '.join(fitting)}" if fitting else "fits none of these")
    )
    if not training["supported"]:
        lines.append("the trainer takes models of one transformer only: these figures are what it would take")
    return lines


def _parts(rows: Sequence[Mapping[str, Any]]) -> str:
    """What a step's time goes into, on as many of the first kind of GPU as there are rows for; alike elsewhere."""
    row = [row for row in rows if row["gpu"] == rows[0]["gpu"]][-1]
    return f"seconds of a step on {row['num_gpus']} x {row['gpu']}, ESTIMATED: {_listed(row['part_seconds'])}"


def _listed(numbers: Mapping[str, float]) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {_number(number)}" for name, number in numbers.items() if number
    )


def _training_rows(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    table: list[tuple[str, ...]] = [
        ("GPU", "number", "clips at once", "needs GiB", "has GiB", "", "s/step", "run, hours")
    ]
    for row in rows:
        table.append(
            (
                row["gpu"],
                str(row["num_gpus"]),
                str(row["clips_at_once"]),
                f"{row['needed_gib']:.1f}",
                f"{row['available_gib']:.1f}",
                "fits" if row["fits"] else "DOES NOT FIT",
                _number(row["step_seconds"]),
                _number(row["run_hours"]),
            )
        )
    return table


def _cures(row: Mapping[str, Any]) -> list[str]:
    if row["fits"]:
        return []
    where = f"{row['num_gpus']} x {row['gpu']} does not fit"
    cures = row["would_fit_with"]
    if not cures:
        return [f"{where}, and nothing that was tried makes it fit; take a smaller last grid or model"]
    shown = [cure for cure in cures if cure["same_gpus"]][:1] + [
        cure for cure in cures if not cure["same_gpus"]
    ][:1]
    return [
        f"{where}; with {' + '.join(cure['changes'])} it needs {cure['needed_gib']:.1f} GiB"
        + ("" if cure["same_gpus"] else " on each")
        for cure in shown
    ]


def _disk(plan: Mapping[str, Any]) -> list[str]:
    cache, kind = plan["latents_cache"], plan["training"]["kind"]
    hours = ", ".join(f"{row['gpu']} {_number(row['hours'])}" for row in cache["encoding"])
    return [
        f"encoding a clip on {len(cache['grids'])} grids and its caption: {_number(cache['clip_encode_tflops'])} "
        f"TFLOPs; hours for {cache['num_clips']:,} clips on one GPU, ESTIMATED: {hours}",
        f"disk: {cache['clip_mib']:.1f} MiB of latents for a clip and {cache['caption_mib']:.1f} MiB for a caption, "
        f"{cache['gib']:.1f} GiB for {cache['num_clips']:,} clips; checkpoints "
        f"{plan['training'][kind]['checkpoints_gib']:.1f} GiB",
    ]


def _number(value: float | int) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.3g}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
