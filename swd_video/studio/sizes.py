"""Frames, height and width of a shot: as asked for where a model can make that, else refused with what it can."""

import math
from itertools import product

from swd_video.core.grid import PixelSize
from swd_video.studio.model import ScriptModel
from swd_video.studio.script import Script, Shot

ASPECT_TOLERANCE = 0.05
"""How far the shape of a clip may be from the aspect asked for, relatively: Wan's 832x480 is taken for 16:9."""

_LARGEST_PX = 4096
"""Of the sizes that are tried for an aspect."""


class ShotSizes:
    """The sizes of a script's shots for a model."""

    def __init__(self, script: Script, model: ScriptModel) -> None:
        self.script, self.model = script, model
        self.native = model.pipe.compression.pixel_size(model.schedule.target)
        self._known: dict[object, PixelSize] = {}

    def of(self, shot: Shot) -> PixelSize:
        """The size of a shot's clips.

        Raises:
            SourceError: if the model cannot make it; the message offers the nearest that it can.
        """
        asked = (shot.seconds, shot.frames, shot.size, shot.aspect, shot.trim, bool(shot.keep))
        if asked not in self._known:
            height, width = self._picture(shot)
            frames = self._frames(shot)
            if not shot.keep:  # a clip that is kept may have another length: the film tells
                self._check_trim(shot, frames / self.model.pipe.fps)
            self._known[asked] = PixelSize(frames, height, width)
        return self._known[asked]

    def _frames(self, shot: Shot) -> int:
        """A legal number that is the one asked for, or at most one frame away from the seconds asked for."""
        if shot.frames is None and shot.seconds is None:
            return self.native.frames
        fps, native = self.model.pipe.fps, self.native.frames
        wanted: float
        if shot.frames is not None:
            key, wanted, tolerance = "frames", float(shot.frames), 0.0
            said = f"{shot.frames} frames are a length that"
        else:
            assert shot.seconds is not None
            key, wanted, tolerance = "seconds", shot.seconds * fps, 1.0
            said = f"{shot.seconds:g} seconds are {wanted:.4g} frames at {fps:g} frames a second, which"
        nearest = self._nearest(wanted)
        if abs(nearest - wanted) <= tolerance + 1e-6:
            return nearest
        step = self.model.pipe.compression.steps[0]
        around = [nearest, nearest + step] if nearest < wanted else [nearest - step, nearest]
        lengths = [frames for frames in around if self._nearest(frames) == frames]
        offers = " or ".join(f"{self._length(frames, key)}" for frames in lengths)
        raise self.script.shot_error(
            shot,
            key,
            f"{said} {self.model.name} cannot make. Nearest lengths: {offers}. Its native one is "
            f"{self._length(native, key)}: drop the key to get that.",
        )

    def _length(self, frames: int, key: str) -> str:
        seconds = f"{frames / self.model.pipe.fps:.4g}"
        return f"{seconds} ({frames} frames)" if key == "seconds" else f"{frames} ({seconds} seconds)"

    def _nearest(self, frames: float | int) -> int:
        size = PixelSize(max(1, round(frames)), self.native.height, self.native.width)
        return self.model.pipe.compression.nearest_legal(size).frames

    def _picture(self, shot: Shot) -> tuple[int, int]:
        if shot.size is not None:
            self._check_size(shot, *shot.size)
            return shot.size
        if shot.aspect is not None:
            return self._of_aspect(shot, shot.aspect)
        return self.native.height, self.native.width

    def _check_size(self, shot: Shot, height: int, width: int) -> None:
        if self._is_legal(height, width):
            return
        steps = self.model.pipe.compression.steps[1:]
        around = [
            sorted({max(step, value // step * step), -(-value // step) * step})
            for value, step in zip((height, width), steps, strict=True)
        ]
        legal = [size for size in product(*around) if self._is_legal(*size)] or [
            self._nearest_picture(height, width)
        ]
        legal.sort(key=lambda size: math.dist(size, (height, width)))
        offers = " or ".join(_written(*size) for size in legal[:2])
        raise self.script.shot_error(
            shot,
            "size",
            f"{_written(height, width)} (width x height) is a size that {self.model.name} cannot make: widths are "
            f"multiples of {steps[1]} and heights of {steps[0]}. Nearest sizes: {offers}. Its native one is "
            f"{_written(self.native.height, self.native.width)}: drop the key to get that.",
        )

    def _of_aspect(self, shot: Shot, aspect: str) -> tuple[int, int]:
        """The native size where that has about this shape; else the legal one of it with the nearest area."""
        across, up = (float(part) for part in aspect.split(":"))
        native = self.native.height, self.native.width

        def off(size: tuple[int, int]) -> float:
            return abs(math.log(size[1] / size[0] * up / across))

        def far(size: tuple[int, int]) -> float:
            return abs(math.log(math.prod(size) / math.prod(native)))

        about = math.log1p(ASPECT_TOLERANCE)
        if off(native) <= about:
            return native
        _, step, step_across = self.model.pipe.compression.steps
        heights = range(step, _LARGEST_PX + 1, step)
        sizes = [
            (height, max(1, round(height * across / up / step_across)) * step_across) for height in heights
        ]
        sizes = [size for size in sizes if self._is_legal(*size) and far(size) <= math.log(2)]
        if fitting := [size for size in sizes if off(size) <= about]:
            return min(fitting, key=lambda size: (round(far(size), 9), size))  # the smaller of two as near
        offer = (
            f"The nearest of that many is {_written(*min(sizes, key=off))}: give it as `size`."
            if sizes
            else ("Give a `size` that you want.")
        )
        raise self.script.shot_error(
            shot,
            "aspect",
            f"{self.model.name} makes no clips of the shape {aspect} with between half and twice the pixels of its "
            f"native {_written(*native)} (width x height). {offer}",
        )

    def _check_trim(self, shot: Shot, seconds: float) -> None:
        if shot.trim is not None and seconds - sum(shot.trim) < 1 / self.model.pipe.fps - 1e-6:
            raise self.script.shot_error(
                shot,
                "trim",
                f"cuts {shot.trim[0]:g} and {shot.trim[1]:g} seconds off a clip of {seconds:.4g}, which leaves no "
                "frame. Cut off less.",
            )

    def _is_legal(self, height: int, width: int) -> bool:
        return self._nearest_picture(height, width) == (height, width)

    def _nearest_picture(self, height: int, width: int) -> tuple[int, int]:
        nearest = self.model.pipe.compression.nearest_legal(PixelSize(self.native.frames, height, width))
        return nearest.height, nearest.width


def _written(height: int, width: int) -> str:
    return f"{width}x{height}"
