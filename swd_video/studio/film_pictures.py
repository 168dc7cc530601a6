"""The pictures of a film that no clip holds as they are: fitted, faded, titled."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageChops, ImageFilter

from swd_video.data.video import read_video
from swd_video.data.video_joining import Copied, Drawn
from swd_video.studio.film_plan import FilmClip, FilmPlan
from swd_video.studio.lettering import draw_text

Picture = UInt8[np.ndarray, "height width 3"]

_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_MARGIN = 1 / 16
# Of the picture's shorter side.
_CARD_LETTERS, _TITLE_LETTERS = 1 / 9, 1 / 13
_LEAST_LETTERS_PX = 9
_SHADOW = 0.8
# Of a title, at both ends.
_RAMP_SECONDS = 0.25


def film_pieces(plan: FilmPlan, parameter_sets: bytes) -> Iterator[Copied | Drawn]:
    """The film from its beginning to its end, as little of it encoded as can be.

    Clips that have other parameter sets than these, which are those of what is encoded, cannot be copied.
    """
    if plan.card:
        card = draw_card(plan.script.title, plan.size)
        yield Drawn(card for _ in range(plan.card))
    for index, clip in enumerate(plan.clips):
        span = clip.span
        before = plan.clips[index - 1] if span.fade else None
        following = plan.clips[index + 1].span.fade if index + 1 < len(plan.clips) else 0
        begin, end = span.start + span.fade, span.stop - following
        copied = _copied(plan, clip, begin, end, parameter_sets)
        if span.fade or begin < copied.start:
            yield Drawn(_drawn(plan, clip, before, copied.start))
        if copied.start < copied.stop:
            yield copied
        if copied.stop < end:
            yield Drawn(_pictures(plan, clip, copied.stop, end))


def _copied(plan: FilmPlan, clip: FilmClip, begin: int, end: int, parameter_sets: bytes) -> Copied:
    """What can be copied of a clip's frames [begin, end); what is drawn lies before and behind it."""
    begin = min(max(begin, clip.span.start + clip.titled), end)
    if clip.packets.parameter_sets != parameter_sets or clip.packets.fps != plan.fps:
        return Copied(clip.packets, end, end)
    return Copied(clip.packets, *clip.packets.copyable(begin, end))


def _drawn(plan: FilmPlan, clip: FilmClip, before: FilmClip | None, stop: int) -> Iterator[Picture]:
    """The crossfade into a clip, and the clip up to a frame."""
    span = clip.span
    if before is not None:
        going = _pictures(plan, before, before.span.stop - span.fade, before.span.stop)
        coming = _pictures(plan, clip, span.start, span.start + span.fade)
        for number, (old, new) in enumerate(zip(going, coming, strict=True), 1):
            share = number / (span.fade + 1)
            yield (old * (1 - share) + new * share).round().astype(np.uint8)
    if span.start + span.fade < stop:
        yield from _pictures(plan, clip, span.start + span.fade, stop)


def _pictures(plan: FilmPlan, clip: FilmClip, start: int, stop: int) -> Iterator[Picture]:
    """Frames [start, stop) of a clip as the film shows them."""
    rate = float(plan.fps)
    # Frames at uneven times are not counted by the film's: like those of another rate they show what is on display.
    if clip.packets.fps == plan.fps and clip.packets.parameter_sets:
        frames, _ = read_video(clip.packets.path, start_seconds=start / rate, end_seconds=stop / rate)
    else:
        frames, _ = read_video(
            clip.packets.path, start_seconds=start / rate, num_frames=stop - start, fps=rate
        )
    assert len(frames) == stop - start
    title = None
    for number, frame in enumerate(frames, start - clip.span.start):
        picture = fit(frame, plan.size)
        if number < clip.titled:
            title = title or _lettered(clip.take.shot.title or "", plan.size)
            ramp = max(1, round(_RAMP_SECONDS * rate))
            picture = _lay_over(picture, title, min(1.0, (number + 1) / ramp, (clip.titled - number) / ramp))
        yield picture


