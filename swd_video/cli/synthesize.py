"""`swd-video synthesize CONFIG --out CACHE`: a teacher makes training clips, as latents on every grid."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from swd_video.cli.arguments import ConfigFile, JsonFlag, read_arguments_and_keys
from swd_video.files import check_writable
from swd_video.models.devices import Device

_DESCRIPTION = """Make training clips with a teacher, straight into a cache that `swd-video distill` trains from.

Every clip is sampled on the last of the config's grids, decoded, shrunk in pixels to the others and encoded again.
Running the same command again after it was stopped goes on where it was. Several processes may share the work with
--shard 1/4 to --shard 4/4, on one folder or on several machines whose folders are put together afterwards.

Any key of the config is a flag too: --steps 30 --samples-per-prompt 2. The keys and their defaults are explained in
docs/keys.md and swd_video/data/sections.py.
"""


@dataclass(frozen=True)
class Arguments:
    """Options of `swd-video synthesize`."""

    config: ConfigFile
    """YAML file, for example configs/pocket/synthesize.yaml."""
    out: Path
    """Folder of the cache: what data.cache of a distillation names."""
    shard: str | None = None
    """I/N: make the I-th of N parts of the prompts; default all."""
    device: Device = "auto"
    """Where to run; auto takes cuda, then mps, then cpu."""
    json_output: JsonFlag = False
    """Print one JSON object on stdout: out, clips, captions, made, is_complete, cut_prompts (count, max_tokens, first),
    grids, seconds."""


def run(argv: list[str]) -> int:
    """Make the clips; returns 0."""
    arguments, keys = read_arguments_and_keys(Arguments, "synthesize", argv, _DESCRIPTION)
    started = time.monotonic()
    from swd_video.config import load_config_as
    from swd_video.data.sections import SynthesizeConfig

    config = load_config_as(SynthesizeConfig, arguments.config, keys)
    from swd_video.data.latent_cache import INDEX_NAME
    from swd_video.data.latent_cache_filling import progress_bar
    from swd_video.data.share import Share
    from swd_video.data.synthesize import synthesize
    from swd_video.models.devices import choose_device

    device, share = choose_device(arguments.device), Share.parse(arguments.shard)
    if not (arguments.out / INDEX_NAME).is_file():
        check_writable(arguments.out)  # now, as a hub model may have to be downloaded
    with progress_bar("synthesize") as (progress, say):
        report = synthesize(config, arguments.out, device=device, share=share, progress=progress, say=say)
    made, clips, seconds = report["made"], report["num_clips"], round(time.monotonic() - started, 3)
    if arguments.json_output:
        summary = {
            "out": str(arguments.out),
            "clips": clips,
            "captions": report["num_captions"],
            "made": made,
            "is_complete": report["complete"],
            "cut_prompts": report.get("cut_captions", {}),
            "grids": list(config.grids),
            "seconds": seconds,
        }
        print(json.dumps(summary))
    else:
        state = "complete" if report["complete"] else "other parts are missing"
        print(f"made {made} of {clips} clips in {seconds} s, {state}: {arguments.out}")
    return 0
