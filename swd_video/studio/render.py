"""Rendering a script: clips, sidecars, previews, a contact sheet and `render.json`, resumable at any moment.

Latents are written before they are decoded, and removed once their clip is finished, so that a decode which fails or is
killed costs no stage. A clip is finished when its sidecar is there, and the sidecar is written last. It holds the hash
of everything that the clip depends on and those of its files, so a second run can tell what is still as asked.
Nothing but `render.json` holds times, so an interrupted and resumed run ends with the same files.
"""

import errno
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from swd_video.data.video import FrameSpool, write_preview, write_video
from swd_video.environment import collecting_no_garbage
from swd_video.files import alone_in, hash_file, whole_file, write_json
from swd_video.models.devices import Device, Precision, choose_device, choose_precision
from swd_video.models.loading import DEFAULT_OPTIONS, LoadOptions
from swd_video.student.pipeline import ScaleWisePipeline
from swd_video.studio.clips import PlannedClip, plan_clips, prompt_warnings
from swd_video.studio.contact_sheet import SheetRow, draw_contact_sheets
from swd_video.studio.model import ModelFacts, load_model_for_rendering
from swd_video.studio.pictures import read_picture
from swd_video.studio.progress import Progress, Watch, as_lines
from swd_video.studio.script import Script, load_script
from swd_video.studio.selection import select_takes

SHEET_NAME = "contact_sheet.png"
REPORT_NAME = "render.json"
PREVIEW_LONG_SIDE_PX = 320
"""Previews of larger clips are scaled down to this."""

_REPORT_SECONDS = 10.0
"""Between two times that `render.json` is written; its length grows with the shots, so for many it is rarer."""

_LATENTS_KEY = "made_of"
_NOT_FINITE = "the model made values that are not numbers. Try --dtype float32."
_OF_THE_FOLDER = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO}
"""Errors that the next clip would meet as well."""

Status = Literal["pending", "rendered", "skipped", "failed"]
_OUTCOMES: tuple[Status, ...] = ("rendered", "skipped", "failed")


@dataclass
class ClipResult:
    """What became of one clip.

    Attributes:
        clip: What was to be rendered.
        status: "rendered" in this run, "skipped" as it was finished before, "failed", or still "pending".
        stage_seconds: Compute time of every stage, from an earlier run if skipped; None where unknown.
        error: Why it failed, in one line.
    """

    clip: PlannedClip
    status: Status = "pending"
    stage_seconds: list[float | None] = field(default_factory=list)
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The clip's entry in `render.json`; sizes are in pixels, `file` lies beside `render.json`."""
        clip = self.clip
        times = self.stage_seconds or [None] * len(clip.stages)
        entry: dict[str, Any] = {
            "id": clip.take.shot.id,
            "take": clip.take.take,
            "prompt": clip.take.shot.prompt,
            "seed": clip.take.seed,
            "file": f"{clip.name}.mp4" if self.status in ("rendered", "skipped") else None,
            "frames": clip.shown_size.frames,
            "width": clip.shown_size.width,
            "height": clip.shown_size.height,
            "fps": clip.fps,
            "seconds": round(clip.seconds, 6),
            "status": self.status,
            "stages": [
                stage | {"seconds": seconds} for stage, seconds in zip(_stages(clip), times, strict=True)
            ],
        }
        if clip.prompt != clip.take.shot.prompt:
            entry["read_as"] = clip.prompt
        if clip.unknown_words:
            entry["unknown_words"] = clip.unknown_words
        return entry | ({"error": self.error} if self.error else {})


@dataclass(frozen=True)
class RenderReport:
    """The outcome of a run: a result for every clip, the wall time of it all, and what was warned of."""

    results: Sequence[ClipResult]
    seconds: float
    warnings: Sequence[str] = ()

    def count(self, status: Status) -> int:
        """How many clips have this status."""
        return sum(result.status == status for result in self.results)

    def summary(self) -> str:
        """How many clips became what, as a line."""
        counts: list[str] = [f"{self.count(status)} {status}" for status in _OUTCOMES]
        if left_out := self.count("pending"):
            counts.append(f"{left_out} left out")
        return f"{', '.join(counts)} in {self.seconds:.1f} s"

    def as_dict(self, folder: Path | None = None) -> dict[str, Any]:
        """Plain values: `{"shots": [...], "seconds": ..., "warnings": [...]}`.

        Args:
            folder: Turns every `file` into an absolute path; without it, names are relative to `render.json`.
        """
        shots = [result.as_dict() for result in self.results]
        if folder is not None:
            shots = [shot | {"file": shot["file"] and str(folder.resolve() / shot["file"])} for shot in shots]
        return {"shots": shots, "seconds": round(self.seconds, 3), "warnings": list(self.warnings)}