def fit(frame: Picture, size: tuple[int, int]) -> UInt8[np.ndarray, "_ _ 3"]:
    """A frame in another size, whole, with black bars where its shape is another one."""
    height, width = frame.shape[:2]
    if (height, width) == size:
        return frame
    scale = min(size[0] / height, size[1] / width)
    inner = min(size[1], round(width * scale)), min(size[0], round(height * scale))
    picture = Image.new("RGB", (size[1], size[0]), _BLACK)
    corner = (size[1] - inner[0]) // 2, (size[0] - inner[1]) // 2
    picture.paste(Image.fromarray(frame).resize(inner, Image.Resampling.LANCZOS), corner)
    return np.asarray(picture)


def draw_card(text: str, size: tuple[int, int]) -> Picture:
    """A title in the middle of a black picture."""
    card = Image.new("RGB", (size[1], size[0]), _BLACK)
    words = _fitting_words(text, size, _CARD_LETTERS)
    card.paste(words, ((size[1] - words.width) // 2, (size[0] - words.height) // 2))
    return np.asarray(card)


def cut_titles(plan: FilmPlan) -> list[str]:
    """Titles of the film that are too long for its picture even in small letters, a line each."""
    texts = [(plan.script.title, _CARD_LETTERS)] if plan.card else []
    texts += [(clip.take.shot.title or "", _TITLE_LETTERS) for clip in plan.clips if clip.titled]
    return [
        f"the title {text[:30]!r}... does not fit into {plan.size[1]}x{plan.size[0]} pixels: its end is cut off."
        for text, letters in dict.fromkeys(texts)
        if _words(text, plan.size, letters).height > _room(plan.size)
    ]


def _room(size: tuple[int, int]) -> int:
    """How high words may stand in a picture."""
    return round(size[0] * (1 - 2 * _MARGIN))


def _words(text: str, size: tuple[int, int], letters: float) -> Image.Image:
    """White words on black, in smaller letters where else they do not fit, no larger than they need to be."""
    for pixels in range(max(_LEAST_LETTERS_PX, round(min(size) * letters)), _LEAST_LETTERS_PX - 1, -1):
        drawn = draw_text(text, pixels, _WHITE, _BLACK, round(size[1] * (1 - 2 * _MARGIN)))
        drawn = drawn.crop(drawn.getbbox() or (0, 0, 1, 1))
        if drawn.height <= _room(size):
            break
    return drawn


def _fitting_words(text: str, size: tuple[int, int], letters: float) -> Image.Image:
    words = _words(text, size, letters)
    return words.crop((0, 0, words.width, min(words.height, _room(size))))


def _lettered(text: str, size: tuple[int, int]) -> tuple[Image.Image, Image.Image]:
    """Where a picture shows a title, and where its shadow, which keeps it legible over bright ones."""
    words = _fitting_words(text, size, _TITLE_LETTERS).convert("L")
    mask = Image.new("L", (size[1], size[0]), 0)
    mask.paste(words, (round(size[1] * _MARGIN), size[0] - round(size[0] * _MARGIN) - words.height))
    reach = max(1.0, min(size) / 120)
    wide = mask.filter(ImageFilter.MaxFilter(2 * round(reach) + 1)).filter(ImageFilter.GaussianBlur(reach))
    return mask, ImageChops.multiply(wide, Image.new("L", wide.size, round(255 * _SHADOW)))


def _lay_over(frame: Picture, title: tuple[Image.Image, Image.Image], strength: float) -> Picture:
    picture = Image.fromarray(frame)
    for mask, colour in zip(reversed(title), (_BLACK, _WHITE), strict=True):
        picture.paste(colour, (0, 0), mask.point(lambda value: round(value * strength)))
    return np.asarray(picture)
