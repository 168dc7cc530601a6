"""A tiny Wan world, and an exported student of it, for the suites. No hub is asked for anything."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from swd_video.core.grid import LatentSize
from swd_video.core.schedule import ScaleSchedule, Stage
from swd_video.models.lora import add_lora, lora_state_dict
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.export import export_student
from swd_video.student.student import Student

TEXT_LENGTH = 16
CHANNELS = 16
SCHEDULE = ScaleSchedule((Stage(1.0, LatentSize(2, 2, 2)), Stage(0.6, LatentSize(3, 4, 4))))
OUTPUT = (9, 32, 32)
"""Frames, height and width of a clip of `SCHEDULE`."""

TRANSFORMER: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "text_dim": 32,
    "freq_dim": 32,
    "ffn_dim": 48,
    "num_layers": 2,
    "rope_max_seq_len": 32,
}
VAE: dict[str, Any] = {
    "base_dim": 4,
    "z_dim": CHANNELS,
    "dim_mult": [1, 1, 1, 1],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
}

_SCRATCH = tempfile.TemporaryDirectory(prefix="swd-suites-")  # gone when the process ends


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate(["<pad>", "</s>", "<unk>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=TEXT_LENGTH,
    )


def build_text_encoder(vocab_size: int) -> T5EncoderModel:
    """Two layers of as many channels as the transformer reads."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=vocab_size, d_model=TRANSFORMER["text_dim"], d_kv=8, d_ff=40, num_layers=2, num_heads=4
    )
    return T5EncoderModel(config).eval()


@cache
def text_folder() -> Path:
    """Where text encoder and tokenizer lie, as in a repository of transformers."""
    folder = Path(_SCRATCH.name) / "tiny-t5"
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    build_text_encoder(len(tokenizer)).save_pretrained(folder)
    return folder


@cache
def exported_lora() -> Path:
    """A LoRA student of the tiny world, as `swd-video export` leaves it."""
    scratch = Path(_SCRATCH.name)
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    teacher = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=build_text_encoder(len(tokenizer)),
        vae=AutoencoderKLWan(**VAE).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        transformer=WanTransformer3DModel(**TRANSFORMER).eval(),
    )
    teacher.save_pretrained(scratch / "teacher")
    add_lora(teacher.transformer, 4, ["to_q", "to_k", "to_v", "to_out.0"])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in teacher.transformer.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    made = Student(str(scratch / "teacher"), ScaleWiseFlowMatchScheduler.from_schedule(SCHEDULE))
    made.save(scratch / "student", lora_state_dict(teacher.transformer))
    return export_student(Student.load(scratch / "student"), scratch / "export").folder
