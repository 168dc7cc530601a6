"""`swd-video spectrum LATENTS`: which grids the noise allows, and a schedule for a budget."""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from swd_video.cli.arguments import JsonFlag, read_arguments

_DESCRIPTION = """Measure the space-time power spectra of latents, and say what they allow.

At each noise level: the smallest grid whose lost frequencies all lie below the noise. Then a schedule whose every
handover from stage to stage loses nothing but such frequencies, ready to paste into a config.
"""


@dataclass(frozen=True)
class Arguments:
    """Options of `swd-video spectrum`."""

    latents: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="LATENTS")]
    """Folder made by `swd-video encode`, whose largest grid is measured, or a safetensors file of latents."""
    sigmas: tuple[float, ...] = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
    """Noise levels to print grids for."""
    from_shift: float | None = None
    """Shift of the model that --sigmas are of: they are converted to the measured model's, as 3 for Wan's."""
    shift: float | None = None
    """Shift of the measured model's noise schedule, from which the schedule is sought; by default what its scheduler
    says for clips of this size, and 1 where none is known."""
    stages: int = 4
    """Stages of the schedule to find."""
    budget: float = 1.25
    """What the schedule may cost, in evaluations at full size. SwD's four stages for Wan2.1 cost 1.25."""
    config: Path | None = None
    """Config of a distillation, whose schedule is held against the spectra."""
    averaging: Literal["none", "radial", "axis"] = "none"
    """What must lie below the noise: every lost space-time frequency by itself (none); frequencies in time and rings in
    space on average, as in SwD (radial); or those in time, of height and of width on average (axis)."""
    model: str | None = None
    """Model of any family, as `swd-video plan` takes it, whose transformer gives costs and patch; by default the one
    that encoded the cache. Without any, tokens of 1x2x2 latents are counted, and a warning says so."""
    key: str | None = None
    """Tensor of the safetensors file; by default all latents in it, if they have one size."""
    plot: Path | None = None
    """PNG to draw the spectra and the noise levels into."""
    json_output: JsonFlag = False
    """Print one JSON object on stdout: clips, size, shift, power, lowest_sigmas, grids, schedule, checked."""


def run(argv: list[str]) -> int:
    """Measure, print, and draw where asked; returns 0."""
    arguments = read_arguments(Arguments, "spectrum", argv, _DESCRIPTION)
    from swd_video.core.grid import Compression
    from swd_video.core.spectrum import measure_spectrum
    from swd_video.cost.spectral import check, examine, find_cost
    from swd_video.data.latents import open_latents
    from swd_video.training.config import load_config

    _check(arguments)
    asked = load_config(arguments.config).scale_schedule() if arguments.config else None
    source = open_latents(arguments.latents, arguments.key)
    cost = find_cost(arguments.model, source)
    shift = arguments.shift or cost.shift
    if arguments.from_shift is not None:
        arguments = replace(arguments, sigmas=_converted(arguments.sigmas, arguments.from_shift, shift))
    try:
        compression = Compression(patch=cost.patch)
        compression.tokens(source.size)
        if compression.repeated_frames:
            raise ValueError(
                f"the model takes {cost.patch[0]} latent frames at a time and repeats the first, which would count as "
                "a step in time; spectra of such latents are not measured."
            )
        spectrum = measure_spectrum(source.batches())
    except ValueError as error:
        raise ValueError(f"{arguments.latents}: {error}") from None
    found = {"latents": str(arguments.latents), "channels": source.channels} | examine(
        spectrum,
        cost,
        sigmas=arguments.sigmas,
        stages=arguments.stages,
        budget=arguments.budget,
        averaging=arguments.averaging,
        shift=shift or 1.0,
    )
    if asked is not None:
        checked = check(spectrum, asked, cost, arguments.averaging)
        found["checked"] = {"config": str(arguments.config), **checked}
    if arguments.plot is not None:
        from swd_video.cost.spectrum_plot import draw_spectrum

        title = f"{arguments.latents.name}: {source.num_clips} clips of {source.size}"
        draw_spectrum(arguments.plot, title, spectrum, arguments.sigmas)
    if cost.guess is not None:
        print(f"warning: {cost.guess}.", file=sys.stderr)
    print(json.dumps(found) if arguments.json_output else _describe(arguments, found))
    return 0


