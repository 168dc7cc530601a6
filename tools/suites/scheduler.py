"""diffusers' tests of any scheduler, on ours; run by tools/diffusers_suites.py."""

import unittest
from typing import Any

import torch
from tests.schedulers import test_schedulers as upstream  # of the checkout, not ours

from swd_video.schedulers import ScaleWiseFlowMatchScheduler

_STAGES = 8


class ScaleWiseSchedulerTest(upstream.SchedulerCommonTest):
    """On clips of one frame and one grid: the tests compare shapes before and after a step."""

    scheduler_classes = (ScaleWiseFlowMatchScheduler,)
    forward_default_kwargs = (("num_inference_steps", _STAGES),)

    @property
    def default_num_inference_steps(self) -> int:
        """The number of stages is fixed."""
        return _STAGES

    @property
    def dummy_sample(self) -> torch.Tensor:
        """With an axis for frames, which the samples of the tests lack."""
        return super().dummy_sample.unsqueeze(2)

    def get_scheduler_config(self, **changes: Any) -> dict[str, Any]:
        """Stages on the grid of the samples."""
        _, _, frames, height, width = self.dummy_sample.shape
        stages = [
            {"sigma": 1 - index / _STAGES, "frames": frames, "height": height, "width": width}
            for index in range(_STAGES)
        ]
        return {"stages": stages, **changes}

    @unittest.skip("does not apply: flow matching has no betas")
    def test_trained_betas(self) -> None:
        """Not ours."""
