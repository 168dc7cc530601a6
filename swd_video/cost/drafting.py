"""What a draft costs beside the whole clip, in counted operations."""

import copy
from dataclasses import replace
from functools import partial

from torch import nn

from swd_video.core.grid import LatentSize
from swd_video.core.schedule import ScaleSchedule, Stage
from swd_video.cost.architecture import Architecture, load_architecture
from swd_video.cost.counting import Flops, KernelAttention, count_flops
from swd_video.cost.networks import Carried, Decoder, Network, Run, Transformer, count_text
from swd_video.objectives.passes import Pass
from swd_video.student.pipeline import ScaleWisePipeline


class DraftCost:
    """Counts a student's parts on shapes, each once.

    Raises:
        ValueError: The base model is not of a kind whose parts can be counted.
    """

    def __init__(self, pipe: ScaleWisePipeline, base: str | Architecture, adapter: str | None = None) -> None:
        self._architecture = base if isinstance(base, Architecture) else load_architecture(base, adapter)
        channels = self._architecture.spec.latent_channels

        def carried(network: nn.Module) -> Carried:
            return Carried(copy.deepcopy(network), channels)

        decoder = pipe.model.decoder
        self._between = {name: carried(network) for name, network in pipe.scheduler.networks.items()}
        self._decoder = Decoder(self._architecture) if decoder is None else carried(decoder)
        self._transformer = Transformer(self._architecture)
        self.text: int = count_text(self._architecture)

    def of_stages(self, schedule: ScaleSchedule, until: int) -> int:
        """Operations of the first stages of a clip, its text and what is carried from grid to grid included."""
        total = self.text
        for index in range(until):
            stage, before = schedule[index], schedule[max(index - 1, 0)].grid
            total += self._count_stage(stage)
            if before != stage.grid:
                for name, network in self._between.items():
                    total += network.flops(Pass(name, before, to=stage.grid)).forward
        return total

    def of_draft(self, schedule: ScaleSchedule, stages: int) -> int:
        """The same, and showing what the last of them gave."""
        shown = count_showing(self._decoder, self._architecture, schedule[stages - 1].grid)
        return self.of_stages(schedule, stages) + shown

    def of_clip(self, schedule: ScaleSchedule) -> int:
        """Operations of the whole clip."""
        return self.of_draft(schedule, len(schedule))

    def _count_stage(self, stage: Stage) -> int:
        def count(network: nn.Module, run: Run) -> Flops:
            # Without the gradients that a training counts as well.
            return Flops(count_flops(partial(run, network, 1)))

        one = Pass("student", stage.grid, attention=stage.attention)
        counted: dict[Pass, int] = self._architecture.counted.setdefault("stages", {})
        if one not in counted:
            with KernelAttention():
                counted[one] = self._transformer.put_together(one, count).forward
        return counted[one]


def count_showing(decoder: Network, architecture: Architecture, grid: LatentSize) -> int:
    """Operations from latents on a grid to pixels, through the VAE or what a student carries in its place."""
    if isinstance(decoder, Carried):
        # Copies of the first latent frame are dropped before.
        grid = replace(grid, frames=grid.frames - architecture.spec.compression.repeated_frames)
    return decoder.flops(Pass("vae_decoder", grid)).forward