def render(
    script: Script | str | Path,
    out: str | Path,
    *,
    model: str | None = None,
    device: Device = "auto",
    dtype: Precision = "auto",
    reader: str | None = None,
    options: LoadOptions = DEFAULT_OPTIONS,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
    watch: Watch = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
) -> RenderReport:
    """Render a script, as `swd-video render` does: what is finished already is kept, so call it again to go on.

    Args:
        script: what to render, or its file.
        out: folder for all files; made if missing.
        model: student to use instead of the script's: a shipped name or a folder.
        device: "auto" takes cuda, then mps, then cpu.
        dtype: "auto" takes bfloat16 on cuda and float32 elsewhere.
        reader: of the file, as for `load_script`.
        options: how the model is fitted into memory and run.
        only: shots (`tiger`) or takes (`tiger:3`) to render; default all. The others stay as they are.
        skip: shots or takes not to render.
        say: takes lines about progress, for example `print`.
        watch: takes the same as events, and every stage as well.
        stop: asked before every clip; if it says yes, the run ends like one that is interrupted.

    Raises:
        ValueError: the script or the model is not usable; nothing has been written then.
        FolderInUseError: another run is writing there.
        OSError: the folder cannot be written to; what is finished is kept.
        KeyboardInterrupt: `stop` said so.
    """
    script, out = script if isinstance(script, Script) else load_script(script, reader), Path(out)
    select_takes(list(script.takes()), only, skip)  # refused before the model is loaded
    with alone_in(out):
        pass  # loading takes long: that nothing can be written there should show before
    place = choose_device(device)
    precision, name = choose_precision(dtype, place), model or script.model
    Progress(as_lines(say), watch).note(
        f"loading {name} on {place} in {str(precision).removeprefix('torch.')}"
    )
    with collecting_no_garbage():
        pipe, facts = load_model_for_rendering(name, device=place, dtype=precision, options=options)
    pipe.set_progress_bar_config(disable=True)  # `watch` is told of the stages
    return render_script(script, pipe, facts, out, only=only, skip=skip, say=say, watch=watch, stop=stop)


def render_script(
    script: Script,
    pipe: ScaleWisePipeline,
    model: ModelFacts,
    out: Path,
    *,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
    watch: Watch = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
) -> RenderReport:
    """Render what is not finished yet, one clip at a time, and describe everything in `out`.

    Args:
        script: What to render.
        pipe: The loaded model.
        model: Facts about the same model.
        out: Folder for all files; made if missing. Files of shots no longer in the script are left alone.
        only: Shots or takes to render; see `render`.
        skip: Shots or takes not to render.
        say: Takes lines about progress.
        watch: Takes events.
        stop: Asked before every clip.

    Raises:
        SourceError: A shot asks for what the model cannot make; nothing has been written then.
        ValueError: `only` or `skip` names no take.
        FolderInUseError: Another run is writing there.
        OSError: The folder cannot be written to; what is finished is kept.
        KeyboardInterrupt: `stop` said so.
    """
    started = time.perf_counter()
    clips = plan_clips(script, model)
    warnings = [*script.warnings, *prompt_warnings(script, clips)]
    chosen = select_takes([clip.take for clip in clips], only, skip)
    progress = Progress(as_lines(say), watch)
    for line in warnings:
        progress.warning(line)

    def report(results: Sequence[ClipResult]) -> RenderReport:
        current = RenderReport(results, time.perf_counter() - started, warnings)
        write_json(out / REPORT_NAME, _describe_run(script, model, current))
        return current

    with alone_in(out):
        _plan_progress(clips, chosen, out, progress)
        done = report(_render_clips(script, clips, chosen, pipe, model, out, progress, stop, report))
    progress.done("failed" if done.count("failed") else "done", done.summary())
    return done


def _plan_progress(
    clips: Sequence[PlannedClip], chosen: Collection[str], out: Path, progress: Progress
) -> None:
    """Tell how many clips there are, and how much work each is that its sidecar does not call finished."""
    steps = {}
    for clip in clips:
        if clip.name in chosen and _read_json(_sidecar(clip, out)).get("content_hash") != clip.content_hash:
            sizes = [*(size for _, size in clip.stages), clip.shown_size]
            steps[clip.name] = [size.frames * size.height * size.width for size in sizes]
    count = len(chosen)
    text = f"{count} clip{'' if count == 1 else 's'}, {len(steps)} to render"
    progress.plan(count, steps, text)


