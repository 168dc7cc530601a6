"""How the clips of a step are divided among stages, processes and forward passes."""

from dataclasses import dataclass


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
    num_stages: int = 1
    num_processes: int = 1
    micro_batch_size: int = 1

    def samples(self, part: int, process: int) -> list[range]:
        """The clips of a part that fall to a process, pass by pass; numbers within the step's whole batch."""
        part_size = self.batch_size // self.num_stages
        share = part_size // self.num_processes
        start = part * part_size + process * share
        return [
            range(first, first + self.micro_batch_size)
            for first in range(start, start + share, self.micro_batch_size)
        ]


def divide_batch(
    batch_size: int, num_stages: int, num_processes: int, micro_batch_size: int | None, group_size: int
) -> BatchDivision:
    """Divide a batch evenly, or say why that cannot be.

    Args:
        batch_size: clips in a step.
        num_stages: stages drawn for a step.
        num_processes: how many processes there are.
        micro_batch_size: the most clips that a process takes at once; None for all of its own.
        group_size: clips of a prompt, which stay together.

    Raises:
        ValueError: naming the key and what would divide.
    """
    pieces = num_stages * num_processes * group_size
    if batch_size % pieces:
        raise ValueError(
            f"train.batch_size: {batch_size} clips cannot be divided evenly among {num_processes} process(es) x "
            f"{num_stages} (train.stages_per_step) x groups of {group_size} (loss.mmd.group); make it a multiple of "
            f"{pieces}, or start another number of processes."
        )
    share = batch_size // (num_stages * num_processes)
    micro = share if micro_batch_size is None else min(micro_batch_size, share)
    fitting = [size for size in range(group_size, share + 1, group_size) if share % size == 0]
    if micro not in fitting:
        raise ValueError(
            f"train.micro_batch_size: {micro} does not divide the {share} clips that a process has of a stage into "
            f"equal passes of whole groups of {group_size} (loss.mmd.group); take one of "
            f"{', '.join(map(str, fitting))}."
        )
    return BatchDivision(batch_size, num_stages, num_processes, micro)
