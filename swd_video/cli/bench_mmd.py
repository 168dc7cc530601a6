"""`swd-video bench mmd`: memory and time of the exact kernel MMD, beside its naive form."""

import json
import sys
from dataclasses import dataclass, replace
from typing import Any, Literal

from swd_video.cli.arguments import JsonFlag, read_arguments

_DESCRIPTION = """Memory and time of the exact kernel MMD, forward and backward, on random tokens.

The naive form, which holds the matrices of all pairs, runs beside it at a size where they fit; so do random features,
whose error is measured there. Memory is measured in fresh processes.
"""


@dataclass
class Arguments:
    """Flags of the command."""

    tokens: int = 32760
    """Tokens of the prediction and of the target; 32760 are a clip of 81x480x832 pixels in Wan 2.1."""
    channels: int = 1536
    """Channels of a token."""
    kernel: Literal["rbf", "rational_quadratic"] = "rbf"
    """Which kernel."""
    bandwidths: tuple[float, ...] = (1.0,)
    """Its bandwidths, in median distances."""
    naive_tokens: int = 4096
    """Tokens at which the naive form runs too; 0 leaves it out."""
    random_features: int = 1024
    """Frequencies of the random features."""
    rounds: int = 5
    """Runs of each in the comparison, of which the median counts."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to run."""
    json_output: JsonFlag = False
    """Print one JSON object on stdout instead of a summary."""


def run(argv: list[str]) -> int:
    """Run the bench."""
    arguments = read_arguments(Arguments, "bench mmd", argv, _DESCRIPTION)
    _check(arguments)
    from swd_video.cost.mmd_benchmark import Case, compare_with_naive, measure_exact

    case = Case(
        arguments.tokens, arguments.channels, arguments.kernel, arguments.bandwidths, arguments.device
    )
    print(f"exact, {case.tokens} tokens, forward and backward ...", file=sys.stderr, flush=True)
    result: dict[str, Any] = measure_exact(case)
    if arguments.naive_tokens:
        small = replace(case, tokens=arguments.naive_tokens)
        print(f"beside the naive form, {small.tokens} tokens ...", file=sys.stderr, flush=True)
        result |= compare_with_naive(small, arguments.random_features, arguments.rounds)
    print(json.dumps(result) if arguments.json_output else _describe(result))
    return 0


def _check(arguments: Arguments) -> None:
    for flag, least in (("tokens", 2), ("channels", 1), ("rounds", 1), ("random_features", 1)):
        value = getattr(arguments, flag)
        if value < least:
            raise ValueError(f"--{flag.replace('_', '-')}: got {value}, expected at least {least}.")
    if arguments.naive_tokens < 0 or arguments.naive_tokens == 1:
        raise ValueError(f"--naive-tokens: got {arguments.naive_tokens}, expected 0 or at least 2.")
    if not arguments.bandwidths or min(arguments.bandwidths) <= 0:
        raise ValueError(f"--bandwidths: got {arguments.bandwidths}, expected numbers above 0.")
    if arguments.random_features % len(arguments.bandwidths):
        raise ValueError(
            f"--random-features: {arguments.random_features} are shared by {len(arguments.bandwidths)} bandwidths; "
            "give a multiple."
        )
    if arguments.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ValueError("--device cuda: torch does not see one. Use --device cpu.")


def _describe(result: dict[str, Any]) -> str:
    lines = [
        f"exact {result['kernel']}, {result['tokens']} tokens x {result['channels']} channels, forward and backward: "
        f"{result['seconds']:.1f} s, {result['peak_gib_above_inputs']:.2f} GiB above the "
        f"{result['inputs_gib']:.2f} GiB of inputs"
    ]
    if naive := result.get("naive"):
        lines.append(
            f"at {naive['tokens']} tokens: {naive['exact_seconds']:.2f} s, naive form {naive['seconds']:.2f} s with "
            f"{naive['peak_gib_above_inputs']:.2f} GiB; ratio {naive['exact_over_naive_seconds']:.2f}"
        )
    if features := result.get("random_features"):
        lines.append(
            f"{features['frequencies']} random frequencies: {features['seconds']:.3f} s, error "
            f"{100 * features['relative_error']:.1f} % (root mean square of {features['draws']} draws)"
        )
    return "\n".join(lines)
