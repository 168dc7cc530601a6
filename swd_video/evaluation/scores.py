"""What is measured on the clips of a row, and what the measurements say beside another row's."""

import hashlib
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Int

from swd_video.core.interval import Estimate, bootstrap_mean, bootstrap_ratio, bootstrap_ratio_unpaired
from swd_video.evaluation.adherence import AttributeJudge, adherence
from swd_video.evaluation.clip_encoders import FrameFeatures, VideoFeatures, pool_frames
from swd_video.evaluation.clip_store import StoredClips, store_arrays
from swd_video.evaluation.consistency import subject_consistency
from swd_video.evaluation.diversity import diversity_share, prompt_diversity, thumbnail
from swd_video.evaluation.fidelity import frechet_estimate, kernel_estimate
from swd_video.evaluation.motion import FlowMethod, flicker_score, flow_magnitude
from swd_video.evaluation.rows import weights_digest
from swd_video.evaluation.sharpness import sharpness

_CLIPS_AT_ONCE = 4


@dataclass(frozen=True)
class Scores:
    """What was measured on each clip of a row.

    Attributes:
        captions: What the clip was asked to show.
        features: Of the encoder.
        thumbnails: See `thumbnail`.
        flow: Mean length of the optical flow, in pixels a frame.
        sharpness: See `sharpness`.
        flicker: See `flicker_score`.
        consistency: See `subject_consistency`.
        predictions: Classes that the judge read, by attribute; empty without a judge.
    """

    captions: tuple[str, ...]
    features: np.ndarray
    thumbnails: np.ndarray
    flow: np.ndarray
    sharpness: np.ndarray
    flicker: np.ndarray
    consistency: np.ndarray
    predictions: dict[str, np.ndarray]

    @property
    def prompts(self) -> Int[np.ndarray, " clips"]:
        """Number of each clip's prompt, whose samples are not independent."""
        return np.unique(self.captions, return_inverse=True)[1].astype(np.int64)


