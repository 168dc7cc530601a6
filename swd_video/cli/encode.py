"""`swd-video encode CONFIG --out CACHE`: videos to latents on every grid of a schedule."""

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from swd_video.files import check_writable

if TYPE_CHECKING:
    from swd_video.core.grid import LatentSize
    from swd_video.data.encode import EncodeReport
    from swd_video.data.latent_cache import SkippedClip
    from swd_video.data.manifest import Clip
    from swd_video.training.config import DistillConfig

HELP = "encode videos into a cache of latents on every grid"

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

    config: tyro.conf.Positional[Path]
    """YAML file of a distillation, for example configs/pocket/swd.yaml: its model, schedule and data are used."""
    out: Path | None = None
    """Folder of the cache; by default the config's data.cache."""
    manifest: Path | None = None
    """JSON lines of path, caption, start and end; by default the config's data.manifest."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
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
    """Read all files of a finished cache and encode those again of which a byte has changed."""
    shard: str | None = None
    """Encode one part only, such as 1/4 for the first of four; the parts may run at once on one folder."""
    json_output: Annotated[bool, tyro.conf.arg(name="json")] = field(default=False)
    """Print one JSON object on stdout: out, complete, clips, samples, captions, skipped (path and reason of each),
    cut_captions (count, max_tokens, first), reused, grids, seconds."""


def run(argv: list[str]) -> int:
    """Encode a manifest; returns 1 if not one clip could be encoded, else 0.

    Raises:
        ValueError: The config, the manifest, the model or the cache folder is not usable.
    """
    arguments, rest = tyro.cli(
        Arguments,
        prog="swd-video encode",
        description=_DESCRIPTION,
        args=argv,
        return_unknown_args=True,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    started = time.monotonic()
    from swd_video.config import parse_overrides
    from swd_video.data.latent_cache import INDEX_NAME
    from swd_video.data.manifest import read_manifest
    from swd_video.training.config import load_config

    config = load_config(arguments.config, parse_overrides(rest))
    manifest = arguments.manifest or config.data.manifest
    if manifest is None:
        raise ValueError(f"{arguments.config}: data.manifest: not set, so there is nothing to encode.")
    out = Path(arguments.out or config.data.cache)
    clips = read_manifest(manifest)
    grids = _grids(config)
    report = _encode(arguments, config, clips, grids, out)
    seconds = time.monotonic() - started
    if arguments.json_output:
        skipped = [{"path": clip.path, "reason": clip.reason} for clip in report.skipped]
        counts = {"clips": report.clips, "samples": report.samples, "captions": report.captions}
        summary = {"out": str(out), "complete": report.is_complete, **counts}
        summary |= {"skipped": skipped, "cut_captions": report.cut_captions, "reused": report.reused}
        summary["grids"] = [str(grid) for grid in grids]
        print(json.dumps({**summary, "seconds": round(seconds, 3)}))
    elif not report.is_complete:
        print(f"part {arguments.shard} is encoded, other parts are to come, in {seconds:.1f} s: {out}")
    else:
        print(
            f"{report.samples} of {report.clips} clips on {', '.join(map(str, grids))}, {len(report.skipped)} skipped, "
            f"in {seconds:.1f} s: {out}"
        )
    if report.skipped:
        names = f"{out / INDEX_NAME} names the skipped clips"
        _say(f"{report.describe_skipped()} {names}; repair them and run this again with --retry-skipped.")
    if report.is_complete and not report.samples:
        _say(f"error: {out}: not one of {report.clips} clips could be encoded.")
        return 1
    return 0


def _grids(config: "DistillConfig") -> "list[LatentSize]":
    """The grids of other schedules that the config asks for, then its own: what `distill` encodes too."""
    from swd_video.core.grid import LatentSize

    extra = [LatentSize.parse(text) for text in config.data.extra_grids]
    return list(dict.fromkeys([*extra, *config.scale_schedule().distinct_grids]))


def _encode(
    arguments: Arguments,
    config: "DistillConfig",
    clips: "list[Clip]",
    grids: "list[LatentSize]",
    out: Path,
) -> "EncodeReport":
    import torch

    from swd_video.cli.devices import choose_device
    from swd_video.data.encode import encode_manifest, finished_report
    from swd_video.data.latent_cache import INDEX_NAME
    from swd_video.data.shards import Shard
    from swd_video.data.texts import describe_cut
    from swd_video.models.fingerprint import fingerprint_encoders
    from swd_video.models.loading import load_model, resolve_model_path

    shard = Shard.parse(arguments.shard)
    flag = "--out" if arguments.out else "data.cache"
    if not (out / INDEX_NAME).is_file():
        check_writable(out, flag)  # now, as a hub model may have to be downloaded
    encoders = fingerprint_encoders(resolve_model_path(config.model))
    same: dict[str, Any] = {
        "model_name": config.model,
        "encoders": encoders,
        "dtype": arguments.dtype,
        "verify": arguments.verify,
    }
    finished = finished_report(out, clips, grids, **same)
    if finished is not None and not (arguments.retry_skipped and finished.skipped):
        _say(f"{out} is finished already")
        if finished.cut_captions.get("count"):
            cut = finished.cut_captions
            _say(describe_cut(cut["first"], cut["max_tokens"], "caption", cut["count"]))
        return finished
    check_writable(out, flag)
    precision: torch.dtype = getattr(torch, config.load.dtype)
    device = choose_device(arguments.device)
    model = load_model(config.model, device=device, dtype=precision, options=config.load)
    with _progress_bar() as bar:

        def show(done: int, to_do: int) -> None:
            bar.total = to_do
            bar.update(done - bar.n)

        def skip(clip: "SkippedClip") -> None:
            bar.write(f"skipped {clip.path}: {clip.reason}", file=sys.stderr)

        return encode_manifest(
            clips,
            model,
            grids,
            out,
            **same,
            batch_size=config.data.encode_batch_size,
            shard_size=arguments.shard_size,
            decoder=arguments.decoder,
            retry_skipped=arguments.retry_skipped,
            shard=shard,
            progress=show,
            on_skip=skip,
            say=lambda line: bar.write(line, file=sys.stderr),
        )


def _progress_bar() -> Any:
    from tqdm import tqdm

    return tqdm(unit="clip", desc="encoding", file=sys.stderr, disable=None)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
