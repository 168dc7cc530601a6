"""From what files hold to RGB as it is shown: what a file says about its colours is honoured, or refused by name."""

import io
import os
from typing import NamedTuple

import av
import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from swd_video.data.containers import VideoError

UNREADABLE = (OSError, ValueError, EOFError, SyntaxError, RuntimeError, Image.DecompressionBombError)
"""What Pillow raises for pictures that it cannot read."""

# By the numbers of ISO/IEC 23091-2, which FFmpeg shares.
_BT709_MATRIX = 1
_BT601_MATRIX = 6
_UNTAGGED = 2
_MATRICES = {0, 1, 2, 4, 5, 6, 7, 9}
_UNREAD_TRANSFERS = {
    8: "linear light",
    9: "a logarithm",
    10: "a logarithm",
    16: "PQ",
    17: "SMPTE 428",
    18: "HLG",
}
_HDR_TRANSFERS = {16, 18}
_UNREAD_PRIMARIES = {10: "XYZ", 11: "DCI-P3"}
_TONE_MAP = (
    "Tone-map it first: ffmpeg -i IN -vf zscale=t=linear:npl=100,tonemap=hable,"
    "zscale=p=bt709:t=bt709:m=bt709:r=tv,format=yuv420p OUT"
)
_CONVERT = "Convert it to BT.709 first."
# Linear RGB of BT.2020 and of Display P3 in that of BT.709, by their primaries and D65.
# Source: ITU-R BT.2087; SMPTE EG 432-1.
_WIDE_GAMUTS = {
    9: np.array([[1.66049, -0.58764, -0.07285], [-0.12455, 1.1329, -0.00835], [-0.01815, -0.10058, 1.11873]]),
    12: np.array([[1.22494, -0.22494, 0.0], [-0.04206, 1.04206, 0.0], [-0.01964, -0.07864, 1.09828]]),
}
_DISPLAY_GAMMA = 2.4
# From this size on, files that do not say take BT.709: that is what players do.
_HD_HEIGHT, _HD_WIDTH = 720, 1280

_PROFILE_MODES = {"RGB ": "RGB", "CMYK": "CMYK", "GRAY": "L"}


class Colours(NamedTuple):
    """What is said about colours, in numbers of ISO/IEC 23091-2; 2 where nothing is.

    Attributes:
        transfer: from light to what is stored.
        primaries: which red, green and blue.
        matrix: from these to brightness and colour differences.
    """

    transfer: int = _UNTAGGED
    primaries: int = _UNTAGGED
    matrix: int = _UNTAGGED


UNSTATED = Colours()
"""Of a file that says nothing of its colours."""


def state_colours(frame: av.VideoFrame, colours: Colours) -> None:
    """Let a decoded frame say what it leaves open: decoders forget what only the container says."""
    if frame.color_trc == _UNTAGGED:
        frame.color_trc = colours.transfer
    if frame.color_primaries == _UNTAGGED:
        frame.color_primaries = colours.primaries
    if frame.colorspace == _UNTAGGED and not frame.format.is_rgb:
        frame.colorspace = colours.matrix


def refuse_colours(
    path: str | os.PathLike[str], transfer: int, primaries: int, matrix: int = _UNTAGGED
) -> None:
    """Go on only with colours that become RGB in BT.709 as they should.

    All are numbers of ISO/IEC 23091-2.

    Raises:
        VideoError: if the file is HDR, or has other colours that are not understood here.
    """
    name = _UNREAD_TRANSFERS.get(transfer)
    if name is not None and transfer in _HDR_TRANSFERS:
        raise VideoError(path, f"is HDR (transfer {name}), expected SDR. {_TONE_MAP}")
    if name is not None:
        raise VideoError(path, f"is stored as {name}, expected the transfer of BT.709 or sRGB. {_CONVERT}")
    if primaries in _UNREAD_PRIMARIES:
        raise VideoError(path, f"has the primaries of {_UNREAD_PRIMARIES[primaries]}. {_CONVERT}")
    if matrix not in _MATRICES:
        raise VideoError(path, f"has colour matrix {matrix} of ISO/IEC 23091-2. {_CONVERT}")


