"""The files of a finished clip: decoded, written, and told from those of another.

A clip is finished when its sidecar is there, and the sidecar is written last. It holds the hash of everything that the
clip depends on and those of its files.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from swd_video.data.video import FrameSpool, write_preview, write_video
from swd_video.files import hash_file, sync, write_json
from swd_video.student.pipeline import ScaleWisePipeline
from swd_video.studio.clips import PlannedClip
from swd_video.studio.continuation import join_of
from swd_video.studio.film_plan import as_fraction, length_at
from swd_video.studio.folder import are_whole, object_at, read_object, sidecar_file, stage_preview
from swd_video.studio.model import ScriptModel

PREVIEW_LONG_SIDE_PX = 320
"""Previews of larger clips are scaled down to this."""

NOT_FINITE = "the model made values that are not numbers. Try --dtype float32."


def decode(
    latents: Float[Tensor, "batch channels latent_frames latent_height latent_width"], pipe: ScaleWisePipeline
) -> Iterator[UInt8[np.ndarray, "batch frames height width 3"]]:
    """The frames of clips, a few at a time.

    Raises:
        FloatingPointError: The decoder made values that are not numbers.
    """
    for part in pipe.stream(latents):
        if not np.isfinite(part).all():
            raise FloatingPointError(NOT_FINITE)
        yield (part * 255).round().astype(np.uint8)


def write_clip(
    clip: PlannedClip,
    latents: Float[Tensor, "1 channels latent_frames latent_height latent_width"],
    model: ScriptModel,
    out: Path,
) -> None:
    """Write the video of its latents, its preview and, last, its sidecar; all are on the disk when it returns.

    Raises:
        FloatingPointError: The decoder made values that are not numbers.
    """
    frames = (frame for part in decode(latents, model.pipe) for frame in part[0])
    video, preview = out / f"{clip.name}.mp4", out / f"{clip.name}.webp"
    join = join_of(clip)
    small = FrameSpool(out)

    def remembered() -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        for frame in frames if join is None else join.correct(frames):
            small.append(shrink(frame))
            yield frame

    write_video(video, remembered(), clip.fps, metadata=clip.metadata)
    write_preview(preview, small, clip.fps)
    shot = clip.take.shot
    sidecar = {
        **clip.take.as_dict(),
        "model": model.name,
        "model_fingerprint": model.fingerprint,
        "device": model.device,
        "dtype": model.dtype,
        **clip.shown(),
        "stages": stages_of(clip),
        "content_hash": clip.content_hash,
        **({} if clip.prompt == shot.prompt else {"read_as": clip.prompt}),
        **({} if shot.picture is None else {"picture": shot.picture.name}),
        **({} if join is None else {"joins": join.measured}),
        **({"decoder": model.decoder} if model.decoder else {}),
        **({"batch": model.batch} if model.batch > 1 else {}),
        "files": {path.name: hash_file(path) for path in (video, preview)},
    }
    for path in (video, preview):
        sync(path)
    # Afterwards the latents go, which could make all of it anew.
    write_json(sidecar_file(clip.name, out), sidecar, durable=True)


def write_stage_preview(
    clip: PlannedClip,
    latents: Float[Tensor, "1 channels latent_frames latent_height latent_width"],
    pipe: ScaleWisePipeline,
    out: Path,
) -> str:
    """Write what a clip is like after a stage, as long as the clip will be; gives the file's name."""
    frames = np.stack([shrink(frame) for part in decode(latents, pipe) for frame in part[0]])
    write_preview(out / stage_preview(clip.name), frames, len(frames) / clip.seconds)
    return stage_preview(clip.name)


def clip_is_there(clip: PlannedClip, out: Path) -> bool:
    """Whether this very clip is finished, or what the script keeps in its place."""
    return is_finished(clip, out) or bool(kept_sidecar(clip, out))


def is_finished(clip: PlannedClip, out: Path) -> bool:
    """Whether all files of this very clip are there and whole."""
    sidecar = read_object(sidecar_file(clip.name, out))
    return sidecar.get("content_hash") == clip.content_hash and _is_whole(clip, sidecar, out)


def _is_whole(clip: PlannedClip, sidecar: Mapping[str, Any], out: Path) -> bool:
    return are_whole(sidecar.get("files"), {f"{clip.name}.mp4", f"{clip.name}.webp"}, out)


def kept_sidecar(clip: PlannedClip, out: Path) -> dict[str, Any]:
    """The sidecar of a take that the script keeps, whatever it shows; empty where there is none, or not all of it."""
    sidecar = read_object(sidecar_file(clip.name, out)) if clip.take.shot.keeps(clip.take.take) else {}
    return sidecar if _is_whole(clip, sidecar, out) else {}


def as_kept(sidecar: Mapping[str, Any]) -> dict[str, Any]:
    """What a take shows that the script keeps, of its sidecar, where it may be another than the script says."""
    keys = ("prompt", "read_as", "seed", "frames", "width", "height", "fps", "seconds")
    return {"kept": True, **{key: sidecar[key] for key in keys if key in sidecar}}


def film_frames(clip: PlannedClip, kept: Mapping[str, Any]) -> int:
    """How many frames a film at its rate has of a clip; `kept` is the sidecar of what the script keeps in its place."""
    frames, fps = kept.get("frames"), kept.get("fps")
    if not isinstance(frames, int) or not isinstance(fps, int | float) or fps <= 0:
        return clip.shown_size.frames
    return length_at(frames, as_fraction(fps), as_fraction(clip.fps))


def is_kept_and_changed(clip: PlannedClip, out: Path) -> bool:
    """Whether the files of a take that the script keeps are there, and not as they were written."""
    names = {f"{clip.name}.mp4", f"{clip.name}.webp"}
    recorded = object_at(read_object(sidecar_file(clip.name, out)), "files")
    is_there = names <= recorded.keys() and all((out / name).is_file() for name in names)
    return is_there and clip.take.shot.keeps(clip.take.take) and not kept_sidecar(clip, out)


def stages_of(clip: PlannedClip) -> list[dict[str, float | int]]:
    """Size in pixels and noise of every stage, as sidecars list them."""
    return [
        {"frames": size.frames, "height": size.height, "width": size.width, "sigma": sigma}
        for sigma, size in clip.stages
    ]


def shrink(frame: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
    """A frame as previews show it."""
    height, width = frame.shape[:2]
    scale = PREVIEW_LONG_SIDE_PX / max(height, width)
    if scale >= 1:
        return frame
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))