def _check(arguments: Arguments) -> None:
    for sigma in arguments.sigmas:
        if not 0 <= sigma <= 1:
            raise ValueError(f"--sigmas: got {sigma:g}, expected noise levels from 0 to 1.")
    for flag, value in (("--shift", arguments.shift), ("--from-shift", arguments.from_shift)):
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{flag}: got {value:g}, expected a number above 0, such as Wan's 3.")
    if not 0 < arguments.budget < math.inf:
        raise ValueError(f"--budget: got {arguments.budget:g}, expected evaluations at full size, above 0.")
    plot = arguments.plot
    if plot is not None and (plot.suffix.lower() != ".png" or not plot.parent.is_dir()):
        raise ValueError(f"--plot {plot}: expected a name that ends in .png, in a folder that exists.")


def _converted(sigmas: Sequence[float], from_shift: float, shift: float | None) -> tuple[float, ...]:
    from swd_video.core.flow import convert_sigma

    if shift is None:
        raise ValueError(
            "--from-shift: got levels to convert, and the measured model's own shift is not known. Give it with "
            "--shift, or name the model with --model."
        )
    return tuple(round(convert_sigma(sigma, from_shift, shift), 3) for sigma in sigmas)


def _describe(arguments: Arguments, found: dict[str, Any]) -> str:
    lines = [f"{found['latents']}: {found['clips']} clips of {found['size']}, {found['channels']} channels"]
    lines += [
        "",
        f"smallest grid whose lost frequencies are all below the noise (averaging: {found['averaging']}):",
    ]
    lines.append("sigma  steps left  frames  height  width  lost power / noise")
    lines += [
        f"{row['sigma']:5.3f}  {row['steps_left']:10.0%}  {row['frames']:6}  {row['height']:6}  {row['width']:5}  "
        f"{row['lost_over_noise']:18.3f}"
        for row in found["grids"]
    ]
    lines.append(
        f"steps left: the share of the model's sampling steps from there on, at its shift of {found['shift']:.3g}"
    )
    lines += ["", "lowest sigma at which a size is enough:"]
    lines += [f"{axis:<6}  {_sizes(lowest)}" for axis, lowest in found["lowest_sigmas"].items()]
    if "checked" in found:
        checked = found["checked"]
        lines += ["", f"{checked['config']}, {checked['cost']:.3f} evaluations at full size:"]
        lines += _handover_lines(checked["handovers"])
    best = found["schedule"]
    lines += ["", f"# {len(best['stages'])} stages for {best['cost']:.3f} evaluations at full size, of"]
    lines += [f"# {best['budget']:g} allowed; counted: {best['counted']}"]
    lines += [
        f"# noise levels are even steps at shift {best['shift']:.3g}; the model's own is {found['shift']:.3g}"
    ]
    lines += ["schedule:", *map(_stage_line, best["stages"])]
    return "\n".join(lines)


def _sizes(lowest: Sequence[float]) -> str:
    return "  ".join(f"{size}: {sigma:.2f}" for size, sigma in enumerate(lowest, start=1))


def _handover_lines(handovers: list[dict[str, Any]]) -> list[str]:
    lines = ["hands over    at sigma  needs         lost power / noise"]
    for row in handovers:
        verdict = "hidden" if row["hidden"] else "NOT hidden"
        lines.append(
            f"{row['grid']:<12}  {row['sigma']:8.3f}  {row['needed']:<12}  {row['lost_over_noise']:18.3f}  {verdict}"
        )
    return lines


def _stage_line(stage: dict[str, Any]) -> str:
    return (
        f"  - {{sigma: {stage['sigma']:.3f}, frames: {stage['frames']}, height: {stage['height']}, "
        f"width: {stage['width']}}}"
    )
