"""Which adapter belongs to which pipeline: the one place that lists the families, each imported when asked for."""

from typing import Any

import diffusers

from swd_video.extensions import find, offered
from swd_video.models.base import VideoModel

ADAPTERS = {
    "WanPipeline": "swd_video.models.wan:WanModel",
    "LTXPipeline": "swd_video.models.ltx:LtxModel",
    "LTXImageToVideoPipeline": "swd_video.models.ltx:LtxModel",
    "LTXConditionPipeline": "swd_video.models.ltx:LtxModel",
    "HunyuanVideoPipeline": "swd_video.models.hunyuan:HunyuanVideoModel",
    "CogVideoXPipeline": "swd_video.models.cogvideox:CogVideoXModel",
}
"""By what the `model_index.json` of a folder calls its pipeline. Those of other packages are in the group "adapters" of
`extensions`, by the same name."""


def adapter_for(pipeline_name: str, adapter: str | None = None) -> type[VideoModel]:
    """The adapter of a pipeline.

    Args:
        pipeline_name: the `_class_name` of a `model_index.json`, or a pipeline's class name.
        adapter: one from outside of the package to take instead, see `LoadOptions`.

    Raises:
        ValueError: if no adapter covers it, or what is named is none.
    """
    found = find("adapters", adapter or ADAPTERS.get(pipeline_name, pipeline_name))
    if isinstance(found, type) and issubclass(found, VideoModel):
        return found
    if adapter is not None or found is not None:
        raise ValueError(
            f"adapter: {adapter or found} is no VideoModel; give the module:Class of one derived from it."
        )
    raise ValueError(
        f"got a {pipeline_name}, expected one of {', '.join([*ADAPTERS, *offered('adapters')])}."
    )


def pipeline_class_for(pipeline_name: str, adapter: type[VideoModel]) -> Any:
    """Diffusers' class of a pipeline: its own where diffusers has one of that name, else the family's."""
    return getattr(diffusers, pipeline_name, adapter.pipeline_class)
