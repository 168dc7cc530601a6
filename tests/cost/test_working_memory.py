"""What is held at once: exact for a few tensors, and halved by half precision."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from swd_video.core.decoder import StreamingDecoder
from swd_video.core.grid import LatentSize
from swd_video.core.schedule import ScaleSchedule, Stage
from swd_video.cost import working_memory
from swd_video.cost.architecture import load_architecture
from swd_video.cost.working_memory import peak_bytes, working_bytes


def test_only_what_is_still_there_counts() -> None:
    def run() -> None:
        first = torch.empty(1000)
        second = first + 1
        del first
        third = second.view(10, 100) * 2  # a view holds nothing of its own
        del second
        third + third[0]

    assert peak_bytes(run) == 2 * 1000 * 4


def test_a_clip_needs_more_on_a_larger_grid_and_half_in_half_precision() -> None:
    architecture = load_architecture("pocket-wan")

    def needed(bytes_per_value: int, *grid: int) -> int:
        return working_bytes(architecture, ScaleSchedule((Stage(1.0, LatentSize(*grid)),)), bytes_per_value)

    small = needed(4, 3, 8, 8)
    assert needed(2, 3, 8, 8) * 2 == small
    assert 3 * small < needed(4, 3, 16, 16) < 5 * small, "four times the pixels"
    assert needed(4, 9, 8, 8) < 3 * small, "a clip is decoded part by part"


def test_what_is_known_is_not_counted_again_but_a_decoder_is_no_vae(
    tiny_wan_folder: Path, tiny_decoder: Callable[..., StreamingDecoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule, counts = ScaleSchedule((Stage(1.0, LatentSize(2, 6, 10)),)), list[int]()
    monkeypatch.setattr(
        working_memory, "peak_bytes", lambda run: counts.append(peak_bytes(run)) or counts[-1]
    )
    first, again, shown_otherwise = (load_architecture(tiny_wan_folder) for _ in range(3))
    shown_otherwise.model.decoder = tiny_decoder()
    assert working_bytes(first, schedule, 4) == max(counts) == working_bytes(again, schedule, 4)
    stage, vae = counts
    assert working_bytes(shown_otherwise, schedule, 4) == max(stage, counts[2]) and counts[2] < vae
