"""An evaluation from its config to figures: every row's clips, what is measured on them, and what they cost."""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from swd_video.config import dump_config, load_saved
from swd_video.core.grid import PixelSize
from swd_video.cost.speed import machine_name
from swd_video.data.latent_cache import INDEX_NAME
from swd_video.data.texts import choose_prompts
from swd_video.evaluation.clip_store import StoredClips, make_clips
from swd_video.evaluation.config import EvaluateConfig, RealRowConfig, StudentRowConfig
from swd_video.evaluation.cost import Figures, cost_figures, figures_from_json
from swd_video.evaluation.judges import Judges
from swd_video.evaluation.metrics import all_metrics
from swd_video.evaluation.metrics.metric import Beside, Metric, Scores
from swd_video.evaluation.model_pool import ModelPool
from swd_video.evaluation.overlap import check_decoder, check_overlap
from swd_video.evaluation.report import write_figures
from swd_video.evaluation.results import Results, RowResult
from swd_video.evaluation.rows import Request, Row, prompt_requests, real_row
from swd_video.evaluation.scores import distance_floor, row_figures, score_clips
from swd_video.evaluation.targets import check_measured, check_targets
from swd_video.files import alone_in, remove_leftovers, write_text
from swd_video.models.loading import resolve_model_path
from swd_video.training.provenance import ADAPTATION_FILE, RECORD_FILE

RESULT_NAME = "evaluation.json"
CONFIG_NAME = "config.yaml"
_CLIPS, _COSTS = "clips", "costs"
# Two in each half.
_FEWEST_REAL = 4
_OF_OTHERS = (ADAPTATION_FILE, RECORD_FILE, INDEX_NAME)


def run_evaluation(config: EvaluateConfig, out: Path, *, title: str, device: str) -> Results:
    """Make the clips that are missing, measure what was not measured yet, and write `evaluation.json`.

    Raises:
        ValueError: Something that the config names is missing or cannot work, a student would be judged by what
            trained it, a prompt asks for what the judge does not know, a target for what is not measured, or the
            folder is another command's.
        FolderInUseError: Another evaluation writes there.
    """
    with alone_in(out):
        for folder in (out / _COSTS, *(out / _CLIPS).glob("*")):
            if folder.is_dir():
                remove_leftovers(folder)
        return _evaluate(config, out, title=title, device=device)


def _evaluate(config: EvaluateConfig, out: Path, *, title: str, device: str) -> Results:
    if (out / CONFIG_NAME).is_file():
        load_saved(EvaluateConfig, out / CONFIG_NAME)  # a run's says by what its student must not be judged
    for name in _OF_OTHERS:
        if (out / name).is_file():
            raise ValueError(f"{out}: holds the files of another command ({name}); choose another --out.")
    prompts = choose_prompts(config.prompts, config.prompts_file, config.num_prompts)
    unrecorded = _check_students(config)
    sources = _find_sources(config)
    judges = Judges.load(config.metrics, device=device)
    metrics = all_metrics(judges.classes, config.metrics.others)
    for metric in metrics:
        metric.check(prompts)
    check_measured(config, metrics, judges)
    pool = ModelPool(getattr(torch, config.dtype), device)
    size, fps = pool.size_and_fps(config)
    rows = _rows(config, pool, prompts, sources, size, fps)
    _check_counts(config, {key: len(requests) for key, (_, requests) in rows.items()})
    machine = machine_name(device)

    out.mkdir(parents=True, exist_ok=True)
    write_text(out / CONFIG_NAME, dump_config(config))

    def measured(row: Row, requests: Sequence[Request]) -> tuple[StoredClips, Scores]:
        stored = make_clips(row, requests, out / _CLIPS, seed=config.seed, batch_size=config.batch_size)
        return stored, score_clips(stored, metrics, judges)

    real = None
    if config.metrics.real_clips is not None:
        section = RealRowConfig(key="real-clips", clips=config.metrics.real_clips)
        real = measured(real_row(section, size, fps, sources[""]), sources[""])[1]
    scores = {key: measured(row, requests) for key, (row, requests) in rows.items()}
    baseline = scores[config.reference][1]
    costs = _costs(config, rows, out, machine)
    results = []
    for key, (row, _) in rows.items():
        stored, found = scores[key]
        # The distance of a set to itself says nothing.
        others = Beside(baseline, baseline if real is None and key != config.reference else real)
        figures: Figures = {**row_figures(_that_can_judge(metrics, key, stored), found, others)}
        results.append(RowResult(key, row.title, figures | costs.get(key, {}), stored))
    beside = Beside(baseline, real)
    num_clips = len(prompts) * config.samples_per_prompt
    about = _how_made(config, judges, size, fps, machine, num_clips) | {
        "title": f"Evaluation: {title}",
        "num_prompts": len(prompts),
        "unrecorded": unrecorded,
        "clips": {row.key: len(row.clips.captions) for row in results},
        "distances_to": "real clips" if real is not None else f"the clips of {config.reference}",
        "spread_of": "real clips" if beside.spread_of is real else rows[config.reference][0].title,
        "real_clips": None if real is None else len(real.captions),
    }
    floor = {} if real is None else distance_floor(metrics, real)
    whole = Results(results, config.reference, about, metrics, config.margins, floor, config.pairs)
    whole = replace(whole, targets=check_targets(config.targets, whole))
    write_figures(out / RESULT_NAME, whole.as_json())
    return whole


