"""Named GPUs: memory and peak speeds, from a YAML file that comes with the package and from files that add to it."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

SHIPPED_GPUS = Path(__file__).parent / "gpus.yaml"


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU.

    Attributes:
        name: as `--gpu` takes it.
        memory_gib: what a program can use.
        bf16_tflops: dense peak in bfloat16.
        fp32_tflops: peak in float32 outside of tensor cores.
        bandwidth_gbps: memory bandwidth, 10^9 bytes a second.
    """

    name: str
    memory_gib: float
    bf16_tflops: float
    fp32_tflops: float
    bandwidth_gbps: float

    def peak_flops(self, *, bf16: bool) -> float:
        """Operations a second that the maker promises."""
        return (self.bf16_tflops if bf16 else self.fp32_tflops) * 1e12


_NUMBERS = tuple(field.name for field in fields(Gpu) if field.name != "name")


def load_gpus(more: Path | None = None) -> dict[str, Gpu]:
    """The shipped GPUs and those of another file, which wins where both have a name.

    Raises:
        ValueError: naming the file, the GPU and the key that is missing, unknown or not a number above 0.
    """
    gpus = _read(SHIPPED_GPUS)
    return gpus if more is None else gpus | _read(more)


def pick_gpus(gpus: Mapping[str, Gpu], name: str | None) -> list[Gpu]:
    """One GPU by its name, upper or lower case, or all of them.

    What follows a hyphen may be left out where that leaves one GPU: A100 is A100-80.

    Raises:
        ValueError: if there is none of this name, or several.
    """
    if name is None:
        return list(gpus.values())
    by_name = {known.casefold(): gpu for known, gpu in gpus.items()}
    if name.casefold() in by_name:
        return [by_name[name.casefold()]]
    kin = [gpu for known, gpu in by_name.items() if known.startswith(f"{name.casefold()}-")]
    if len(kin) == 1:
        return kin
    if kin:
        raise ValueError(f"--gpu {name}: could be {' or '.join(gpu.name for gpu in kin)}; give one of these.")
    close = difflib.get_close_matches(name.casefold(), by_name, n=1)
    hint = f"did you mean {by_name[close[0]].name}?" if close else f"known are {', '.join(gpus)}."
    raise ValueError(f"--gpu {name}: no such GPU; {hint} --gpus FILE adds one.")


def _read(path: Path) -> dict[str, Gpu]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path}: expected names of GPUs, each with {', '.join(_NUMBERS)}.")
    return {str(name): _gpu(path, str(name), values) for name, values in content.items()}


def _gpu(path: Path, name: str, values: Any) -> Gpu:
    if not isinstance(values, dict) or set(values) != set(_NUMBERS):
        got = ", ".join(map(str, values)) if isinstance(values, dict) else repr(values)
        raise ValueError(f"{path}: {name}: got {got}, expected exactly {', '.join(_NUMBERS)}.")
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ValueError(f"{path}: {name}.{key}: got {value!r}, expected a number above 0.")
    return Gpu(name, **{key: float(value) for key, value in values.items()})
