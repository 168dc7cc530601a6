"""GPUs by name, and files that add to them."""

import re
from pathlib import Path

import pytest

from swd_video.cost.gpus import load_gpus, pick_gpus

NUMBERS = "{memory_gib: 47.5, bf16_tflops: 362, fp32_tflops: 91.6, bandwidth_gbps: 864}"


def test_the_promised_gpus_are_there() -> None:
    gpus = load_gpus()
    assert list(gpus) == ["A100-80", "H100", "H200", "4090", "5090"]
    for gpu in gpus.values():
        assert gpu.peak_flops(bf16=True) > gpu.peak_flops(bf16=False) > 1e13


def test_a_file_adds_gpus_and_replaces_those_of_the_same_name(tmp_path: Path) -> None:
    path = tmp_path / "more.yaml"
    path.write_text(f"L40S: {NUMBERS}\nH100: {NUMBERS}\n")
    gpus = load_gpus(path)
    assert len(gpus) == 6
    assert pick_gpus(gpus, "l40s")[0].bf16_tflops == 362
    assert gpus["H100"].memory_gib == 47.5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected keys at the top"),
        ("- L40S", "expected keys at the top"),
        ("L40S: {memory_gib: 48, bandwidth_gbps: 864}", ":1: L40S.bf16_tflops: missing; add it"),
        ("L40S: 48", ":1: L40S: expected keys and values"),
        (
            f"L40S: {NUMBERS.replace('864', '-1')}",
            ":1: L40S.bandwidth_gbps: input should be greater than 0, got -1",
        ),
        (f"L40S: {NUMBERS.replace('864', 'fast')}", "L40S.bandwidth_gbps: input should be a valid number"),
        (f"L40S: {NUMBERS.replace('memory', 'memry')}", "memry_gib: unknown key; did you mean memory_gib?"),
        ("L40S: [", "not valid YAML"),
    ],
)
def test_files_that_cannot_be_used_are_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "more.yaml"
    path.write_text(content)
    with pytest.raises(ValueError) as error:
        load_gpus(path)
    assert str(path) in str(error.value) and message in str(error.value)
    assert "\n" not in str(error.value)


def test_what_follows_a_hyphen_may_be_left_out_where_that_leaves_one_gpu(tmp_path: Path) -> None:
    assert [gpu.name for gpu in pick_gpus(load_gpus(), "a100")] == ["A100-80"]
    path = tmp_path / "more.yaml"
    path.write_text(f"A100-40: {NUMBERS}\n")
    with pytest.raises(ValueError, match=re.escape("--gpu A100: could be A100-80 or A100-40; give one of")):
        pick_gpus(load_gpus(path), "A100")
    assert [gpu.name for gpu in pick_gpus(load_gpus(path), "A100-40")] == ["A100-40"]


def test_a_mistyped_gpu_is_suggested() -> None:
    with pytest.raises(ValueError, match=re.escape("--gpu H1000: no such GPU; did you mean H100?")):
        pick_gpus(load_gpus(), "H1000")
