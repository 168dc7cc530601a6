"""A film as a timeline for editing programs: OpenTimelineIO's own format, Final Cut Pro's XML and an EDL.

Every clip is named with its file, beside which the timelines lie, and carries its prompt, seed and take.
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import quote

import opentimelineio as otio

from swd_video.files import path_from, write_text
from swd_video.studio.film_plan import FilmClip, FilmPlan
from swd_video.studio.folder import EDL_NAME, FCPXML_NAME, OTIO_NAME

_NAMESPACE = "swd_video"
# What editing programs count time in.
_EDITING_RATES = (24, 25, 30, 48, 50, 60)
# Where the time of what is no file begins in Final Cut Pro.
_GAP_START = "3600s"
_MARKER_COLOURS = {"prompt": "CYAN", "title": "YELLOW", "marker": "PINK"}


def write_timelines(plan: FilmPlan, folder: Path) -> list[str]:
    """Write the film's timelines.

    Returns:
        Their names. Editing programs know few frame rates: where no multiple of the film's is among them, the timeline
        in OpenTimelineIO's format is the only one.
    """
    own = build_timeline(plan, plan.fps, folder)
    write_text(folder / OTIO_NAME, own.to_json_string(indent=2) + "\n")
    rate = editing_rate(plan.fps)
    if rate is None:
        return [OTIO_NAME]
    timeline = build_timeline(plan, rate, folder)
    write_text(folder / FCPXML_NAME, _as_fcpxml(plan, timeline, rate))
    write_text(folder / EDL_NAME, otio.adapters.write_to_string(timeline, "cmx_3600", style="premiere"))
    return [OTIO_NAME, FCPXML_NAME, EDL_NAME]


def editing_rate(fps: Fraction) -> Fraction | None:
    """The lowest rate of editing programs at which every frame of the film lasts a whole number of frames."""
    return next((Fraction(rate) for rate in _EDITING_RATES if (rate / fps).denominator == 1), None)


def build_timeline(plan: FilmPlan, rate: Fraction, folder: Path) -> "otio.schema.Timeline":
    """The film as a timeline that counts frames at a rate, a multiple of the film's."""

    def time(frames: int) -> "otio.opentime.RationalTime":
        return otio.opentime.RationalTime(float(frames * rate / plan.fps), float(rate))

    def span(start: int, frames: int) -> "otio.opentime.TimeRange":
        return otio.opentime.TimeRange(time(start), time(frames))

    timeline = otio.schema.Timeline(plan.script.title)
    timeline.metadata[_NAMESPACE] = {"model": plan.script.model, "seed": plan.script.seed}
    pictures = otio.schema.Track("Pictures", kind=otio.schema.TrackKind.Video)
    timeline.tracks.append(pictures)
    if plan.card:
        gap = otio.schema.Gap(source_range=span(0, plan.card))
        gap.markers.append(_marker("title", plan.script.title, span(0, 1)))
        pictures.append(gap)
    for index, clip in enumerate(plan.clips):
        following = plan.clips[index + 1].span.fade if index + 1 < len(plan.clips) else 0
        # The cut lies in the middle of a crossfade; what is seen beyond it are the clips' handles.
        early, late = clip.span.fade // 2, following - following // 2
        if clip.span.fade:
            handles = time(early), time(clip.span.fade - early)
            kind = otio.schema.TransitionTypes.SMPTE_Dissolve
            pictures.append(otio.schema.Transition("Cross Dissolve", kind, *handles))
        start = clip.span.start + early
        pictures.append(
            _clip(clip, span(start, clip.span.stop - late - start), span(0, clip.length), span(start, 1))
        )
    if (sound := plan.script.film_settings.sound) is not None:
        track = otio.schema.Track("Sound", kind=otio.schema.TrackKind.Audio)
        length = int(plan.sound_seconds * plan.fps)
        media = otio.schema.ExternalReference(quote(path_from(folder, sound)), span(0, length))
        track.append(otio.schema.Clip("Sound", media, span(0, min(length, plan.frames))))
        timeline.tracks.append(track)
    return timeline


def _clip(
    clip: FilmClip,
    shown: "otio.opentime.TimeRange",
    whole: "otio.opentime.TimeRange",
    first: "otio.opentime.TimeRange",
) -> "otio.schema.Clip":
    take, shot = clip.take, clip.take.shot
    about = {
        "id": shot.id,
        "take": take.take,
        "prompt": clip.prompt,
        "seed": clip.sidecar.get("seed", take.seed),
        "model": clip.sidecar.get("model", ""),
    }
    media = otio.schema.ExternalReference(clip.packets.path.name, whole)
    media.metadata["fcpx"] = {
        "note": clip.prompt,
        "metadata": [{f"{_NAMESPACE}.{key}": str(value)} for key, value in about.items()],
    }
    made = otio.schema.Clip(take.name, media, shown)
    made.metadata[_NAMESPACE] = about
    # In an EDL clips are told by the names of their files: those of reels are cut to eight letters.
    made.metadata["cmx_3600"] = {"reel": "AX"}
    texts = {"prompt": clip.prompt, "title": shot.title, "marker": shot.marker}
    for kind, text in texts.items():
        if text:
            made.markers.append(_marker(kind, text, first, about if kind == "prompt" else None))
    return made


def _marker(
    kind: str, text: str, where: "otio.opentime.TimeRange", about: Mapping[str, Any] | None = None
) -> "otio.schema.Marker":
    metadata = {_NAMESPACE: {"kind": kind, **(about or {})}}
    return otio.schema.Marker(text, where, _MARKER_COLOURS[kind], metadata)


def _as_fcpxml(plan: FilmPlan, timeline: "otio.schema.Timeline", rate: Fraction) -> str:
    """The adapter's XML, with what it leaves out: crossfades, and the size of the film."""
    # The adapter knows the rates of broadcasting alone; of the others it would write none.
    rates = otio.adapters.from_name("fcpx_xml").module().FRAMERATE_FRAMEDURATION
    rates.setdefault(int(rate), _seconds(1 / rate))
    root = ElementTree.fromstring(otio.adapters.write_to_string(timeline, "fcpx_xml"))
    resources, project = root.find("resources"), root.find("project")
    assert resources is not None and project is not None
    spine = project.find("sequence/spine")
    assert spine is not None
    project.attrib.pop("uid", None)  # an empty one
    sequence = resources.find("format")
    assert sequence is not None
    sequence.attrib.pop("name", None)  # of a list of formats that has none of these sizes
    sequence.set("frameDuration", _seconds(1 / rate))
    sequence.set("width", str(plan.size[1]))
    sequence.set("height", str(plan.size[0]))
    for asset in (*resources.findall("asset"), *root.findall("asset-clip")):
        asset.attrib.pop("format", None)  # what the files themselves say holds
    for marker in spine.findall("gap/marker"):
        marker.set("start", _GAP_START)
    # A crossfade lies over the cut in its middle.
    clips = spine.findall("clip")
    for element, clip in zip(clips, plan.clips, strict=True):
        if clip.span.fade:
            fade = ElementTree.Element("transition", name="Cross Dissolve")
            fade.set("offset", _seconds(clip.span.at / plan.fps))
            fade.set("duration", _seconds(clip.span.fade / plan.fps))
            spine.insert(list(spine).index(element), fade)
    ElementTree.indent(root, "    ")
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE fcpxml>\n{text}\n'


def _seconds(time: Fraction) -> str:
    return f"{time.numerator}/{time.denominator}s"
