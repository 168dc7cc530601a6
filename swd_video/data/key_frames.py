"""Which packets of H.264 decoding may start at.

Containers and FFmpeg flag recovery points as key frames. Where an encoder refreshes the picture part by part (x264's
`intra-refresh`), such a point is an ordinary picture, and what decodes from there is grey in places for a second.
"""

import re
from collections.abc import Iterator
from typing import Any

_SLICES = {1, 2, 5}
_IDR_SLICE = 5
# I and SI; from 5 on the same again, where all slices of the picture are so. Source: ISO/IEC 14496-10, Table 7-6.
_INTRA_SLICE_TYPES = {2, 4, 7, 9}
_HEAD_BYTES = 12


def is_key_frame(packet: Any) -> bool:
    """Whether decoding may start at a packet of PyAV: it is flagged so and, of H.264, holds a whole picture."""
    context = packet.stream.codec_context
    if not packet.is_keyframe or context.codec.canonical_name != "h264":
        return bool(packet.is_keyframe)
    return _is_whole_picture(bytes(packet), context.extradata or b"")


def _is_whole_picture(packet: bytes, extradata: bytes) -> bool:
    """Whether every slice of a picture, be it in MP4's form or with start codes, does without other pictures."""
    slices = [unit for unit in _units(packet, extradata) if unit and unit[0] & 0x1F in _SLICES]
    for number, unit in enumerate(slices):
        if unit[0] & 0x1F == _IDR_SLICE:
            return True
        first_block, slice_type = _exp_golomb(unit[1:_HEAD_BYTES], 2)
        if number and first_block == 0:
            return True  # the second field, which may lean on the first
        if slice_type not in _INTRA_SLICE_TYPES:
            return False
    return bool(slices)


def _units(packet: bytes, extradata: bytes) -> Iterator[bytes]:
    if extradata[:1] != b"\x01" or len(extradata) < 5:
        yield from re.split(b"\x00\x00\x01", packet)[1:]
        return
    length_bytes = (extradata[4] & 3) + 1
    offset = 0
    while offset + length_bytes < len(packet):
        start = offset + length_bytes
        offset = start + int.from_bytes(packet[offset:start], "big")
        yield packet[start:offset]


def _exp_golomb(data: bytes, count: int) -> list[int]:
    """The first numbers of a slice's header: its first macroblock, its type."""
    bits = bin(int.from_bytes(b"\x01" + data, "big"))[3:]
    values = []
    for _ in range(count):
        zeros = len(bits) - len(bits.lstrip("0"))
        values.append(int(bits[zeros : 2 * zeros + 1] or "0", 2) - 1)
        bits = bits[2 * zeros + 1 :]
    return values
