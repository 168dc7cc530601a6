"""Takes between two stages, in memory and on disk: what is computed is never computed again, and several together.

After every stage a take leaves one small file with its clean latents and with where its noise was. Whoever comes later,
be it the next run after a kill or `render` after `draft`, goes on from there and gets the bytes of a run that never
stopped.
"""

import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from swd_video.files import whole_file
from swd_video.student.pipeline import ScaleWisePipeline
from swd_video.student.stage_state import StageState
from swd_video.studio.clips import PlannedClip
from swd_video.studio.continuation import start_picture
from swd_video.studio.folder import DRAFTS_REPORT_NAME, STATE_KEY, read_object
from swd_video.studio.script import MAX_TAKES

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class TakeState:
    """One take after a stage.

    Attributes:
        after: Its latents and its noise; None before the first stage.
        stage_seconds: Compute time of the stages done; in a batch, its share.
    """

    after: StageState | None = None
    stage_seconds: list[float | None] = field(default_factory=list)

    @property
    def stages(self) -> int:
        """How many are done."""
        return 0 if self.after is None else self.after.stages

    @property
    def is_finite(self) -> bool:
        """Whether the latents are numbers."""
        return self.after is None or bool(self.after.latents.isfinite().all())


def in_batches(items: Iterable[_Item], key: Callable[[_Item], Hashable], size: int) -> Iterator[list[_Item]]:
    """Items of the same key, so many at a time; the last of each key are fewer.

    A batch comes as soon as it is full. At most one of each key waits.
    """
    waiting: dict[Hashable, list[_Item]] = {}
    for item in items:
        batch = waiting.setdefault(kind := key(item), [])
        batch.append(item)
        if len(batch) == size:
            yield waiting.pop(kind)
    yield from waiting.values()


def kind_of(clip: PlannedClip) -> Hashable:
    """Clips that are equal in this can be computed together: size, and whether they start from a picture."""
    return clip.size, clip.take.shot.picture is not None or clip.continues is not None


def check_batch(batch: int | None) -> None:
    """Refuse, with a ValueError, what is no number of takes."""
    if batch is not None and not 1 <= batch <= MAX_TAKES:
        raise ValueError(f"--batch {batch}: expected a number of takes, from 1 to {MAX_TAKES}.")


def drafted_together(out: Path) -> int:
    """How many takes the last drafts in a folder of clips were computed with; 1 where there are none."""
    batch = read_object(out / DRAFTS_REPORT_NAME).get("batch")
    return batch if type(batch) is int and 1 <= batch <= MAX_TAKES else 1


def run_stages(
    clips: Sequence[PlannedClip],
    begun: Sequence[TakeState],
    pipe: ScaleWisePipeline,
    keep: Callable[[PlannedClip, TakeState], object],
    *,
    until: int | None = None,
    rows: int,
) -> list[TakeState]:
    """Run the next stages of some takes together.

    In a batch a clip is computed by other kernels than alone, which round differently. In batches of one size neither
    its neighbours nor, where widths fill a processor's vectors, its place matter; so batches that are not full are
    filled up.

    Args:
        clips: Takes of the same size, all with a picture or all without.
        begun: Where each is; all after the same stage.
        pipe: The loaded model.
        keep: Called after every stage with each take whose latents are numbers.
        until: How many stages are done at the end; default all.
        rows: Size of the batch, at least as many as there are clips.
    """
    filled = [*range(len(clips)), *[len(clips) - 1] * (rows - len(clips))]
    size = clips[0].size
    states = list(begun)
    # The seed makes its numbers on the CPU, so that they are the same whatever the model runs on.
    if states[0].after is None:
        seeds = [clips[row].take.seed for row in filled]
        noise: dict[str, Any] = {"generator": [torch.Generator("cpu").manual_seed(seed) for seed in seeds]}
    else:
        noise = {"start": StageState.join([state.after for row in filled if (state := states[row]).after])}
    pictures = [picture for clip in clips if (picture := start_picture(clip)) is not None]

    def on_stage(after: StageState, seconds: float) -> None:
        for row, (clip, one) in enumerate(zip(clips, after.split(), strict=False)):
            states[row] = TakeState(one, [*states[row].stage_seconds, seconds / len(clips)])
            if states[row].is_finite:
                keep(clip, states[row])

    pipe(
        [clips[row].prompt for row in filled],
        pictures=torch.cat([pictures[row] for row in filled]) if pictures else None,
        frames=size.frames,
        height=size.height,
        width=size.width,
        output_type="latent",
        stop=until,
        on_stage=on_stage,
        **noise,
    )
    return states


def write_state(clip: PlannedClip, state: TakeState, file: Path) -> None:
    """Write a take after a stage, in the place of the one before; it survives a power cut.

    Raises:
        OSError: It cannot be written.
    """
    assert state.after is not None and isinstance(state.after.generator, Sequence)
    (generator,) = state.after.generator
    tensors = {"latents": state.after.latents.cpu().contiguous(), "generator": generator.get_state()}
    about = {
        "stages_hash": clip.stages_hash,
        "stages": state.stages,
        "stage_seconds": state.stage_seconds,
    }
    with whole_file(file, durable=True) as draft:
        # As bytes, so that what the disk says is an error of the system's, which the next clip would meet as well.
        draft.write_bytes(save(tensors, {STATE_KEY: json.dumps(about)}))


def read_state(clip: PlannedClip, *files: Path) -> TakeState:
    """The take in the file that holds it furthest on; one before its first stage where none does."""
    found = [state for file in files if (state := _read(clip, file)) is not None]
    return max(found, key=lambda state: state.stages, default=TakeState())


def _read(clip: PlannedClip, file: Path) -> TakeState | None:
    try:
        with safe_open(file, framework="pt") as stored:
            about = json.loads(stored.metadata()[STATE_KEY])
            if about["stages_hash"] != clip.stages_hash:
                return None
            generator = torch.Generator("cpu")
            generator.set_state(stored.get_tensor("generator"))
            after = StageState(stored.get_tensor("latents"), about["stages"], [generator])
            return TakeState(after, about["stage_seconds"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
        return None
