"""From a script and its finished clips to a film, frame by frame: order, trims, crossfades, titles."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from swd_video.data.sound import sound_seconds
from swd_video.data.video_joining import PacketIndex, index_packets
from swd_video.studio.folder import object_at, read_object, sidecar_file
from swd_video.studio.picks import with_picks
from swd_video.studio.script import Script, Shot, Take

CARD_SECONDS = 2.0
"""How long the film's title is shown, before the first clip."""

TITLE_SECONDS = 2.0
"""How long a shot's title is shown, from the beginning of its clip."""

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Span:
    """What the film shows of a clip, in frames of the film.

    Attributes:
        start: First frame of the clip that is shown.
        stop: The one after the last.
        fade: How many frames at its beginning are a crossfade with the last ones of the clip before.
        at: The film's frame at which it begins.
    """

    start: int
    stop: int
    fade: int
    at: int

    @property
    def frames(self) -> int:
        """How many frames are shown, crossfades at both ends included."""
        return self.stop - self.start


@dataclass(frozen=True)
class FilmClip:
    """One clip of the film.

    Attributes:
        span: Which frames, and where.
        length: Of the whole clip, in frames of the film.
        titled: Over how many frames its title is shown, 0 for none.
    """

    take: Take
    span: Span
    packets: PacketIndex
    length: int
    sidecar: Mapping[str, Any]
    titled: int

    @property
    def prompt(self) -> str:
        """What the clip was made of; one that is kept may be of an older prompt than its shot's."""
        return str(self.sidecar.get("prompt", self.take.shot.prompt))


@dataclass(frozen=True)
class FilmPlan:
    """A film.

    Attributes:
        clips: In the order in which they play.
        size: Height and width in pixels.
        fps: Frames per second.
        sound_seconds: Length of the sound file, 0 without one.
        notes: What is not quite as asked, a line each.
    """

    script: Script
    clips: tuple[FilmClip, ...]
    size: tuple[int, int]
    fps: Fraction
    sound_seconds: Fraction
    notes: tuple[str, ...]

    @property
    def card(self) -> int:
        """For how many frames the film's title is shown, before the first clip; 0 for none."""
        return self.clips[0].span.at

    @property
    def frames(self) -> int:
        """How many frames the film has."""
        last = self.clips[-1].span
        return last.at + last.frames

    @property
    def seconds(self) -> Fraction:
        """How long it is."""
        return self.frames / self.fps


def shots_of_film(script: Script) -> list[Shot]:
    """The shots of a film in the order in which they play; one that is named twice plays twice."""
    shots = {shot.id: shot for shot in script.shots}
    return [shots[shot_id] for shot_id in script.film_settings.order] or list(script.shots)


def lay_out(
    script: Script,
    shots: Sequence[Shot],
    lengths: Sequence[int],
    fps: Fraction,
    repeated: Sequence[int] = (),
) -> tuple[list[Span], list[str]]:
    """Lay clips end to end.

    `lengths` are frames of each clip at the rate of the film. `repeated` is how many frames at the beginning of each
    clip show once more what the clip before ends with; they are left out where nothing else lies between the two.

    Returns:
        What is shown of each, and notes.

    Raises:
        SourceError: A trim leaves nothing of a clip, or crossfades need more frames than one has.
    """
    settings = script.film_settings
    notes, fades, ranges = [], [], []
    for index, (shot, length) in enumerate(zip(shots, lengths, strict=True)):
        start, end = (round(seconds * fps) for seconds in shot.trim or (0.0, 0.0))
        if start + end >= length:
            problem = f"cuts off {start} and {end} frames of {length}. Leave some of the clip."
            raise script.shot_error(shot, "trim", problem)
        ranges.append((start, length - end))
        seconds = settings.crossfade if shot.transition is None else shot.transition.seconds
        fades.append(max(1, round(seconds * fps)) if seconds > 0 and index else 0)
        if index == 0 and shot.transition is not None and shot.transition.kind == "crossfade":
            notes.append(f"{shot.id} is the first shot of the film: there is nothing to crossfade from.")
    for index, again in enumerate(repeated[1:], 1):
        follows = ranges[index - 1][1] == lengths[index - 1] and ranges[index][0] == 0 and not fades[index]
        if follows and again < ranges[index][1]:
            ranges[index] = again, ranges[index][1]
    at = round(CARD_SECONDS * fps) if settings.titles else 0
    spans: list[Span] = []
    for (start, stop), fade, following in zip(ranges, fades, [*fades[1:], 0], strict=True):
        if fade + following > stop - start:
            shot = shots[len(spans)]
            problem = (
                f"{shot.id} has {stop - start} frames for the film, and its crossfades need {fade} and {following}. "
                "Make them shorter, or let one be a cut."
            )
            blamed = shots[len(spans) + 1] if following > fade else shot  # for the longer one
            if blamed.transition is None:
                raise script.film_error("crossfade", problem)
            raise script.shot_error(blamed, "transition", problem)
        at -= fade
        spans.append(Span(start, stop, fade, at))
        at += stop - start
    return spans, notes


