"""`swd-video encode CONFIG --out CACHE`: videos to latents on every grid of a schedule."""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from swd_video.cli.arguments import ConfigFile, JsonFlag, read_arguments_and_keys
from swd_video.files import check_writable
from swd_video.models.devices import Device

if TYPE_CHECKING:
    from swd_video.data.latent_cache_filling import CacheReport
    from swd_video.training.config import DistillConfig

_DESCRIPTION = """Encode the clips of a manifest into a cache that `swd-video distill` trains from.

Every clip is read at the model's frame rate, cropped to the shape of the schedule's last stage, shrunk in pixels
to every grid of the schedule, and encoded by the model's VAE; captions by its text encoder. A clip that cannot be
read, or is shorter or smaller than the last stage, is reported and skipped. Running the same command again after it
was stopped goes on where it was; a finished cache is left as it is, but for files that are missing or cut short, which
are encoded again. Once skipped clips are repaired, --retry-skipped takes them in.

Any key of the config can be set after the options: --model pocket-wan --data.manifest clips.jsonl.
"""


@dataclass(frozen=True)
class Arguments:
    """Options of `swd-video encode`."""

    config: ConfigFile
    """YAML file of a distillation, for example configs/pocket/swd.yaml: its model, schedule and data are used."""
    out: Path | None = None
    """Folder of the cache; by default the config's data.cache."""
    manifest: Path | None = None
    """JSON lines of path, caption, start and end; by default the config's data.manifest."""
    device: Device = "auto"
    """Where to encode; auto takes cuda, then mps, then cpu."""
    shard_size: int = 64
    """Clips in one file of the cache; what a kill loses at most."""
    dtype: Literal["float16", "bfloat16"] = "float16"
    """Precision of what is stored."""
    decoder: Literal["pyav", "auto", "decord"] = "pyav"
    """pyav notices damaged pictures; auto takes decord where it reads a healthy file alike."""
    retry_skipped: bool = False
    """Read the clips again that an earlier run skipped; the files of the cache that they belong to are made anew."""
    verify: bool = False
    """Read all files of a finished cache, say how much that was, and encode those again of which a byte has changed."""
    shard: str | None = None
    """Encode one part only, such as 1/4 for the first of four; the parts may run at once on one folder."""
    json_output: JsonFlag = False
    """Print one JSON object on stdout: out, complete, clips, samples, captions, skipped (path and reason of each),
    cut_captions (count, max_tokens, first), reused, grids, seconds."""


def run(argv: list[str]) -> int:
    """Encode a manifest; returns 1 if not one clip could be encoded, else 0."""
    arguments, keys = read_arguments_and_keys(Arguments, "encode", argv, _DESCRIPTION)
    started = time.monotonic()
    from swd_video.training.config import load_config

    config = load_config(arguments.config, keys)
    out = Path(arguments.out or config.data.cache)
    report = _encode(arguments, config, out)
    seconds, samples, clips = time.monotonic() - started, report.get("samples", 0), report["num_clips"]
    skipped = [{"path": clip["path"], "reason": clip["reason"]} for clip in report.get("skipped", ())]
    if arguments.json_output:
        summary = {"out": str(out), "complete": report["complete"], "clips": clips, "samples": samples}
        summary |= {"captions": report["num_captions"], "skipped": skipped}
        summary |= {key: report.get(key, {}) for key in ("cut_captions", "reused", "grids")}
        print(json.dumps({**summary, "seconds": round(seconds, 3)}))
    elif not report["complete"]:
        print(f"part {arguments.shard} is encoded, other parts are to come, in {seconds:.1f} s: {out}")
    else:
        grids = ", ".join(report["grids"])
        print(f"{samples} of {clips} clips on {grids}, {len(skipped)} skipped, in {seconds:.1f} s: {out}")
    if report["complete"] and not samples:
        print(f"error: {out}: not one of {clips} clips could be encoded.", file=sys.stderr)
        return 1
    return 0


def _encode(arguments: Arguments, config: "DistillConfig", out: Path) -> "CacheReport":
    import torch

    from swd_video.data.encode import encode_manifest
    from swd_video.data.latent_cache import INDEX_NAME
    from swd_video.data.latent_cache_filling import progress_bar
    from swd_video.data.manifest import read_manifest
    from swd_video.data.share import Share
    from swd_video.models.base import VideoModel
    from swd_video.models.devices import choose_device
    from swd_video.models.fingerprint import fingerprint_encoders
    from swd_video.models.loading import load_teacher, resolve_model_path

    manifest = arguments.manifest or config.data.manifest
    if manifest is None:
        raise ValueError(f"{arguments.config}: data.manifest: not set, so there is nothing to encode.")
    clips, share = read_manifest(manifest), Share.parse(arguments.shard)
    if not (out / INDEX_NAME).is_file():
        # Now, as a hub model may have to be downloaded.
        check_writable(out, "--out" if arguments.out else "data.cache")

    def load() -> VideoModel:
        precision: torch.dtype = getattr(torch, config.load.dtype)
        device, options = choose_device(arguments.device), config.load
        if device.startswith("cuda") and options.cpu_offload is None:
            # Text encoder and VAE are there one after the other, and the transformer, which nobody calls, never.
            options = options.model_copy(update={"cpu_offload": "model"})
        return load_teacher(config.model, device=device, dtype=precision, options=options)

    with progress_bar("encoding") as (progress, say):
        return encode_manifest(
            clips,
            load,
            [*config.data.extra_latent_grids, *config.scale_schedule().distinct_grids],
            out,
            model_name=config.model,
            encoders=fingerprint_encoders(resolve_model_path(config.model), config.load.adapter),
            batch_size=config.data.encode_batch_size,
            shard_size=arguments.shard_size,
            dtype=arguments.dtype,
            decoder=arguments.decoder,
            retry_skipped=arguments.retry_skipped,
            verify=arguments.verify,
            share=share,
            progress=progress,
            say=say,
        )