def colour_matrix(path: str | os.PathLike[str], frame: av.VideoFrame) -> int:
    """The colour matrix of a file's pictures: the one that it states, or the one that its size implies.

    Raises:
        VideoError: if the file has colours that are not understood here.
    """
    refuse_colours(path, frame.color_trc, frame.color_primaries, frame.colorspace)
    if any(kind in frame.format.name for kind in ("f16", "f32")):
        raise VideoError(
            path,
            f"holds floating-point numbers ({frame.format.name}), and nothing says which is white. {_CONVERT}",
        )
    if frame.colorspace != _UNTAGGED:
        return int(frame.colorspace)
    return _BT709_MATRIX if is_untagged_hd(frame) else _BT601_MATRIX


def is_untagged_hd(frame: av.VideoFrame) -> bool:
    """Whether a frame does not state its colour matrix, and is so large that it is taken for BT.709's."""
    is_large = frame.height >= _HD_HEIGHT or frame.width >= _HD_WIDTH
    return frame.colorspace == _UNTAGGED and not frame.format.is_rgb and is_large


def frame_to_rgb(frame: av.VideoFrame) -> UInt8[np.ndarray, "height width 3"]:
    """A decoded frame that says its colours (`state_colours`), as stored, in BT.709's primaries, over white."""
    if has_alpha(frame):
        picture = over_white(np.asarray(frame.to_ndarray(format="rgba"), dtype=np.uint8))
    else:
        picture = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    gamut = _WIDE_GAMUTS.get(frame.color_primaries)
    if gamut is None:
        return picture
    light = (np.arange(256, dtype=np.float32) / 255) ** _DISPLAY_GAMMA
    mixed = (light[picture] @ gamut.T.astype(np.float32)).clip(0, 1)
    return np.rint(255 * mixed ** (1 / _DISPLAY_GAMMA)).astype(np.uint8)


def has_alpha(frame: av.VideoFrame) -> bool:
    """Whether a frame may be transparent; palettes may."""
    return frame.format.has_palette or any(component.is_alpha for component in frame.format.components)


def has_wide_gamut(frame: av.VideoFrame) -> bool:
    """Whether a frame's primaries are other than those of BT.709."""
    return frame.color_primaries in _WIDE_GAMUTS


def picture_to_rgb(image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    """A picture that Pillow has opened: turned as its EXIF data says, in sRGB, transparent parts over white.

    Raises:
        ValueError: if it holds numbers of which nothing says what is white, or its colour profile is broken.
        OSError: if it cannot be decoded.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F"):
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise ValueError(f"holds {kind} numbers, and nothing says which is white. Save it with 8 or 16 bits.")
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image).astype(np.uint32) * 255 + 32767) // 65535
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)
    rgba = image.convert("RGBA")
    profile = image.info.get("icc_profile")
    if profile:
        rgba.paste(_to_srgb(image, profile))
        rgba.putalpha(image.convert("RGBA").getchannel("A"))
    return over_white(np.asarray(rgba, dtype=np.uint8))


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _PROFILE_MODES.get(source.profile.xcolor_space, "")
        if not mode or (image.mode == "CMYK") != (mode == "CMYK"):
            return image.convert("RGB")  # a profile for another kind of picture says nothing about this one
        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image.convert(mode), source, srgb, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        raise ValueError(f"has a broken colour profile ({error}). Save it as sRGB.") from error
    assert converted is not None
    return converted


def over_white(picture: UInt8[np.ndarray, "*batch 4"]) -> UInt8[np.ndarray, "*batch 3"]:
    """RGBA with straight alpha laid over white, rounded to the nearest level."""
    colour = picture[..., :3].astype(np.uint32)
    alpha = picture[..., 3:].astype(np.uint32)
    blended: NDArray[np.uint8] = ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return blended
