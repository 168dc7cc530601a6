"""How a batch is divided: every clip once, whatever the processes and passes."""

import pytest

from swd_video.training.batch import divide_batch
from swd_video.training.config import FullTrainConfig


@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("micro", [None, 2, 100])
def test_every_clip_falls_to_one_process_once(stages: int, processes: int, micro: int | None) -> None:
    train = FullTrainConfig(batch_size=24, stages_per_step=stages, micro_batch_size=micro)
    division = divide_batch(train, 2, processes)
    for part in range(stages):
        passes = [some for process in range(processes) for some in division.samples(part, process)]
        clips = [clip for some in passes for clip in some]
        assert clips == list(range(part * 24 // stages, (part + 1) * 24 // stages))
        assert {len(some) for some in passes} == {2 if micro == 2 else 24 // stages // processes}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((24, 2, 5, None, 1), "train.batch_size: 24 .* among 5 process.* multiple of 10,"),
        ((24, 1, 3, None, 3), "train.batch_size: 24 .* groups of 3 .* multiple of 9,"),
        ((24, 1, 2, 5, 1), "micro_batch_size: 5 does not divide the 12 .* one of 1, 2, 3, 4, 6, 12"),
        ((24, 1, 2, 3, 2), "micro_batch_size: 3 does not divide the 12 .* one of 2, 4, 6, 12"),
    ],
)
def test_what_does_not_divide_is_refused_in_a_line(
    arguments: tuple[int, int, int, int | None, int], message: str
) -> None:
    batch_size, stages, processes, micro, group = arguments
    train = FullTrainConfig(batch_size=batch_size, stages_per_step=stages, micro_batch_size=micro)
    with pytest.raises(ValueError, match=message) as error:
        divide_batch(train, group, processes)
    assert "\n" not in str(error.value)
