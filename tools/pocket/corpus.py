"""The pocket corpus: real animated emoji, composed into captioned clips.

A clip is one animated emoji that moves, or not, over a background, with a caption that says so: "a tiger moving
left on a green meadow". Everything about a clip follows from its `ClipSpec`, so the corpus is rebuilt from a seed.

    python -m tools.pocket.corpus fetch                        # the animations, about 350 MB through npm
    python -m tools.pocket.corpus build --out out/pocket/corpus # MP4 files and a manifest
    python -m tools.pocket.corpus prompts --out out/pocket/train_prompts.txt # every caption of the training split

Animations: npm packages @lobehub/fluent-emoji-anim-1 and -2, version 1.0.0 (MIT; Microsoft's Fluent emoji).
"""

import argparse
import hashlib
import itertools
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageSequence

from swd_video.core.grid import PixelSize
from swd_video.files import whole_file, write_json, write_text
from tools.pocket.npm import npm_package

EMOJI_FOLDER = Path(os.environ.get("SWD_POCKET_EMOJI", "out/pocket/emoji"))
FPS = 12.0
CLIP_SIZE = PixelSize(17, 96, 96)
_SPRITE_PX = 144
_PACKAGES = {
    "@lobehub/fluent-emoji-anim-1@1.0.0": (
        "/4m31vAuZEQ4aUJ5pxcOU5PVkuJya55GRxUZL7+zgLlxZXpzzE8jPqpDyhZICE3n47nS/Y9M5/vLdizi8201QA=="
    ),
    "@lobehub/fluent-emoji-anim-2@1.0.0": (
        "S6yzf0RZXrQbXdxCWuHA9BAoLdBRk2flX+ne4TPGEH/qApwisCAKHoAAGjKSlTY3OVeZ9b7t/NEbmpjawnQYJA=="
    ),
}

# Name in the caption -> code point of the animation. Few enough that a small network sees each of them often, and
# simple enough to be told apart at 48 pixels.
SUBJECTS = {
    "tiger": "1f405",
    "whale": "1f40b",
    "dog": "1f415",
    "pig": "1f416",
    "elephant": "1f418",
    "bee": "1f41d",
    "ladybug": "1f41e",
    "fish": "1f420",
    "turtle": "1f422",
    "chick": "1f424",
    "penguin": "1f427",
    "frog": "1f438",
    "panda": "1f43c",
    "ghost": "1f47b",
    "alien": "1f47d",
    "racing car": "1f3ce-fe0f",
    "pumpkin": "1f383",
    "christmas tree": "1f384",
    "birthday cake": "1f382",
    "blue heart": "1f499",
}
MOTIONS = ("standing still", "moving left", "moving right", "floating up", "falling down", "coming closer")
BACKGROUNDS = (
    "under a blue sky",
    "on a green meadow",
    "at sunset",
    "at night",
    "on a sandy beach",
    "in the snow",
)
SPLITS = ("train", "heldout", "choose", "final")
"""Of combinations: what networks may learn, what they may not, and of the latter what students are chosen on and what
only the final table shows."""
_HELD_OUT_ONE_IN = 8
_CHOOSE_ONE_IN = 3


@dataclass(frozen=True)
class ClipSpec:
    """One clip of the corpus; `seed` settles its size, place, colours and the phase of its animation."""

    subject: str
    motion: str
    background: str
    seed: int

    @property
    def caption(self) -> str:
        """The clip in words."""
        article = "an" if self.subject[0] in "aeiou" else "a"
        return f"{article} {self.subject} {self.motion} {self.background}"


def parse_caption(caption: str, seed: int = 0) -> ClipSpec:
    """The clip that a corpus caption describes.

    Raises:
        ValueError: if it is not a caption in the corpus's own words.
    """
    for motion in MOTIONS:
        head, found, background = caption.partition(f" {motion} ")
        subject = head.partition(" ")[2]
        if found and subject in SUBJECTS and background in BACKGROUNDS:
            return ClipSpec(subject, motion, background, seed)
    raise ValueError(f"caption {caption!r}: expected 'a SUBJECT MOTION BACKGROUND' in the corpus's words.")


def split_of(subject: str, motion: str, background: str) -> str:
    """Which part this combination belongs to, settled by a hash of its words.

    Returns:
        "train"; or, of the one in eight that is kept from every network, "choose" for one in three and "final" for the
        others.
    """
    digest = hashlib.sha256(f"{subject}|{motion}|{background}".encode()).digest()
    if digest[0] % _HELD_OUT_ONE_IN:
        return "train"
    return "final" if digest[1] % _CHOOSE_ONE_IN else "choose"


