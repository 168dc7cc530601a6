"""`swd-video synthesize CONFIG --out CACHE`: a teacher makes training clips, as latents on every grid."""

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from swd_video.files import check_writable

if TYPE_CHECKING:
    from swd_video.data.synthesis_config import SynthesizeConfig
    from swd_video.data.synthesize import Recipe, SynthesisReport

HELP = "let a teacher make the clips that a student is trained on"

_DESCRIPTION = """Make training clips with a teacher, straight into a cache that `swd-video distill` trains from.

Every clip is sampled on the last of the config's grids, decoded, shrunk in pixels to the others and encoded again.
Running the same command again after it was stopped goes on where it was. Several processes may share the work with
--shard 1/4 to --shard 4/4, on one folder or on several machines whose folders are put together afterwards.

Any key of the config is a flag too: --steps 30 --samples-per-prompt 2. The keys and their defaults are explained in
docs/distill.md and swd_video/data/synthesis_config.py.
"""

CONFIG_NAME = "synthesize.yaml"


@dataclass(frozen=True)
class Arguments:
    """Options of `swd-video synthesize`."""

    config: tyro.conf.Positional[Path]
    """YAML file, for example configs/pocket/synthesize.yaml."""
    out: Path
    """Folder of the cache: what data.cache of a distillation names."""
    shard: str | None = None
    """I/N: make the I-th of N parts of the prompts; default all."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to run; auto takes cuda, then mps, then cpu."""
    json_output: Annotated[bool, tyro.conf.arg(name="json")] = field(default=False)
    """Print one JSON object on stdout: out, clips, captions, made, is_complete, cut_prompts (count, max_tokens, first),
    grids, seconds."""


def run(argv: list[str]) -> int:
    """Make the clips; returns 0.

    Raises:
        ValueError: The config, the model, the prompts or the cache folder is not usable.
    """
    arguments, rest = tyro.cli(
        Arguments,
        prog="swd-video synthesize",
        description=_DESCRIPTION,
        args=argv,
        return_unknown_args=True,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    started = time.monotonic()
    from swd_video.config import load_config_as, parse_overrides
    from swd_video.data.latent_cache import INDEX_NAME
    from swd_video.data.synthesis_config import SynthesizeConfig
    from swd_video.data.synthesize import finished_synthesis
    from swd_video.data.texts import describe_cut

    config = load_config_as(SynthesizeConfig, arguments.config, parse_overrides(rest))
    if not (arguments.out / INDEX_NAME).is_file():
        check_writable(arguments.out)  # now, as a hub model may have to be downloaded
    recipe = _recipe(config)
    report = finished_synthesis(arguments.out, recipe, config.latent_grids)
    if report is not None:
        print(f"{arguments.out} is finished already", file=sys.stderr)
        if report.cut_prompts.get("count"):
            cut = report.cut_prompts
            print(describe_cut(cut["first"], cut["max_tokens"], "prompt", cut["count"]), file=sys.stderr)
    else:
        check_writable(arguments.out)
        report = _synthesize(arguments, config, recipe)
    summary = {
        "out": str(arguments.out),
        "clips": report.clips,
        "captions": report.captions,
        "made": report.made,
        "is_complete": report.is_complete,
        "cut_prompts": report.cut_prompts,
        "grids": list(config.grids),
        "seconds": round(time.monotonic() - started, 3),
    }
    if arguments.json_output:
        print(json.dumps(summary))
    else:
        state = "complete" if report.is_complete else "other parts are missing"
        print(
            f"made {report.made} of {report.clips} clips in {summary['seconds']} s, {state}: {arguments.out}"
        )
    return 0


def _recipe(config: "SynthesizeConfig") -> "Recipe":
    from swd_video.data.prompts import choose_prompts, clean_prompt
    from swd_video.data.synthesize import Recipe
    from swd_video.models.checkpoints import read_pipeline_name
    from swd_video.models.fingerprint import fingerprint_folders
    from swd_video.models.loading import model_folder
    from swd_video.models.registry import adapter_for

    folder, guidance = model_folder(config.model), config.guidance_scale
    if guidance is None:
        guidance = adapter_for(read_pipeline_name(folder)).guidance_scale
    return Recipe(
        teacher=fingerprint_folders([folder]),
        prompts=tuple(choose_prompts(config.prompts, config.prompts_file)),
        samples_per_prompt=config.samples_per_prompt,
        seed=config.seed,
        steps=config.steps,
        guidance_scale=guidance,
        guidance_scale_2=config.guidance_scale_2,
        embedded_guidance=config.embedded_guidance,
        negative_prompt=clean_prompt(config.negative_prompt, "negative_prompt:"),
        shift=config.shift,
        keep_latents=config.keep_latents,
        batch_size=config.batch_size,
        dtype=config.dtype,
    )


def _synthesize(arguments: Arguments, config: "SynthesizeConfig", recipe: "Recipe") -> "SynthesisReport":
    import torch
    from tqdm import tqdm

    from swd_video.cli.devices import choose_device
    from swd_video.config import dump_config
    from swd_video.data.shards import Shard
    from swd_video.data.synthesize import synthesize
    from swd_video.models.fingerprint import fingerprint_encoders
    from swd_video.models.loading import LoadOptions, load_model, resolve_model_path
    from swd_video.models.teacher_sampling import chosen_guidance

    shard = Shard.parse(arguments.shard)
    model = load_model(
        config.model,
        dtype=getattr(torch, config.dtype),
        device=choose_device(arguments.device),
        options=LoadOptions(embedded_guidance=config.embedded_guidance),
    )
    chosen_guidance(model.spec, recipe.guidance_scale, recipe.negative_prompt)
    with tqdm(unit="clip", desc="synthesize", file=sys.stderr, disable=None) as bar:

        def show(done: int, to_do: int) -> None:
            bar.total = to_do
            bar.update(done - bar.n)

        return synthesize(
            model,
            recipe,
            config.latent_grids,
            arguments.out,
            model_name=config.model,
            encoders=fingerprint_encoders(resolve_model_path(config.model)),
            prompts_per_file=config.prompts_per_file,
            dtype=config.cache_dtype,
            shard=shard,
            notes={CONFIG_NAME: dump_config(config)},
            progress=show,
            say=lambda line: bar.write(line, file=sys.stderr),
        )
