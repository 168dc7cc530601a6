"""Named GPUs: memory and peak speeds, from a YAML file that comes with the package and from files that add to it."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, RootModel, model_validator

from swd_video.config import Section, load_config_as

SHIPPED_GPUS = Path(__file__).parent / "gpus.yaml"


class Gpu(Section):
    """A kind of GPU."""

    name: str
    """As `--gpu` takes it."""
    memory_gib: float = Field(gt=0)
    """What a program can use."""
    bf16_tflops: float = Field(gt=0)
    """Dense peak in bfloat16."""
    fp32_tflops: float = Field(gt=0)
    """Peak in float32 outside of tensor cores."""
    bandwidth_gbps: float = Field(gt=0)
    """Memory bandwidth, 10^9 bytes a second."""

    def peak_flops(self, *, bf16: bool) -> float:
        """Operations a second that the maker promises."""
        return (self.bf16_tflops if bf16 else self.fp32_tflops) * 1e12


class _GpuFile(RootModel[dict[str, Gpu]]):
    """Numbers of GPUs by their names."""

    @model_validator(mode="before")
    @classmethod
    def _name(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {
            key: value | {"name": key} if isinstance(value, dict) else value for key, value in values.items()
        }


def load_gpus(more: Path | None = None) -> dict[str, Gpu]:
    """The shipped GPUs and those of another file, which wins where both have a name.

    Raises:
        ValueError: naming the file, the GPU and the key that is missing, unknown or not a number above 0.
    """
    files = [SHIPPED_GPUS] if more is None else [SHIPPED_GPUS, more]
    return {name: gpu for path in files for name, gpu in load_config_as(_GpuFile, path).root.items()}


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
