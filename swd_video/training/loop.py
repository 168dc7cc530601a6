"""The training loop: steps, checkpoints, samples, logs, and a student at the end."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from diffusers import ModelMixin
from tqdm import tqdm

from swd_video.core.upsampler import LatentUpsampler
from swd_video.files import write_json
from swd_video.student.loading import EncoderRecord, save_student
from swd_video.training.checkpoint import CheckpointFolder
from swd_video.training.clip_log import add_clip
from swd_video.training.collapse import ClipsByPrompt, collapse_warning
from swd_video.training.progress import SmoothLoss, TimeLeft, format_seconds
from swd_video.training.samples import SampleWriter, with_shares
from swd_video.training.step import Stepper, StepReport

STUDENT_FOLDER, SUMMARY_FILE = "student", "train.json"


@dataclass(frozen=True)
class LoopSettings:
    """When things happen, in steps; 0 for never.

    Attributes:
        steps: how many to take.
        checkpoint_every: steps between checkpoints; one is also written at the end.
        sample_every: steps between sample clips.
        log_every: steps between TensorBoard entries.
        average: whether samples and the final student use the running average of the weights.
        collapse_share: see `collapse.collapse_warning`.
    """

    steps: int
    checkpoint_every: int
    sample_every: int = 0
    log_every: int = 10
    average: bool = True
    collapse_share: float = 0.0


@dataclass
class Run:
    """A distillation ready to start or to go on.

    Attributes:
        folder: gets everything.
        base_model: name of the teacher, for the student's folder.
        positions: "native" or "rescaled", likewise.
        stepper: takes steps.
        checkpoints: where they are kept.
        samples: writes sample clips, if any.
        settings: when things happen.
        result: what is written in the end; by default `student/` in the folder.
        encoders: networks of pixels that the loss looks through, for the student's folder.
        transformer_file: whose weights a student's additions belong to, likewise, where it is not the teacher's own.
        upsampler: likewise, the network that takes clips from grid to grid, if one does.
        made_of: likewise, see `provenance`; None where that is not known.
        save: writes it, called by all processes, told whether to write; by default the student's folder.
    """

    folder: Path
    base_model: str
    positions: str
    stepper: Stepper
    checkpoints: CheckpointFolder
    samples: SampleWriter | None
    settings: LoopSettings
    result: Path | None = None
    encoders: Sequence[EncoderRecord] = ()
    transformer_file: str | Path | None = None
    upsampler: LatentUpsampler | None = None
    made_of: Mapping[str, Any] | None = None
    save: Callable[[bool], None] | None = None


@dataclass(frozen=True)
class TrainSummary:
    """How a run ended; also `train.json`.

    Attributes:
        student: folder of the student, or of what else was trained.
        steps: optimizer steps.
        seconds: training time, restarts added up, encoding not counted.
        seconds_per_step: `seconds` over `steps`, samples and checkpoints included.
        loss: smoothed, mean over stages.
        stage_losses: smoothed, for each stage; None for one that was never drawn.
    """

    student: str
    steps: int
    seconds: float
    seconds_per_step: float
    loss: float | None
    stage_losses: list[float | None]


def train(run: Run, on_step: Callable[[int, StepReport], None] | None = None) -> TrainSummary:
    """Take the steps that are missing, write the student and `train.json`.

    Args:
        run: from `build.build_run`.
        on_step: called after each step and its checkpoint, with the number of finished steps.

    Raises:
        NonFiniteError: when the loss or its gradient is not finite; the last checkpoint stays.
        ValueError: if no checkpoint is whole, or more steps were taken already than are asked for.
        OSError: if something cannot be written; the last checkpoint stays.
    """
    stepper, settings = run.stepper, run.settings
    parameters = stepper.networks.trainable_parameters()
    is_main = stepper.accelerator.is_main_process
    done, progress = run.checkpoints.restore(
        parameters, stepper.ema, stepper.optimizers, stepper.learners, speaks=is_main
    )
    if done > settings.steps:
        raise ValueError(
            f"train.steps: {settings.steps}, but the run in {run.folder} has taken {done}. Choose another --out, or no "
            f"fewer than {done}."
        )
    losses = SmoothLoss(len(stepper.schedule))
    losses.state = progress.get("losses", losses.state)
    clock = _Clock(progress.get("seconds", 0.0))
    time_left = _plan(run)

    def save(step: int) -> None:
        state = {"losses": losses.state, "seconds": clock.seconds}
        run.checkpoints.save(
            step, parameters, stepper.ema, stepper.optimizers, state, stepper.learners, write=is_main
        )

    with _logging(run, done), _progress_bar(settings.steps, done, disable=not is_main) as bar:
        for step in range(done, settings.steps):
            report = stepper.take_step(step)
            time_left.add_step(report.stages, report.seconds)
            for index, loss, _ in report.stages:
                losses.add(index, loss)
            done = step + 1
            if _due(done, settings.log_every):
                _log(run, done, losses, report)
            if run.samples is not None and _due(done, settings.sample_every):
                time_left.add_pause(_write_samples(run, run.samples, done))
            if _due(done, settings.checkpoint_every) or done == settings.steps:
                save(done)
            _show(bar, time_left, losses, done, settings)
            if on_step is not None:
                on_step(done, report)
        summary = _summarise(run, clock.seconds, losses)
        with _averaged_weights(run):
            if run.save is None:
                _write_student(run, is_main)
            else:
                run.save(is_main)
        if is_main:
            write_json(run.folder / SUMMARY_FILE, asdict(summary), durable=True)
        stepper.accelerator.wait_for_everyone()
    return summary


class _Clock:
    def __init__(self, before: float) -> None:
        self._start = time.perf_counter() - before

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start


def _due(done: int, every: int) -> bool:
    return every > 0 and done % every == 0


def _plan(run: Run) -> TimeLeft:
    stepper = run.stepper
    patch = stepper.networks.model.spec.compression.patch
    tokens = [grid.tokens(patch) for grid in stepper.schedule.grids]
    return TimeLeft(stepper.stage_of, run.settings.steps, stepper.settings.division.num_stages, tokens)


@contextmanager
def _logging(run: Run, done: int) -> Iterator[None]:
    # purge_step: entries that a killed run wrote after its last checkpoint are about to be written again.
    accelerator = run.stepper.accelerator
    accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": done + 1}})
    try:
        yield
    finally:
        accelerator.end_training()


@contextmanager
def _progress_bar(steps: int, done: int, disable: bool) -> Iterator[Any]:
    layout = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps{postfix}"
    with tqdm(
        total=steps, initial=done, desc="distill", bar_format=layout, file=sys.stderr, disable=disable
    ) as bar:
        yield bar


def _show(bar: Any, time_left: TimeLeft, losses: SmoothLoss, done: int, settings: LoopSettings) -> None:
    every = settings.sample_every
    pauses = settings.steps // every - done // every if every else 0
    left = time_left.seconds_left(done, pauses)
    words = f"loss {losses.mean:.4g}" if losses.mean is not None else ""
    bar.set_postfix_str(f"{words}, {format_seconds(left)} left" if left is not None else words, refresh=False)
    bar.update(1)


def _log(run: Run, done: int, losses: SmoothLoss, report: StepReport) -> None:
    values: dict[str, float] = {
        f"loss/stage_{index + 1}": loss for index, loss in enumerate(losses.state) if loss is not None
    }
    values |= {f"loss/{name}": loss for name, loss in (report.losses | report.learners).items()}
    values["grad_norm"] = report.grad_norm
    values["lr"] = run.stepper.optimizers[0].param_groups[0]["lr"]
    values["seconds_per_step"] = report.seconds
    run.stepper.accelerator.log(values, step=done)


@contextmanager
def _averaged_weights(run: Run) -> Iterator[None]:
    parameters = list(run.stepper.networks.trainable_parameters().values())
    if not run.settings.average:
        yield
        return
    run.stepper.ema.store(parameters)
    run.stepper.ema.copy_to(parameters)
    run.stepper.networks.weights_changed()
    try:
        yield
    finally:
        run.stepper.ema.restore(parameters)
        run.stepper.networks.weights_changed()


def _write_samples(run: Run, samples: SampleWriter, done: int) -> float:
    started = time.perf_counter()
    # All processes sample, so that none waits for another's clips; the first one writes them.
    with _averaged_weights(run):
        clips, _ = samples.sample(), samples.reference_clips
    if run.stepper.accelerator.is_main_process:
        measured, shares = samples.write(done, clips)
        _log_samples(run, samples, done, clips, with_shares(measured, shares))
        warning = collapse_warning(shares, run.settings.collapse_share, samples.reference.whose)
        if warning is not None:
            tqdm.write(f"warning: step {done}: {warning}", file=sys.stderr)
    return time.perf_counter() - started


def _log_samples(
    run: Run, samples: SampleWriter, done: int, clips: ClipsByPrompt, values: dict[str, float]
) -> None:
    accelerator, fps = run.stepper.accelerator, samples.networks.model.spec.fps
    accelerator.log({f"validation/{name}": value for name, value in values.items()}, step=done)
    writer = accelerator.get_tracker("tensorboard", unwrap=True)
    for prompt, frames in zip(samples.prompts, samples.side_by_side(clips), strict=True):
        add_clip(writer, f"samples/{prompt}", frames, fps, done)


def _write_student(run: Run, write: bool) -> None:
    networks = run.stepper.networks
    additions = networks.lora_state_dict()
    student = cast(ModelMixin, networks.whole_student()) if additions is None else None
    if write:
        save_student(
            run.folder / STUDENT_FOLDER,
            base_model=run.base_model,
            schedule=run.stepper.schedule,
            transformer=student,
            lora_state_dict=additions,
            positions=run.positions,
            encoders=run.encoders,
            transformer_file=run.transformer_file,
            upsampler=run.upsampler,
            made_of=run.made_of,
        )


def _summarise(run: Run, seconds: float, losses: SmoothLoss) -> TrainSummary:
    steps = run.settings.steps
    return TrainSummary(
        student=str(run.result or run.folder / STUDENT_FOLDER),
        steps=steps,
        seconds=round(seconds, 2),
        seconds_per_step=round(seconds / steps, 4),
        loss=losses.mean,
        stage_losses=losses.state,
    )
