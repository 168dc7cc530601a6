"""How the clips of a step are divided among stages, processes and forward passes."""

from dataclasses import dataclass

from swd_video.training.config import TrainConfig


@dataclass(frozen=True)
class BatchDivision:
    """The batch of a step in equal pieces: for each stage drawn, for each process, for each forward pass.

    Attributes:
        batch_size: clips in a step, of all processes together.
        num_stages: stages drawn for a step; each trains on an equal part of the batch, all processes on the same stage
            at the same time, so that none waits for another.
        num_processes: processes that share every part.
        micro_batch_size: clips that a process takes at once.
    """

    batch_size: int
    num_stages: int
    num_processes: int
    micro_batch_size: int

    def samples(self, part: int, process: int) -> list[range]:
        """The clips of a part that fall to a process, pass by pass; numbers within the step's whole batch."""
        part_size = self.batch_size // self.num_stages
        share = part_size // self.num_processes
        start = part * part_size + process * share
        return [
            range(first, first + self.micro_batch_size)
            for first in range(start, start + share, self.micro_batch_size)
        ]


@dataclass(frozen=True)
class MicroBatch:
    """Clips that this process takes at once.

    Attributes:
        step: number of the step, from 0.
        part: of the step's batch, from 0.
        stage_index: the stage that this part trains.
        samples: numbers of the clips within the step's batch.
        update: of the networks that learn beside the student; 0 is what the student itself learns from, too.
    """

    step: int
    part: int
    stage_index: int
    samples: range
    update: int

    @property
    def key(self) -> tuple[int | str, ...]:
        """Tells its draws from those of other micro-batches with the same clips' numbers."""
        return (self.step, *(("update", self.update) if self.update else ()))


def divide_batch(train: TrainConfig, group_size: int, num_processes: int) -> BatchDivision:
    """Divide a batch evenly, or say why that cannot be.

    Raises:
        ValueError: naming the key and what would divide.
    """
    pieces = train.stages_per_step * num_processes * group_size
    if train.batch_size % pieces:
        raise ValueError(
            f"train.batch_size: {train.batch_size} clips cannot be divided evenly among {num_processes} process(es) x "
            f"{train.stages_per_step} (train.stages_per_step) x groups of {group_size} (loss.group); make it a "
            f"multiple of {pieces}, or start another number of processes."
        )
    share = train.batch_size // (train.stages_per_step * num_processes)
    micro = min(train.micro_batch_size or share, share)
    fitting = [size for size in range(group_size, share + 1, group_size) if share % size == 0]
    if micro not in fitting:
        raise ValueError(
            f"train.micro_batch_size: {micro} does not divide the {share} clips that a process has of a stage into "
            f"equal passes of whole groups of {group_size} (loss.group); take one of {', '.join(map(str, fitting))}."
        )
    return BatchDivision(train.batch_size, train.stages_per_step, num_processes, micro)
