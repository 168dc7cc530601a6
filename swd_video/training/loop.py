"""The training loop: steps, checkpoints, samples, logs, and a student at the end."""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diffusers import ModelMixin
from torch import Tensor
from tqdm import tqdm

from swd_video.files import write_json
from swd_video.training.checkpoint import CheckpointFolder, TrainingState
from swd_video.training.collapse import collapse_warning
from swd_video.training.config import TrainConfig
from swd_video.training.finite import check_weights
from swd_video.training.progress import SmoothLoss, TimeLeft, format_seconds
from swd_video.training.samples import SampleWriter, add_clip
from swd_video.training.step import Stepper, StepReport

SUMMARY_FILE = "train.json"


@dataclass
class Run:
    """A training ready to start or to go on; `save` writes what comes out of its weights into `result`, whole."""

    folder: Path
    stepper: Stepper
    checkpoints: CheckpointFolder
    samples: SampleWriter | None
    save: Callable[[Path, ModelMixin | Mapping[str, Tensor]], None]
    result: Path


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

    `on_step` is called after each step and its checkpoint, with the number of finished steps.

    Raises:
        NonFiniteError: when a loss, a gradient or a weight is not finite; the last checkpoint stays.
        ValueError: if no checkpoint is whole.
        OSError: if something cannot be written; the last checkpoint stays.
    """
    stepper, settings = run.stepper, run.stepper.train
    is_main = stepper.accelerator.is_main_process
    state = state_of(stepper)
    done, progress = run.checkpoints.restore(state, speaks=is_main)
    losses = SmoothLoss(len(stepper.schedule))
    losses.state = progress.get("losses", losses.state)
    started = time.perf_counter() - progress.get("seconds", 0.0)
    tokens = stepper.schedule.tokens(stepper.networks.model.spec.compression)
    time_left = TimeLeft(stepper.stage_of, settings.steps, stepper.division.num_stages, tokens)

    with _logging(run, done), _progress_bar(run.result.name, settings.steps, done, speaks=is_main) as bar:
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
                check_weights(step, state.tensors)
                progress = {"losses": losses.state, "seconds": time.perf_counter() - started}
                run.checkpoints.save(done, state, progress, write=is_main)
            _show(bar, time_left, losses, done, settings)
            if on_step is not None:
                on_step(done, report)
        summary = _summarise(run, time.perf_counter() - started, losses)
        with _averaged_weights(run):
            weights = stepper.networks.trained_weights()
            if is_main:
                run.save(run.result, weights)
        if is_main:
            write_json(run.folder / SUMMARY_FILE, asdict(summary), durable=True)
        stepper.accelerator.wait_for_everyone()
    return summary


def state_of(stepper: Stepper) -> TrainingState:
    """All of a run that its steps change."""
    parameters = stepper.networks.trainable_parameters()
    return TrainingState(parameters, stepper.ema, stepper.optimizers, stepper.learners)


def _due(done: int, every: int) -> bool:
    return every > 0 and done % every == 0


@contextmanager
def _logging(run: Run, done: int) -> Iterator[None]:
    # purge_step: entries that a killed run wrote after its last checkpoint are about to be written again.
    accelerator = run.stepper.accelerator
    with _writer_thread_is_quiet():
        accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": done + 1}})
        try:
            yield
        except BaseException:
            # On a full disk it fails as well, and would hide what was said first.
            with suppress(OSError):
                accelerator.end_training()
            raise
        with _to_tensorboard(run):
            accelerator.end_training()


@contextmanager
def _writer_thread_is_quiet() -> Iterator[None]:
    """TensorBoard's thread tells whoever writes next that it could not; it need not print a traceback as well."""
    before = threading.excepthook

    def hook(args: Any) -> None:
        if not isinstance(getattr(args.thread, "exception", None), OSError):
            before(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


@contextmanager
def _to_tensorboard(run: Run) -> Iterator[None]:
    """What cannot be written there says so: the writer's own errors name no file."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(run.folder / "tensorboard")
        raise


def _progress_bar(what: str, steps: int, done: int, *, speaks: bool) -> Any:
    layout = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps{postfix}"
    return tqdm(total=steps, initial=done, desc=what, bar_format=layout, file=sys.stderr, disable=not speaks)


def _show(bar: Any, time_left: TimeLeft, losses: SmoothLoss, done: int, settings: TrainConfig) -> None:
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
    with _to_tensorboard(run):
        run.stepper.accelerator.log(values, step=done)


@contextmanager
def _averaged_weights(run: Run) -> Iterator[None]:
    parameters = list(run.stepper.networks.trainable_parameters().values())
    if run.stepper.train.ema_decay == 0:
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
        values, shares = samples.write(done, clips)
        accelerator, fps = run.stepper.accelerator, run.stepper.networks.model.spec.fps
        with _to_tensorboard(run):
            accelerator.log({f"validation/{name}": value for name, value in values.items()}, step=done)
            writer = accelerator.get_tracker("tensorboard", unwrap=True)
            for prompt, frames in zip(samples.prompts, samples.side_by_side(clips), strict=True):
                add_clip(writer, f"samples/{prompt}", frames, fps, done)
        warning = collapse_warning(shares, run.stepper.train.collapse_share, samples.whose)
        if warning is not None:
            tqdm.write(f"warning: step {done}: {warning}", file=sys.stderr)
    return time.perf_counter() - started


def _summarise(run: Run, seconds: float, losses: SmoothLoss) -> TrainSummary:
    steps = run.stepper.train.steps
    return TrainSummary(
        student=str(run.result),
        steps=steps,
        seconds=round(seconds, 2),
        seconds_per_step=round(seconds / steps, 4),
        loss=losses.mean,
        stage_losses=losses.state,
    )