@dataclass(frozen=True)
class Judges:
    """The networks and methods that measure clips.

    Attributes:
        encoder: Describes clips, for distances and diversity.
        frame_encoder: Describes frames, for consistency; may be the same object.
        judge: Reads the attributes of a prompt back, if there is one.
        flow: How motion is measured.
    """

    encoder: VideoFeatures
    frame_encoder: FrameFeatures
    judge: AttributeJudge | None = None
    flow: FlowMethod = "dis"

    def digest(self) -> str:
        """Eight hexadecimal digits that change with anything that the scores depend on."""
        judge = "" if self.judge is None else weights_digest(self.judge)
        parts = [self.encoder.name, self.frame_encoder.name, judge, self.flow]
        parts += [field.name for field in fields(Scores)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]

    def measure(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        """Measure some clips; one array for each field of `Scores`, predictions as `read_ATTRIBUTE`."""
        per_frame = self.frame_encoder.frame_features(frames)
        shared = self.encoder is self.frame_encoder
        read = {} if self.judge is None else self.judge.predict(frames)
        return {
            "features": pool_frames(per_frame) if shared else self.encoder(frames),
            "thumbnails": np.stack([thumbnail(clip) for clip in frames]),
            "consistency": subject_consistency(per_frame),
            "flow": np.array([flow_magnitude(clip, self.flow) for clip in frames]),
            "sharpness": np.array([sharpness(clip) for clip in frames]),
            "flicker": np.array([flicker_score(clip) for clip in frames]),
            **{f"read_{name}": values for name, values in read.items()},
        }


def score_clips(clips: StoredClips, judges: Judges) -> Scores:
    """Measure a row's clips; scores are kept beside the clips and read back when nothing has changed."""
    path = clips.folder / f"scores-{judges.digest()}.npz"
    if not path.exists():
        print(f"{clips.folder.name}: judging {len(clips.captions)} clips", file=sys.stderr)
        parts = [
            judges.measure(batch[start : start + _CLIPS_AT_ONCE])
            for batch in clips.batches()
            for start in range(0, len(batch), _CLIPS_AT_ONCE)
        ]
        store_arrays(path, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    read = {name.removeprefix("read_"): arrays.pop(name) for name in list(arrays) if name.startswith("read_")}
    return Scores(clips.captions, predictions=read, **arrays)


def row_figures(
    scores: Scores, baseline: Scores, reference: Scores | None, labels: Mapping[str, np.ndarray]
) -> dict[str, Estimate]:
    """The quality figures of one row; intervals resample prompts.

    Args:
        scores: Of the row.
        baseline: Of the row whose motion and sharpness count as 1.
        reference: Of the clips that distances are measured to, real ones mostly; None measures none. Where they hold
            several samples of each of the baseline's prompts, their diversity and spread count as 1, else the
            baseline's.
        labels: The classes that the row's captions ask for, by attribute; empty without a judge.
    """
    prompts = scores.prompts
    read = adherence({name: scores.predictions[name] for name in labels}, labels, prompts) if labels else {}
    figures = {f"adherence_{name}": share for name, share in read.items()}
    if reference is not None:
        figures |= distances(scores, reference)
    figures["flow"] = _share("flow", scores, baseline)
    figures["flow_px"] = bootstrap_mean(scores.flow, prompts)
    figures["sharpness"] = _share("sharpness", scores, baseline)
    figures["flicker"] = bootstrap_mean(scores.flicker, prompts)
    figures["consistency"] = bootstrap_mean(scores.consistency, prompts)
    compared = reference if reference is not None and is_spread_over(reference, baseline) else baseline
    for name, field in (("diversity", "features"), ("spread", "thumbnails")):
        figures |= _diversity(name, field, scores, compared)
    return figures


def distances(scores: Scores, reference: Scores) -> dict[str, Estimate]:
    """How far a row's features lie from others' as a whole."""
    numbers = _numbers(scores, reference)
    ours, theirs = (np.array([numbers[c] for c in s.captions]) for s in (scores, reference))
    return {
        "kernel": kernel_estimate(scores.features, reference.features, ours, theirs),
        "frechet": frechet_estimate(scores.features, reference.features, ours),
    }


def distance_floor(reference: Scores) -> dict[str, Estimate]:
    """Distances of one half of the reference clips to the other: what clips of no fault at all would have.

    A prompt's clips are dealt to the halves in turn. With half the clips the Frechet distance is larger than with all.
    """
    order = np.argsort(reference.prompts, kind="stable")
    first, second = (_taken(reference, order[start::2]) for start in (0, 1))
    return distances(first, second)


def is_spread_over(reference: Scores, baseline: Scores) -> bool:
    """Whether the reference has two samples or more of every prompt of the baseline's."""
    counts = Counter(reference.captions)
    return all(counts[caption] > 1 for caption in set(baseline.captions))


def labels_from_captions(
    classes: Mapping[str, Sequence[str]], captions: Sequence[str]
) -> dict[str, Int[np.ndarray, " captions"]]:
    """The classes that captions name, in the judge's own words; of names inside each other the longest counts.

    Raises:
        ValueError: If a caption names no class of an attribute, or two.
    """
    return {
        attribute: np.array([_class_in(caption, attribute, names) for caption in captions], dtype=np.int64)
        for attribute, names in classes.items()
    }


def _class_in(caption: str, attribute: str, names: Sequence[str]) -> int:
    found = [name for name in names if re.search(rf"\b{re.escape(name)}\b", caption, flags=re.IGNORECASE)]
    widest = [name for name in found if not any(name != other and name in other for other in found)]
    if len(widest) != 1:
        what = "names no" if not widest else f"names both {widest[0]!r} and {widest[1]!r} as"
        raise ValueError(
            f"metrics.judge: prompt {caption!r} {what} {attribute} that the judge knows ({', '.join(names[:4])}, "
            "...); give prompts in its words, or leave the judge out."
        )
    return list(names).index(widest[0])


def _taken(scores: Scores, indices: np.ndarray) -> Scores:
    arrays = {
        field.name: getattr(scores, field.name)[indices]
        for field in fields(Scores)
        if field.name not in ("captions", "predictions")
    }
    captions = tuple(scores.captions[index] for index in indices)
    return Scores(captions, predictions={k: v[indices] for k, v in scores.predictions.items()}, **arrays)


def _numbers(*rows: Scores) -> dict[str, int]:
    """A number for each caption of these rows, in the captions' order whatever the rows."""
    return {caption: n for n, caption in enumerate(sorted({c for row in rows for c in row.captions}))}


def _diversity(name: str, field: str, scores: Scores, compared: Scores) -> dict[str, Estimate]:
    """How far samples of a prompt lie apart, as it is and as a share of other clips'."""
    numbers = _numbers(scores, compared)
    spread, theirs = (
        prompt_diversity(getattr(row, field), np.array([numbers[c] for c in row.captions]))
        for row in (scores, compared)
    )
    figures = {}
    if spread.keys() & theirs.keys():
        figures[name] = diversity_share(spread, theirs)
    if spread:
        figures[f"{name}_distance"] = bootstrap_mean(np.array(list(spread.values())))
    return figures


def _share(name: str, scores: Scores, baseline: Scores) -> Estimate:
    """Paired by clip or by prompt where both rows were asked for the same, else of two independent means."""
    ours, theirs = getattr(scores, name), getattr(baseline, name)
    if scores.captions == baseline.captions:
        return bootstrap_ratio(ours, theirs, scores.prompts)
    if set(scores.captions) == set(baseline.captions):
        return bootstrap_ratio(
            _mean_by_prompt(ours, scores.prompts), _mean_by_prompt(theirs, baseline.prompts)
        )
    return bootstrap_ratio_unpaired(ours, theirs, scores.prompts, baseline.prompts)


def _mean_by_prompt(values: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    return np.bincount(prompts, weights=values) / np.bincount(prompts)
