"""`swd-video decoder CONFIG --out DIR`: from a VAE and clips to a small, fast decoder."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swd_video.cli.arguments import ConfigFile, JsonFlag, read_arguments_and_keys

_DESCRIPTION = """Distil the decoder of a model's VAE into a small one that decodes a clip as a stream.

It learns from clips and their latents, which are encoded first where the cache is not complete; its target are the
clips, not what the VAE makes of them. Running the same command again after it was stopped goes on from the last
checkpoint. In the end both are compared on clips that were not trained on.

Any key of the config is a flag too: --train.steps 2000 --decoder.widths "[96, 32]". The keys and their defaults are
explained in docs/keys.md and swd_video/training/decoder_config.py; DIR/config.yaml shows all that were used.
"""

_ROWS = {
    "psnr_db": "PSNR, dB",
    "ssim": "SSIM",
    "laplacian_energy": "Laplacian energy, share of the clips' own",
    "motion_error": "error of differences in time",
}


@dataclass
class _Arguments:
    config: ConfigFile
    """YAML file, for example configs/pocket/decoder.yaml."""
    out: Path
    """Folder of the run: decoder.safetensors, report.json, config.yaml, samples/, checkpoint.pt."""
    student: Path | None = None
    """Folder of a student of the same VAE that carries the decoder from then on."""
    json_output: JsonFlag = False
    """Print one JSON object on stdout: file, clips, skipped, parameters, and for vae, decoder and difference (decoder
    less VAE, paired): psnr_db, ssim, laplacian_energy, motion_error, each with value, low and high."""


def run(argv: list[str]) -> int:
    """Run the command; returns 1 when training stopped at a loss that is not finite, else 0."""
    arguments, keys = read_arguments_and_keys(_Arguments, "decoder", argv, _DESCRIPTION)
    from swd_video.config import load_config_as
    from swd_video.training.decoder_config import DecoderConfig

    config = load_config_as(DecoderConfig, arguments.config, keys)
    from swd_video.models.fingerprint import fingerprint_vae
    from swd_video.student.student import Student
    from swd_video.training.decoder import DECODER_FILE, distill_decoder
    from swd_video.training.finite import NonFiniteError

    student = None if arguments.student is None else Student.load(arguments.student)
    if student is not None and fingerprint_vae(student.base_path) != fingerprint_vae(config.model):
        raise ValueError(
            f"--student: {arguments.student} has another VAE than {config.model}, whose latents the decoder "
            "learns; name another student, or change the config's model."
        )
    try:
        report = distill_decoder(config, arguments.out)
    except NonFiniteError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    path = arguments.out / DECODER_FILE
    if student is not None:
        student.carry_decoder(path)
    if arguments.json_output:
        print(json.dumps({"file": str(path), **report}))
    else:
        print(_table(report))
        print(f"decoder of {report['parameters']:,} weights: {path}", file=sys.stderr)
    return 0


def _table(report: dict[str, Any]) -> str:
    lines = [f"on {report['clips']} clips that were not trained on:"]
    for key, title in _ROWS.items():
        vae, fast, gain = (report[whose][key] for whose in ("vae", "decoder", "difference"))
        lines.append(
            f"  {title:<42} VAE {vae['value']:.4g}   decoder {fast['value']:.4g}   "
            f"difference {gain['value']:+.3g} [{gain['low']:+.3g}, {gain['high']:+.3g}]"
        )
    return "\n".join(lines)
