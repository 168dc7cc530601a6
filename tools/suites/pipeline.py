"""diffusers' tests of any pipeline, on its own Wan pipeline with our scheduler; run by tools/diffusers_suites.py."""

from typing import Any

import diffusers.pipelines
import pytest
import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from tests.pipelines.testing_utils import (  # of the checkout, not ours
    BasePipelineTesterConfig,
    LayerwiseCastingTesterMixin,
    PipelineTesterMixin,
)

from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from tools.suites import tiny


class TestScaleWisePipeline(BasePipelineTesterConfig, PipelineTesterMixin, LayerwiseCastingTesterMixin):
    """A clip of two stages. Guidance, negative prompts and a number of steps are not among the inputs."""

    pipeline_class = WanPipeline
    required_input_params_in_call_signature = frozenset(["prompt", "height", "width", "prompt_embeds"])
    batch_input_params = frozenset(["prompt"])
    optional_input_params = frozenset(
        ["num_videos_per_prompt", "generator", "latents", "output_type", "return_dict"]
    )
    output_shape = (tiny.OUTPUT[0], 3, *tiny.OUTPUT[1:])

    def get_dummy_components(self) -> dict[str, Any]:
        """The tiny world."""
        tokenizer = tiny.build_tokenizer()
        torch.manual_seed(0)
        return {
            "transformer": WanTransformer3DModel(**tiny.TRANSFORMER),
            "vae": AutoencoderKLWan(**tiny.VAE),
            "scheduler": ScaleWiseFlowMatchScheduler.from_schedule(tiny.SCHEDULE),
            "text_encoder": tiny.build_text_encoder(len(tokenizer)),
            "tokenizer": tokenizer,
            "transformer_2": None,
        }

    def get_dummy_inputs(self) -> dict[str, Any]:
        """One clip of the schedule's size."""
        frames, height, width = tiny.OUTPUT
        return {
            "prompt": "dance monkey",
            "generator": self.get_generator(0),
            "frames": frames,
            "height": height,
            "width": width,
            "max_sequence_length": tiny.TEXT_LENGTH,
            "output_type": "pt",
        }

    def test_inference_batch_single_identical(self) -> None:
        """Without a number of steps to copy into the batch."""
        super().test_inference_batch_single_identical(additional_params_copy_to_batched_inputs=[])

    @pytest.fixture(autouse=True)
    def _findable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # A test that reads the source of `encode_prompt` looks its pipeline up there, by name.
        monkeypatch.setattr(
            diffusers.pipelines, self.pipeline_class.__name__, self.pipeline_class, raising=False
        )
