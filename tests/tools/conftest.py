"""Animations drawn here stand where the corpus has its emoji, so that nothing is downloaded."""

import colorsys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from tools.pocket import corpus


@pytest.fixture(scope="session")
def drawn_animations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An animated WebP for every subject: a figure of its own colour and number of corners that turns."""
    folder = tmp_path_factory.mktemp("emoji")
    for index, code in enumerate(corpus.SUBJECTS.values()):
        red, green, blue = colorsys.hsv_to_rgb(index / len(corpus.SUBJECTS), 0.9, 0.9)
        colour = (int(255 * red), int(255 * green), int(255 * blue), 255)
        pictures = []
        for turn in range(6):
            picture = Image.new("RGBA", (48, 48), (0, 0, 0, 0))
            ImageDraw.Draw(picture).regular_polygon(
                (24, 24, 20), 3 + index % 4, rotation=15 * turn, fill=colour
            )
            pictures.append(picture)
        pictures[0].save(
            folder / f"{code}.webp", save_all=True, append_images=pictures[1:], duration=42, lossless=True
        )
    return folder


@pytest.fixture
def pocket_corpus(drawn_animations: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The corpus reads these animations."""
    monkeypatch.setattr(corpus, "EMOJI_FOLDER", drawn_animations)
    corpus._sprites.cache_clear()
    corpus._count_pictures.cache_clear()
    return drawn_animations