def _rows(
    config: EvaluateConfig,
    pool: ModelPool,
    prompts: Sequence[str],
    sources: Mapping[str, Sequence[Any]],
    size: PixelSize,
    fps: float,
) -> dict[str, tuple[Row, Sequence[Request]]]:
    """Every row by its key, and what its clips are to show."""
    asked = prompt_requests(prompts, config.samples_per_prompt)
    rows: dict[str, tuple[Row, Sequence[Request]]] = {}
    for section in config.rows:
        if isinstance(section, RealRowConfig):
            through = section.through_vae_of
            codec = pool.teacher(through, decoder=section.decoder) if through else None
            clips = sources[section.key]
            rows[section.key] = real_row(section, size, fps, clips, codec), clips
        else:
            rows[section.key] = pool.row(section, size), asked
    return rows


def _how_made(
    config: EvaluateConfig, judges: Judges, size: PixelSize, fps: float, machine: str, num_clips: int
) -> dict[str, Any]:
    """What the results say of their making, as far as it does not depend on them."""
    return {
        "samples_per_prompt": config.samples_per_prompt,
        "size": str(size),
        "fps": fps,
        "seed": config.seed,
        "dtype": config.dtype,
        "judge": config.metrics.judge,
        "models": {row.key: row.model for row in config.sampled_rows},
        "encoder": judges.encoder.name,
        "frame_encoder": judges.frame_encoder.name,
        "optical_flow": judges.flow,
        "timed_rounds": config.cost and config.cost.rounds,
        "timed_batch": config.cost and min(config.cost.batch_size, num_clips),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": machine,
    }


def _check_students(config: EvaluateConfig) -> list[str]:
    """Refuse rows whose student or decoder a judging network trained; returns the students that do not say."""
    section = config.metrics
    networks = {"metrics.encoder": section.encoder, "metrics.frame_encoder": section.frame_encoder}
    if section.judge is not None:
        networks["metrics.judge"] = section.judge
    own = {f"metrics.others: {m.key}": m.network for m in all_metrics(others=section.others) if m.network}
    networks |= own
    for row in config.rows:
        if isinstance(row.decoder, Path):
            check_decoder(row.decoder, networks)
    students = [row for row in config.rows if isinstance(row, StudentRowConfig)]
    return [
        row.key
        for row in students
        if not check_overlap(resolve_model_path(row.model), networks, own_decoder=row.decoder is None)
    ]


def _find_sources(config: EvaluateConfig) -> dict[str, Sequence[Any]]:
    """Real clips by the key of their row; under "" those that distances are measured to."""
    sections = {row.key: row.clips for row in config.rows if isinstance(row, RealRowConfig)}
    sources = {key: source.find() for key, source in sections.items()}
    reference = config.metrics.real_clips
    if reference is None:
        return sources
    compared = reference.find()
    if len(compared) < _FEWEST_REAL:
        raise ValueError(
            f"metrics.real_clips: got {len(compared)} clips, expected {_FEWEST_REAL} or more, as the distance of one "
            "half of them to the other is the floor; raise count or add clips."
        )
    known = {reference.place(clip) for clip in compared}
    for key, clips in sources.items():
        shared = sum(sections[key].place(clip) in known for clip in clips)
        if shared:
            raise ValueError(
                f"metrics.real_clips: {shared} of the {len(clips)} clips of row {key!r} are among them, which makes "
                "their distance too small; set first and count so that the sets share none."
            )
    return {**sources, "": compared}


def _check_counts(config: EvaluateConfig, counts: Mapping[str, int]) -> None:
    """Refuse rows of a single clip, by the number of clips of each, where distances are measured with them."""
    for key, count in counts.items():
        if count < 2 and (len(counts) > 1 or config.metrics.real_clips is not None):
            raise ValueError(
                f"row {key!r}: has {count} clip, expected 2 or more, as the distances of sets are measured; raise "
                "num_prompts or samples_per_prompt."
            )


def _that_can_judge(metrics: Sequence[Metric], key: str, clips: StoredClips) -> list[Metric]:
    """The metrics that know what a row's captions ask for: those of real clips may be in other words."""
    able = []
    for metric in metrics:
        try:
            metric.check(clips.captions)
            able.append(metric)
        except ValueError as error:
            print(f"{key}: no {metric.title}, for its captions cannot be judged by: {error}", file=sys.stderr)
    return able


def _costs(
    config: EvaluateConfig, rows: Mapping[str, tuple[Row, Sequence[Request]]], out: Path, machine: str
) -> dict[str, Figures]:
    """Measured once: the same rows on the same machine with the same threads are not timed again."""
    timed = [(row, requests) for row, requests in rows.values() if row.modules]
    if config.cost is None or not timed:
        return {}
    requests = timed[0][1][: config.cost.batch_size]
    conditions = [
        *[row.digest(row.key) for row, _ in timed],
        [str(request) for request in requests],
        config.cost.rounds,
        torch.get_num_threads(),
        torch.__version__,
        machine,
    ]
    digest = hashlib.sha256(json.dumps(conditions).encode()).hexdigest()[:8]
    path = out / _COSTS / f"{digest}.json"

    def read() -> dict[str, Figures]:
        return figures_from_json(json.loads(path.read_text(encoding="utf-8")))

    if path.is_file():
        try:
            return read()
        except (ValueError, TypeError, AttributeError):
            print(f"warning: {path}: the file is damaged; the rows are timed again.", file=sys.stderr)
    measured = [row for row, _ in timed]
    write_figures(path, cost_figures(measured, requests, rounds=config.cost.rounds, seed=config.seed))
    return read()
