"""Draw every subject as it is, through the VAE, by the teacher and by the student, from the clips of an evaluation.

    python -m tools.pocket.sheet configs/pocket/final.yaml --evaluation out/pocket/final --out docs/pocket/subjects.webp
    python -m tools.pocket.sheet configs/pocket/final.yaml --evaluation out/pocket/final --rows student --unnamed 1 \
        --out out/pocket/unnamed.webp

A line shows the middle frames of three clips of one prompt in each of the evaluation's rows. Clips that are missing are
made. The second sheet has no names and an order of its own, so that whoever has not seen the list can say what it
shows; it is twice as large, in two columns.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from swd_video.config import load_config_as
from swd_video.evaluation.clip_store import StoredClips
from swd_video.evaluation.config import EvaluateConfig
from swd_video.evaluation.evaluate import run_evaluation
from swd_video.files import whole_file
from tools.pocket.corpus import SUBJECTS, parse_caption

ROWS = ("real", "codec", "teacher-50", "student")
SAMPLES = 3
_MARGIN, _TEXT_PX = 6, 12


def lines_of(clips: StoredClips) -> dict[str, list[int]]:
    """Clips to show of each subject: the first ones of its first prompt by the alphabet, the same in every row."""
    prompts: dict[str, str] = {}
    for caption in sorted(clips.captions):
        prompts.setdefault(parse_caption(caption).subject, caption)
    return {
        subject: [i for i, caption in enumerate(clips.captions) if caption == prompts[subject]][:SAMPLES]
        for subject in SUBJECTS
        if subject in prompts
    }


def draw(rows: dict[str, StoredClips], order: list[str], named: bool) -> Image.Image:
    """The sheet: a line for each subject, `SAMPLES` pictures for each row."""
    clips = next(iter(rows.values()))
    height, width = clips.clip(0).shape[1:3]
    font = ImageFont.load_default(_TEXT_PX)
    left = max(int(font.getlength(name)) for name in (*order, "00")) + 2 * _MARGIN
    block = SAMPLES * width + _MARGIN
    top = _TEXT_PX + 2 * _MARGIN
    sheet = Image.new("RGB", (left + block * len(rows), top + len(order) * (height + _MARGIN)), "white")
    pen = ImageDraw.Draw(sheet)
    for column, (title, row) in enumerate(rows.items()):
        pen.text((left + column * block, _MARGIN), title if named else "", fill="black", font=font)
        chosen = lines_of(row)
        for number, subject in enumerate(order):
            y = top + number * (height + _MARGIN)
            pen.text((_MARGIN, y), subject if named else str(number + 1), fill="black", font=font)
            for sample, index in enumerate(chosen.get(subject, [])):  # a row may show none of it
                clip = row.clip(index)
                sheet.paste(
                    Image.fromarray(clip[len(clip) // 2]), (left + column * block + sample * width, y)
                )
    return sheet


def spread(sheet: Image.Image, num_lines: int) -> Image.Image:
    """A sheet twice as large, in two columns: who looks at a tall picture is shown it reduced."""
    top = _TEXT_PX + 2 * _MARGIN
    cut = top + -(-num_lines // 2) * ((sheet.height - top) // num_lines)
    columns = Image.new("RGB", (2 * sheet.width, cut), "white")
    columns.paste(sheet.crop((0, 0, sheet.width, cut)), (0, 0))
    columns.paste(sheet.crop((0, cut, sheet.width, sheet.height)), (sheet.width, top))
    return columns.resize((2 * columns.width, 2 * columns.height), Image.Resampling.LANCZOS)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--evaluation", type=Path, required=True, help="its folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", default=ROWS, help="keys of the rows to show")
    parser.add_argument("--device", default="cpu", help="where clips that are missing are made")
    parser.add_argument(
        "--unnamed", type=int, metavar="SEED", help="leave the names out, and shuffle the lines"
    )
    arguments = parser.parse_args()
    config = load_config_as(EvaluateConfig, arguments.config, {"cost": None})
    results = run_evaluation(
        config, arguments.evaluation, title=arguments.config.stem, device=arguments.device
    )
    rows = {row.title.split(" (")[0]: row.clips for row in (results.row(key) for key in arguments.rows)}
    order, named = list(lines_of(next(iter(rows.values())))), arguments.unnamed is None
    if not named:
        np.random.default_rng(arguments.unnamed).shuffle(order)
        print("\n".join(f"{number} {subject}" for number, subject in enumerate(order, 1)))
    sheet = draw(rows, order, named)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(arguments.out) as draft:
        (sheet if named else spread(sheet, len(order))).save(draft, format="WEBP", quality=90)


if __name__ == "__main__":
    main()