def plan_film(script: Script, folder: Path) -> FilmPlan:
    """Plan a film of the clips in a folder.

    Its size and its rate are those of most of the pictures; clips of another size are fitted in whole, with black bars,
    and clips of another rate show the picture on display.

    Raises:
        ValueError: A clip is not finished, or is too short for what is asked.
    """
    script = with_picks(script, folder)
    settings, shots = script.film_settings, shots_of_film(script)
    takes = [script.shown_take(shot) for shot in shots]
    sidecars = {take.name: _sidecar(take, folder) for take in takes}
    packets = {name: index_packets(folder / f"{name}.mp4") for name in sidecars}
    played = [packets[take.name] for take in takes]
    fps = _most((clip.fps, clip.frames) for clip in played)
    size = _most(((clip.height, clip.width), clip.frames) for clip in played)
    lengths = [length_at(clip.frames, clip.fps, fps) for clip in played]
    repeated = [
        _repeated(sidecars[take.name], before.name) if packets[take.name].fps == fps else 0
        for take, before in zip(takes, [takes[-1], *takes], strict=False)
    ]
    spans, notes = lay_out(script, shots, lengths, fps, repeated)
    notes += _describe_others(packets, size, fps)
    notes += [line for take in dict.fromkeys(takes) if (line := _stale(take, sidecars[take.name]))]
    untold = [shot.id for shot in shots if shot.title]
    if untold and not settings.titles:
        notes.append(f"titles are not shown, as the film does not ask for them: {', '.join(untold)}.")
    clips = tuple(
        FilmClip(
            take,
            span,
            packets[take.name],
            length,
            sidecars[take.name],
            min(round(TITLE_SECONDS * fps), span.frames) if settings.titles and take.shot.title else 0,
        )
        for take, span, length in zip(takes, spans, lengths, strict=True)
    )
    return FilmPlan(script, clips, size, fps, sound_length(script), tuple(notes))


def sound_length(script: Script) -> Fraction:
    """Seconds of a film's sound file, 0 without one. Raises `SourceError` where it holds no sound."""
    if (sound := script.film_settings.sound) is None:
        return Fraction(0)
    try:
        return sound_seconds(sound)
    except ValueError as error:
        raise script.film_error("sound", str(error)) from None


def length_at(frames: int, clip_fps: Fraction, fps: Fraction) -> int:
    """How many frames a clip has at another rate than its own, counted as `read_video` does."""
    return frames if clip_fps == fps else max(1, int(frames / clip_fps * fps + Fraction(1, 20)))


def as_fraction(fps: float) -> Fraction:
    """A rate as films count with it."""
    return Fraction(fps).limit_denominator(1001)


def _sidecar(take: Take, folder: Path) -> dict[str, Any]:
    sidecar = read_object(sidecar_file(take.name, folder))
    if not sidecar or not (folder / f"{take.name}.mp4").is_file():
        raise ValueError(
            f"{folder}: {take.name} is not rendered there yet. Render the script first, or name the shots to show: "
            "`film.order` in the script, or --order."
        )
    return sidecar


def _repeated(sidecar: Mapping[str, Any], before: str) -> int:
    """How many frames of a clip are those of the clip before, which it continues."""
    joins = object_at(sidecar, "joins")
    return int(joins.get("drop_frames", 0)) if joins.get("clip") == before else 0


def _most(counted: Iterable[tuple[_Value, int]]) -> _Value:
    """What stands for most frames; of several the first."""
    counts: Counter[_Value] = Counter()
    for value, frames in counted:
        counts[value] += frames
    return counts.most_common(1)[0][0]


def _describe_others(packets: Mapping[str, PacketIndex], size: tuple[int, int], fps: Fraction) -> list[str]:
    lines = []
    for name, clip in packets.items():
        if (clip.height, clip.width) != size:
            lines.append(
                f"{name} has {clip.width}x{clip.height} pixels, the film {size[1]}x{size[0]}: it is fitted in and "
                "encoded again."
            )
        if clip.fps != fps:
            lines.append(
                f"{name} has {float(clip.fps):g} frames a second, the film {float(fps):g}: it is encoded again."
            )
    return lines


def _stale(take: Take, sidecar: Mapping[str, Any]) -> str | None:
    if take.shot.keeps(take.take):
        return None
    for key, now in (("prompt", take.shot.prompt), ("seed", take.seed)):
        if sidecar.get(key) != now:
            return f"{take.name} was rendered with another {key} than the script has now: render it again."
    return None
