"""By how much a model's noise schedule is shifted: what its noise levels mean."""

import math
from typing import Any

import torch

from swd_video.core.flow import fit_shift
from swd_video.models.cogvideox import noise_angles


def noise_shift(scheduler: Any, tokens: int) -> float | None:
    """The shift of a teacher's scheduler for clips of a size; None for a schedule of no known form.

    Some pipelines (LTX-Video's) shift by the number of tokens.
    """
    config = getattr(scheduler, "config", {})
    if config.get("prediction_type") == "v_prediction":
        angles = torch.from_numpy(noise_angles(scheduler))
        return fit_shift(angles.sin() / (angles.sin() + angles.cos()))
    if config.get("use_dynamic_shifting"):
        fewest, most = config["base_image_seq_len"], config["max_image_seq_len"]
        slope = (config["max_shift"] - config["base_shift"]) / (most - fewest)
        moved = config["base_shift"] + (tokens - fewest) * slope
        return math.exp(moved) if config.get("time_shift_type", "exponential") == "exponential" else moved
    shift = config.get("flow_shift", config.get("shift"))
    return None if shift is None else float(shift)
