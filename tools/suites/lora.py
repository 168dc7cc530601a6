"""diffusers' tests of loading LoRA into Wan, with an exported student; run by tools/diffusers_suites.py."""

from typing import Any

import torch
from diffusers import WanPipeline
from tests.lora import test_lora_layers_wan as upstream  # of the checkout, not ours

from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from tools.suites import tiny


class StockPipelineTest(upstream.WanLoRATests):
    """On diffusers' own pipeline with our scheduler; an exported file is loaded where fresh additions would be made."""

    pipeline_class = WanPipeline
    scheduler_cls = ScaleWiseFlowMatchScheduler
    scheduler_kwargs = {"stages": tiny.SCHEDULE.as_dict()}  # noqa: RUF012 - as the tests have it
    transformer_kwargs = tiny.TRANSFORMER
    vae_kwargs = tiny.VAE
    text_encoder_id = tokenizer_id = str(tiny.text_folder())

    def add_adapters_to_pipeline(
        self,
        pipe: Any,
        text_lora_config: Any = None,
        denoiser_lora_config: Any = None,
        adapter_name: str = "default",
    ) -> tuple[Any, Any]:
        """Load the export."""
        if denoiser_lora_config is None:
            return pipe, None
        pipe.load_lora_weights(tiny.exported_lora(), adapter_name=adapter_name)
        return pipe, pipe.transformer

    def get_dummy_inputs(self, with_generator: bool = True) -> tuple[Any, Any, dict[str, Any]]:
        """Noise of the first stage, as a stock pipeline has to be given it."""
        noise, input_ids, inputs = super().get_dummy_inputs(with_generator)
        shape = (1, tiny.CHANNELS, *tiny.SCHEDULE[0].grid.as_tuple())
        latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        return noise, input_ids, {**inputs, "num_inference_steps": len(tiny.SCHEDULE), "latents": latents}