def _render_clips(
    script: Script,
    clips: Sequence[PlannedClip],
    chosen: Collection[str],
    pipe: ScaleWisePipeline,
    model: ModelFacts,
    out: Path,
    progress: Progress,
    stop: Callable[[], bool],
    report: Callable[[Sequence[ClipResult]], object],
) -> list[ClipResult]:
    known_times = _read_times(out / REPORT_NAME)
    results = [ClipResult(clip, stage_seconds=_times_of(clip, known_times)) for clip in clips]
    due = 0.0
    try:
        wanted = [result for result in results if result.clip.name in chosen]
        for result in results:
            if result.clip.name not in chosen and _is_finished(result.clip, out):
                result.status = "skipped"
        for index, result in enumerate(wanted):
            if stop():
                raise KeyboardInterrupt
            label = f"[{index + 1}/{len(wanted)}] {result.clip.name}"
            begun = time.perf_counter()
            progress.begin()
            _render_if_needed(result, pipe, model, out, progress)
            line = _progress_line(label, result, time.perf_counter() - begun)
            progress.clip(result.clip.take, result.status, line, result.error)
            if (now := time.perf_counter()) >= due:
                report(results)
                due = now + max(_REPORT_SECONDS, 20 * (time.perf_counter() - now))
        rows = [_sheet_row(result, out) for result in results]
        draw_contact_sheets(out / SHEET_NAME, script.title, model.name, rows)
    except BaseException:
        with suppress(OSError):  # what stopped the run says more
            report(results)
        raise
    return results


def _render_if_needed(
    result: ClipResult, pipe: ScaleWisePipeline, model: ModelFacts, out: Path, progress: Progress
) -> None:
    try:
        waiting = _latents_file(result.clip, out)
        if _is_finished(result.clip, out):
            result.status = "skipped"
        else:
            latents, result.stage_seconds = _make_latents(result.clip, pipe, waiting, progress)
            _write_clip(result.clip, _decode(latents, pipe), model, out)
            result.status = "rendered"
        waiting.unlink(missing_ok=True)
    except Exception as error:  # whatever goes wrong with one shot, the others are still wanted
        if _is_of_the_folder(error):
            raise OSError(
                f"{_told(error)} What is finished is kept: mend it and run the same command again."
            ) from error
        result.status = "failed"
        result.error = " ".join(f"{type(error).__name__}: {error}".split())
        if waiting.is_file():
            result.error += " Its latents are kept: the same command goes on with decoding."
        else:
            result.stage_seconds = []