def combinations(split: str) -> list[tuple[str, str, str]]:
    """All (subject, motion, background) of a split, in a fixed order.

    Args:
        split: one of `SPLITS`; "heldout" is "choose" and "final" together.
    """
    if split not in SPLITS:
        raise ValueError(f"split: got {split!r}, expected one of {', '.join(SPLITS)}.")
    wanted = ("choose", "final") if split == "heldout" else (split,)
    every = itertools.product(SUBJECTS, MOTIONS, BACKGROUNDS)
    return [words for words in every if split_of(*words) in wanted]


def corpus_specs(split: str, seed: int, count: int) -> list[ClipSpec]:
    """`count` clips of a split, every combination equally often, in an order shuffled by `seed`."""
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    pool = combinations(split)
    specs: list[ClipSpec] = []
    while len(specs) < count:
        order = rng.permutation(len(pool))
        seeds = rng.integers(0, 2**31, size=len(pool))
        for index in order.tolist():
            subject, motion, background = pool[index]
            specs.append(ClipSpec(subject, motion, background, int(seeds[index])))
    return specs[:count]


@dataclass(frozen=True)
class Composition:
    """What a caption leaves open, as the seed of a clip settles it.

    Attributes:
        scale: Side of the subject's square, as a share of the frame's shorter side.
        x: Of its centre to the right of the frame's, as a share of the width.
        y: Likewise, downwards.
        speed: Of its way; 1 on average.
        shift: How far the scenery is moved sideways, in [-1, 1].
        tint: Factors of red, green and blue of the background.
        phase: Picture that the animation begins with.
        loop: Pictures of the animation.
    """

    scale: float
    x: float
    y: float
    speed: float
    shift: float
    tint: tuple[float, float, float]
    phase: int
    loop: int

    def place(self, motion: str, time: float) -> tuple[float, float, float]:
        """Where the subject is (x, y) and how large, at `time` in [0, 1]."""
        path = self.speed * (time - 0.5)
        x, y, growth = {
            "standing still": (0.0, 0.0, 1.0),
            "moving left": (-0.38 * path, 0.0, 1.0),
            "moving right": (0.38 * path, 0.0, 1.0),
            "floating up": (0.0, -0.32 * path, 1.0),
            "falling down": (0.0, 0.32 * path, 1.0),
            "coming closer": (0.0, 0.0, 0.5 + 0.75 * self.speed * time),
        }[motion]
        return self.x + x, self.y + y, self.scale * growth


