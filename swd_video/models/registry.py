"""Which adapter belongs to which pipeline: the one place that lists the families."""

from typing import Any

import diffusers

from swd_video.models.base import VideoModel
from swd_video.models.cogvideox import CogVideoXModel
from swd_video.models.hunyuan import HunyuanVideoModel
from swd_video.models.ltx import LtxModel
from swd_video.models.wan import WanModel

ADAPTERS: tuple[type[VideoModel], ...] = (WanModel, LtxModel, HunyuanVideoModel, CogVideoXModel)


def adapter_for(pipeline_name: str) -> type[VideoModel]:
    """The adapter of a pipeline.

    Args:
        pipeline_name: the `_class_name` of a `model_index.json`, or a pipeline's class name.

    Raises:
        ValueError: if no adapter covers it.
    """
    for adapter in ADAPTERS:
        if pipeline_name in adapter.pipeline_names:
            return adapter
    known = ", ".join(name for adapter in ADAPTERS for name in adapter.pipeline_names)
    raise ValueError(f"got a {pipeline_name}, expected one of {known}.")


def pipeline_class_for(pipeline_name: str) -> Any:
    """Diffusers' class of a pipeline: its own where diffusers has one of that name, else the family's.

    Args:
        pipeline_name: the `_class_name` of a `model_index.json`.

    Raises:
        ValueError: if no adapter covers it.
    """
    return getattr(diffusers, pipeline_name, adapter_for(pipeline_name).pipeline_class)