def _told(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: cannot be written: {error.strerror}."
    return str(error)


def _is_of_the_folder(error: BaseException | None) -> bool:
    while error is not None and getattr(error, "errno", None) not in _OF_THE_FOLDER:
        error = error.__cause__
    return error is not None


def _make_latents(
    clip: PlannedClip, pipe: ScaleWisePipeline, file: Path, progress: Progress
) -> tuple[Float[Tensor, "1 channels frames height width"], list[float | None]]:
    """The clip's latents, with the seconds of its stages; those that wait in the file are not made again."""
    found = _read_latents(clip, file)
    if found is not None:
        return found

    def tell(pipe: ScaleWisePipeline, index: int, timestep: Tensor, tensors: dict[str, Tensor]) -> None:
        progress.stage(clip.take, index, len(clip.stages))

    # The seed makes its numbers on the CPU, so that they are the same whatever the model runs on.
    shot = clip.take.shot
    output: Any = pipe(
        clip.prompt,
        pictures=None if shot.picture is None else read_picture(shot.picture, clip.size),
        frames=clip.size.frames,
        height=clip.size.height,
        width=clip.size.width,
        generator=torch.Generator("cpu").manual_seed(clip.take.seed),
        output_type="latent",
        callback_on_step_end=tell,
    )
    latents: Tensor = output.frames
    seconds: list[float | None] = [float(seconds) for seconds in output.stage_seconds]
    if not latents.isfinite().all():
        raise FloatingPointError(_NOT_FINITE)
    about = json.dumps({"stages_hash": clip.stages_hash, "stage_seconds": seconds})
    with whole_file(file, durable=True) as draft:
        # As bytes, so that what the disk says is an error of the system's, which the next clip would meet as well.
        draft.write_bytes(save({"latents": latents.cpu().contiguous()}, {_LATENTS_KEY: about}))
    return latents, seconds


def _read_latents(clip: PlannedClip, file: Path) -> tuple[Tensor, list[float | None]] | None:
    """What `_make_latents` wrote for the same stages; None for everything else."""
    try:
        with safe_open(file, framework="pt") as stored:
            about = json.loads(stored.metadata()[_LATENTS_KEY])
            if about["stages_hash"] == clip.stages_hash:
                return stored.get_tensor("latents"), about["stage_seconds"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        pass
    return None


def _decode(latents: Tensor, pipe: ScaleWisePipeline) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    for part in pipe.stream(latents):
        if not np.isfinite(part[0]).all():
            raise FloatingPointError(_NOT_FINITE)
        yield from (part[0] * 255).round().astype(np.uint8)


def _write_clip(
    clip: PlannedClip, frames: Iterator[UInt8[np.ndarray, "height width 3"]], model: ModelFacts, out: Path
) -> None:
    video, preview = out / f"{clip.name}.mp4", out / f"{clip.name}.webp"
    small = FrameSpool(out)

    def remembered() -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        for frame in frames:
            small.append(_shrink(frame))
            yield frame

    write_video(video, remembered(), clip.fps, metadata=clip.metadata)
    write_preview(preview, small, clip.fps)
    shot = clip.take.shot
    sidecar = {
        "id": clip.take.shot.id,
        "take": clip.take.take,
        "prompt": clip.take.shot.prompt,
        "seed": clip.take.seed,
        "model": model.name,
        "model_fingerprint": model.fingerprint,
        "device": model.device,
        "dtype": model.dtype,
        "frames": clip.shown_size.frames,
        "width": clip.shown_size.width,
        "height": clip.shown_size.height,
        "fps": clip.fps,
        "seconds": round(clip.seconds, 6),
        "stages": _stages(clip),
        "content_hash": clip.content_hash,
        **({} if clip.prompt == shot.prompt else {"read_as": clip.prompt}),
        **({} if shot.picture is None else {"picture": shot.picture.name}),
        **({"decoder": model.decoder} if model.decoder else {}),
        "files": {path.name: hash_file(path) for path in (video, preview)},
    }
    write_json(_sidecar(clip, out), sidecar)


def _is_finished(clip: PlannedClip, out: Path) -> bool:
    sidecar = _read_json(_sidecar(clip, out))
    files = sidecar.get("files")
    if sidecar.get("content_hash") != clip.content_hash or not isinstance(files, Mapping):
        return False
    if set(files) != {f"{clip.name}.mp4", f"{clip.name}.webp"}:
        return False
    return all((out / name).is_file() and hash_file(out / name) == digest for name, digest in files.items())


def _shrink(frame: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
    height, width = frame.shape[:2]
    scale = PREVIEW_LONG_SIDE_PX / max(height, width)
    if scale >= 1:
        return frame
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))


def _stages(clip: PlannedClip) -> list[dict[str, float | int]]:
    return [
        {"frames": size.frames, "height": size.height, "width": size.width, "sigma": sigma}
        for sigma, size in clip.stages
    ]


def _sheet_row(result: ClipResult, out: Path) -> SheetRow:
    clip = result.clip
    return SheetRow(
        heading=clip.name,
        details=f"{clip.seconds:.3g} s   seed {clip.take.seed}",
        prompt=clip.take.shot.prompt,
        video=out / f"{clip.name}.mp4" if result.status in ("rendered", "skipped") else None,
        problem=result.error
        or ("not rendered yet" if result.status == "pending" else "")
        or (f"unknown words: {', '.join(clip.unknown_words)}" if clip.unknown_words else ""),
    )


def _progress_line(label: str, result: ClipResult, took_seconds: float) -> str:
    clip = result.clip
    if result.status == "failed":
        return f"{label}: failed: {result.error}"
    asked = clip.take.shot.seconds
    exact = asked is None or abs(asked - clip.seconds) < 5e-4
    length = f"{clip.size.frames} frames, {clip.seconds:.4g} s" + (
        "" if exact else f" (asked for {asked:g} s)"
    )
    done = "finished before" if result.status == "skipped" else f"rendered in {took_seconds:.1f} s"
    return f"{label}: {length}, {done}"


def _describe_run(script: Script, model: ModelFacts, report: RenderReport) -> dict[str, Any]:
    described = report.as_dict()
    for entry, result in zip(described["shots"], report.results, strict=True):
        entry["content_hash"] = result.clip.content_hash
    return {
        "title": script.title,
        "model": model.name,
        "model_fingerprint": model.fingerprint,
        **({"decoder": model.decoder} if model.decoder else {}),
        "seed": script.seed,
        **described,
    }


def _read_times(path: Path) -> dict[str, list[float | None]]:
    """Compute times of an earlier run, by content hash; what cannot be understood is not there."""
    times = {}
    shots = _read_json(path).get("shots")
    for entry in shots if isinstance(shots, list) else []:
        try:
            times[str(entry["content_hash"])] = [stage["seconds"] for stage in entry["stages"]]
        except (KeyError, TypeError):
            continue
    return times


def _times_of(clip: PlannedClip, known: Mapping[str, list[float | None]]) -> list[float | None]:
    times = known.get(clip.content_hash, [])
    known_well = len(times) == len(clip.stages) and all(isinstance(time, float | None) for time in times)
    return times if known_well else []


def _latents_file(clip: PlannedClip, out: Path) -> Path:
    return out / f"{clip.name}.latents.safetensors"


def _sidecar(clip: PlannedClip, out: Path) -> Path:
    return out / f"{clip.name}.json"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
