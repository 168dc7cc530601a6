"""What a draft costs: the operations that really run for it."""

from dataclasses import replace

import pytest

from swd_video.core.grid import LatentSize
from swd_video.core.local_attention import LocalAttention
from swd_video.core.schedule import ScaleSchedule
from swd_video.cost.counting import count_flops
from swd_video.cost.drafting import DraftCost
from swd_video.models.loading import resolve_model_path
from swd_video.student.student import load_student


def test_a_draft_is_the_operations_that_run_for_it() -> None:
    pipe = load_student("pocket-wan-swd")
    pipe.set_progress_bar_config(disable=True)
    cost, schedule = DraftCost(pipe, resolve_model_path("pocket-wan")), pipe.scheduler.schedule
    assert cost.of_draft(schedule, 1) == pytest.approx(count_flops(lambda: pipe("a tiger", stop=1)), rel=0.01)
    stages = [cost.of_stages(schedule, count) for count in (1, 2, 3)]
    really = count_flops(lambda: pipe("a tiger", output_type="latent"))
    assert stages[2] == pytest.approx(really, rel=0.01) and stages[0] < stages[1] < stages[2]
    window = LocalAttention(5, 4, 4)
    local = ScaleSchedule((*schedule.stages[:2], replace(schedule[2], attention=window)))
    assert schedule.target == LatentSize(5, 12, 12) and cost.of_stages(local, 3) < stages[2]
