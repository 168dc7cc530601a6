"""Draw what the pocket student's clips look like through its decoder and through the VAE, the picture of the README.

    python -m tools.pocket.decoder_picture --out docs/decoder.png

Each prompt is a column: above through the VAE, below through the decoder that the student carries. Both show the same
latents.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from swd_video.core.pixels import frames_from_pixels
from swd_video.files import whole_file
from swd_video.models.decoding import decode_whole
from swd_video.models.sections import LoadOptions
from swd_video.student.student import load_student

PROMPTS = (
    "a panda moving right on a green meadow",
    "a pumpkin coming closer at night",
    "a whale floating up at sunset",
    "a penguin moving left in the snow",
    "a frog falling down under a blue sky",
)
_FRAME, _ENLARGED = 8, 2


def draw(student: str, decoder: Path | None = None) -> Image.Image:
    """One picture of a frame of each prompt, through the VAE above and through the decoder below.

    Args:
        student: a shipped name or a folder.
        decoder: a file; default the one that the student carries.

    Raises:
        ValueError: if there is neither.
    """
    pipe = load_student(student, options=LoadOptions(decoder=decoder))
    if pipe.model.decoder is None:
        raise ValueError(f"student {student}: carries no decoder; name one with --decoder.")
    pipe.set_progress_bar_config(disable=True)
    latents = pipe(list(PROMPTS), generator=torch.Generator().manual_seed(7), output_type="latent").frames
    fast = decode_whole(pipe.model, latents)
    with torch.no_grad():
        vae = pipe.model.decode(latents)
    rows = [_row(clips[:, :, min(_FRAME, clips.shape[2] - 1)]) for clips in (vae, fast)]
    picture = Image.fromarray(torch.cat(rows).numpy())
    return picture.resize((picture.width * _ENLARGED, picture.height * _ENLARGED), Image.Resampling.NEAREST)


def _row(frames: Tensor) -> Tensor:
    return torch.cat(list(frames_from_pixels(frames).permute(0, 2, 3, 1)), dim=1)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--student", default="pocket-wan-swd")
    parser.add_argument("--decoder", type=Path)
    arguments = parser.parse_args()
    with whole_file(arguments.out) as draft:
        draw(arguments.student, arguments.decoder).save(draft, format="PNG")


if __name__ == "__main__":
    main()