def composition_of(spec: ClipSpec) -> Composition:
    """What the seed of a clip settles."""
    rng = np.random.default_rng([spec.seed, 7])
    scale = 0.78 * rng.uniform(0.92, 1.08)
    x, y = rng.uniform(-0.05, 0.05, size=2)
    speed = rng.uniform(0.9, 1.1)
    shift, tint = rng.uniform(-1, 1), rng.uniform(0.95, 1.05, size=3)
    # Animations have 24 pictures a second, and begin at one of every second one.
    pictures = _count_pictures(SUBJECTS[spec.subject])
    loop = pictures + pictures % 2
    return Composition(
        scale, x, y, speed, shift, tuple(tint.tolist()), 2 * int(rng.integers(loop // 2)), loop
    )


def compose_clip(spec: ClipSpec, size: PixelSize = CLIP_SIZE) -> np.ndarray:
    """Draw a clip.

    Args:
        spec: what it shows.
        size: frames, height and width; a clip always lasts as long as `CLIP_SIZE` does at `FPS`.

    Returns:
        uint8, frames x height x width x 3.
    """
    made = composition_of(spec)
    sprites = _sprites(SUBJECTS[spec.subject], max(_SPRITE_PX, 3 * min(size.height, size.width) // 2))
    # Everything is drawn at twice the size and reduced, so that slow movements are smooth.
    height, width = 2 * size.height, 2 * size.width
    backdrop = _backdrop(spec.background, height, width, made.shift, np.array(made.tint))
    frames = []
    for index in range(size.frames):
        time = index / max(1, size.frames - 1)
        picture = (made.phase + round(2 * time * (CLIP_SIZE.frames - 1))) % made.loop
        sprite = sprites[min(picture, len(sprites) - 1)]
        x, y, share = made.place(spec.motion, time)
        side = share * min(height, width)
        flip = -1.0 if spec.motion == "moving right" else 1.0
        ratio = sprite.width / side
        left = width * (0.5 + x) - side / 2
        top = height * (0.52 + y) - side / 2
        matrix = (flip * ratio, 0.0, -flip * ratio * left, 0.0, ratio, -ratio * top)
        if flip < 0:
            matrix = (matrix[0], 0.0, sprite.width + ratio * left, 0.0, ratio, -ratio * top)
        layer = sprite.transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
        frame = Image.alpha_composite(backdrop, layer).convert("RGB").reduce(2)
        frames.append(np.asarray(frame))
    return np.stack(frames)


@cache
def _sprites(code: str, side_px: int) -> list[Image.Image]:
    """The animation at its 24 pictures a second."""
    with _open_animation(code) as animation:
        pictures = [
            picture.convert("RGBA").resize((side_px, side_px), Image.Resampling.LANCZOS)
            for picture in ImageSequence.Iterator(animation)
        ]
    return pictures


@cache
def _count_pictures(code: str) -> int:
    with _open_animation(code) as animation:
        return int(getattr(animation, "n_frames", 1))


def _open_animation(code: str) -> Image.Image:
    path = EMOJI_FOLDER / f"{code}.webp"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing. Run `python -m tools.pocket.corpus fetch` first.")
    return Image.open(path)


def _gradient(top: tuple[int, int, int], bottom: tuple[int, int, int], height: int, width: int) -> np.ndarray:
    mix = np.linspace(0, 1, height)[:, None, None]
    return np.broadcast_to((1 - mix) * np.array(top) + mix * np.array(bottom), (height, width, 3)).copy()


def _backdrop(name: str, height: int, width: int, shift: float, tint: np.ndarray) -> Image.Image:
    """The background picture; `shift` in [-1, 1] moves its scenery sideways, `tint` scales its colours."""
    skies = {
        "under a blue sky": ((70, 150, 245), (175, 215, 255)),
        "on a green meadow": ((190, 225, 250), (225, 240, 250)),
        "at sunset": ((120, 60, 140), (255, 150, 60)),
        "at night": ((12, 14, 50), (40, 40, 100)),
        "on a sandy beach": ((150, 215, 250), (200, 235, 255)),
        "in the snow": ((175, 190, 215), (205, 215, 230)),
    }
    canvas = Image.fromarray(_gradient(*skies[name], height, width).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)

    def box(x: float, y: float, rx: float, ry: float) -> tuple[float, float, float, float]:
        x = x + 0.08 * shift
        return ((x - rx) * width, (y - ry) * height, (x + rx) * width, (y + ry) * height)

    if name == "under a blue sky":
        for x, y, r in ((0.15, 0.2, 0.12), (0.27, 0.22, 0.09), (0.85, 0.8, 0.14), (0.7, 0.83, 0.09)):
            draw.ellipse(box(x, y, r, 0.55 * r), fill=(255, 255, 255))
    elif name == "on a green meadow":
        draw.ellipse(box(0.2, 1.15, 0.9, 0.6), fill=(120, 200, 90))
        draw.ellipse(box(0.8, 1.2, 0.9, 0.6), fill=(90, 175, 70))
    elif name == "at sunset":
        draw.ellipse(box(0.75, 0.62, 0.14, 0.14), fill=(255, 225, 130))
        draw.rectangle((0, 0.8 * height, width, height), fill=(70, 35, 70))
    elif name == "at night":
        draw.ellipse(box(0.82, 0.17, 0.1, 0.1), fill=(250, 245, 205))
        for x, y in (
            (0.1, 0.12),
            (0.3, 0.07),
            (0.5, 0.18),
            (0.15, 0.42),
            (0.9, 0.5),
            (0.07, 0.75),
            (0.62, 0.06),
        ):
            draw.ellipse(box(x, y, 0.012, 0.012), fill=(255, 255, 255))
    elif name == "on a sandy beach":
        draw.rectangle((0, 0.45 * height, width, 0.7 * height), fill=(40, 140, 200))
        draw.ellipse(box(0.4, 1.05, 1.1, 0.42), fill=(240, 215, 150))
    else:
        draw.ellipse(box(0.3, 1.2, 1.0, 0.58), fill=(240, 246, 255))
        for x, y in ((0.12, 0.62), (0.9, 0.6)):
            tip, foot = (x + 0.08 * shift, y - 0.3), y + 0.05
            points = [tip, (tip[0] - 0.1, foot), (tip[0] + 0.1, foot)]
            draw.polygon([(px * width, py * height) for px, py in points], fill=(60, 110, 100))
    colours = np.clip(np.asarray(canvas) * tint, 0, 255).astype(np.uint8)
    return Image.fromarray(colours).convert("RGBA")


def fetch(folder: Path = EMOJI_FOLDER) -> None:
    """Download the animations with npm, check their hashes and unpack those that the corpus uses."""
    wanted = {f"{code}.webp" for code in SUBJECTS.values()}
    if all((folder / name).exists() for name in wanted):
        return
    folder.mkdir(parents=True, exist_ok=True)
    for package, integrity in _PACKAGES.items():
        with npm_package(package, integrity) as files:
            for member in files:
                name = Path(member.name).name
                source = files.extractfile(member) if name in wanted else None
                if source is not None:
                    with whole_file(folder / name) as draft:
                        draft.write_bytes(source.read())
    missing = sorted(name for name in wanted if not (folder / name).exists())
    if missing:
        raise FileNotFoundError(f"the packages do not hold {missing}.")


def frame_rate(size: PixelSize) -> float:
    """Frames per second of a composed clip: more frames are a finer division of the same time."""
    return FPS * (size.frames - 1) / (CLIP_SIZE.frames - 1)


def _write_clip(folder: Path, size: PixelSize, lossless: bool, item: tuple[int, ClipSpec]) -> str:
    from swd_video.data.video import write_video

    index, spec = item
    name = f"{index:05d}.mp4"
    if not (folder / name).exists():
        clip = compose_clip(spec, size)
        crf = None if lossless else 12
        write_video(folder / name, clip, frame_rate(size), metadata={"caption": spec.caption}, crf=crf)
    return json.dumps({"path": name, "caption": spec.caption})


def build(
    folder: Path,
    *,
    split: str,
    count: int,
    seed: int,
    workers: int,
    size: PixelSize = CLIP_SIZE,
    lossless: bool = False,
) -> None:
    """Write `count` clips as MP4 with `manifest.jsonl`; clips that are there already are kept.

    Raises:
        ValueError: if those are other clips, or were written otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_recipe(folder, {"split": split, "seed": seed, "size": str(size), "lossless": lossless})
    items = list(enumerate(corpus_specs(split, seed, count)))
    with ProcessPoolExecutor(workers) as pool:
        lines = list(pool.map(partial(_write_clip, folder, size, lossless), items, chunksize=16))
    write_text(folder / "manifest.jsonl", "\n".join(lines) + "\n")
    print(f"{len(lines)} clips in {folder}", file=sys.stderr)


def _check_recipe(folder: Path, recipe: dict[str, Any]) -> None:
    """Clips are made anew nowhere, so a folder holds those of one recipe."""
    path = folder / "corpus.json"
    if not path.is_file() and any(folder.glob("*.mp4")):
        print(
            f"warning: {folder}: holds clips of an older version, which does not say how they were made.",
            file=sys.stderr,
        )
        return
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else recipe
    if found != recipe:
        raise ValueError(f"--out {folder}: holds clips of {found}, not {recipe}. Choose another folder.")
    write_json(path, recipe)


def write_prompts(path: Path, split: str) -> None:
    """Write the caption of every combination of a split, one a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(f"{ClipSpec(*words, 0).caption}\n" for words in combinations(split)))


def main() -> None:
    """Command line: fetch the animations, build a folder of clips, or list the captions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fetch", help="download the animations")
    builder = commands.add_parser("build", help="compose clips into a folder with a manifest")
    builder.add_argument("--out", type=Path, required=True)
    builder.add_argument("--split", choices=SPLITS, default="train")
    builder.add_argument("--count", type=int, default=6440)
    builder.add_argument("--seed", type=int, default=0)
    builder.add_argument("--size", type=PixelSize.parse, default=CLIP_SIZE, help="frames x height x width")
    builder.add_argument(
        "--lossless", action="store_true", help="keep every value; else H.264 of high quality"
    )
    builder.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    lister = commands.add_parser("prompts", help="write the captions of a split, one a line")
    lister.add_argument("--out", type=Path, required=True)
    lister.add_argument("--split", choices=SPLITS, default="train")
    arguments = parser.parse_args()
    if arguments.command == "prompts":
        write_prompts(arguments.out, arguments.split)
        return
    fetch()
    if arguments.command == "build":
        try:
            build(
                arguments.out,
                split=arguments.split,
                count=arguments.count,
                seed=arguments.seed,
                workers=arguments.workers,
                size=arguments.size,
                lossless=arguments.lossless,
            )
        except ValueError as error:
            parser.error(str(error))


if __name__ == "__main__":
    main()
