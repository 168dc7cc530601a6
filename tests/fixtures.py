"""Fixtures that several test folders share: a tiny, random, but real Wan pipeline, and configs for distilling it."""

import json
import os
import wave
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    Dinov2Config,
    Dinov2Model,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
    VideoMAEConfig,
    VideoMAEModel,
)

from swd_video.core.decoder import DecoderLayout, StreamingDecoder
from swd_video.core.grid import Compression, LatentSize
from swd_video.core.local_attention import LocalAttention
from swd_video.core.schedule import ScaleSchedule, Stage
from swd_video.data.video import write_video
from swd_video.environment import keep_freed_memory
from swd_video.models.transnetv2 import TransNetTrunk
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.student import Student
from swd_video.training.config import DistillConfig, load_config

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
keep_freed_memory()

TINY_TEXT_LENGTH = 48


def build_tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer without merges, so that every prompt has tokens of its own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate(["<pad>", "</s>", "<unk>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=TINY_TEXT_LENGTH,
    )


def build_tiny_transformer(in_channels: int = 4) -> WanTransformer3DModel:
    """Three blocks, two heads of sixteen channels.

    All widths fill the vectors of any processor: what is left over of a row may be rounded otherwise, so that a clip
    would hang on its place in the batch.
    """
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=in_channels,
        out_channels=in_channels,
        text_dim=16,
        freq_dim=64,
        ffn_dim=64,
        num_layers=3,
        rope_max_seq_len=64,
    )


def build_tiny_vae() -> AutoencoderKLWan:
    """8 x in space, 4 x in time, four latent channels with statistics that are not 0 and 1."""
    return AutoencoderKLWan(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[0.5, 1.5, 1.0, 2.0],
    )


def build_tiny_text_encoder(vocab_size: int) -> UMT5EncoderModel:
    """Two layers of 16 channels."""
    config = UMT5Config(
        vocab_size=vocab_size,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=16,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    return UMT5EncoderModel(config)


def build_tiny_decoder(channels: int = 4, vae: str = "", seed: int = 0) -> StreamingDecoder:
    """What the tiny VAE's latents can be shown through in its place, with random weights."""
    layout = DecoderLayout.for_compression(Compression(), channels, (16, 8), (1, 1), (2, 4))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return StreamingDecoder(layout, vae)


def build_tiny_wan_pipe() -> WanPipeline:
    """A real WanPipeline with random weights, the same at every call; global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = build_tiny_tokenizer()
        pipe = WanPipeline(
            tokenizer=tokenizer,
            text_encoder=build_tiny_text_encoder(len(tokenizer)).eval(),
            vae=build_tiny_vae().eval(),
            scheduler=FlowMatchEulerDiscreteScheduler(),
            transformer=build_tiny_transformer().eval(),
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def tiny_decoder() -> Callable[..., StreamingDecoder]:
    """Make a decoder; see `build_tiny_decoder`."""
    return build_tiny_decoder


@pytest.fixture
def tiny_wan_pipe() -> WanPipeline:
    """A fresh pipeline for every test: change it freely."""
    return build_tiny_wan_pipe()


@pytest.fixture(scope="session")
def tiny_wan_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pipeline saved once in diffusers' folder format; do not write into it."""
    folder = tmp_path_factory.mktemp("models") / "tiny-wan"
    build_tiny_wan_pipe().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_schedule() -> ScaleSchedule:
    """Three stages that grow first in time and then in space, to clips of 9x48x64 pixels."""
    return ScaleSchedule(
        (
            Stage(1.0, LatentSize(2, 4, 4)),
            Stage(0.8, LatentSize(3, 4, 4)),
            Stage(0.5, LatentSize(3, 6, 8)),
        )
    )


@pytest.fixture(scope="session")
def local_schedule(tiny_schedule: ScaleSchedule) -> ScaleSchedule:
    """The same, with windows of two sizes in the stages after the first."""
    first, second, last = tiny_schedule
    windows = LocalAttention(2, 2, 4, shift=False), LocalAttention(2, 4, 4, global_every=3)
    local = [replace(stage, attention=size) for stage, size in zip((second, last), windows, strict=True)]
    return ScaleSchedule((first, *local))


@pytest.fixture(scope="session")
def make_student(tiny_wan_folder: Path) -> Callable[[Path, ScaleSchedule], Path]:
    """Writes a whole-transformer student whose clips differ from the teacher's into a folder."""

    def make(folder: Path, schedule: ScaleSchedule) -> Path:
        transformer = WanPipeline.from_pretrained(tiny_wan_folder).transformer
        with torch.no_grad():
            transformer.proj_out.bias.add_(0.1)
        made = Student(str(tiny_wan_folder), ScaleWiseFlowMatchScheduler.from_schedule(schedule))
        made.save(folder, transformer)
        return folder

    return make


@pytest.fixture
def make_tone(tmp_path: Path) -> Callable[[float], Path]:
    """`write_tone` of so many seconds, as `tone.wav`."""
    return lambda seconds: write_tone(tmp_path / "tone.wav", seconds)


def write_tone(path: Path, seconds: float) -> Path:
    """Write a sound file: 440 Hz at a third of full loudness, one channel of 44.1 kHz."""
    times = np.arange(round(44_100 * seconds)) / 44_100
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 44_100, 0, "NONE", "NONE"))
        file.writeframes((np.sin(times * 440 * 2 * np.pi) * 11_000).astype("<i2").tobytes())
    return path


_COLOURS = {"red": (220, 40, 30), "green": (30, 200, 60), "blue": (40, 60, 230)}

MakeConfig = Callable[..., DistillConfig]


def _moving_square(colour: tuple[int, int, int], step: int) -> np.ndarray:
    frames = np.full((12, 48, 64, 3), 200, dtype=np.uint8)
    for number, frame in enumerate(frames):
        left = 4 + step * number
        frame[16:32, left : left + 16] = colour
    return frames


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips of 12 frames at 16 a second: three colours, of which the captions tell, at two speeds."""
    folder = tmp_path_factory.mktemp("clips")
    lines = []
    for name, colour in _COLOURS.items():
        for speed, step in (("slowly", 1), ("fast", 3)):
            path = f"{name}-{speed}.mp4"
            write_video(folder / path, _moving_square(colour, step), 16.0)
            lines.append(json.dumps({"path": path, "caption": f"a {name} square moves right"}))
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the clips are encoded, by the first run of the session."""
    return tmp_path_factory.mktemp("cache") / "tiny"


@pytest.fixture
def make_config(
    tiny_wan_folder: Path, tiny_schedule: ScaleSchedule, manifest: Path, cache: Path, tmp_path: Path
) -> MakeConfig:
    """Write a YAML config, with changes to its `train` section and parts of `loss`, and load it."""

    def make(
        kind: str = "full",
        *,
        mmd: list[dict[str, Any]] | None = None,
        parts: dict[str, Any] | None = None,
        schedule: ScaleSchedule = tiny_schedule,
        **train: Any,
    ) -> DistillConfig:
        values = {
            "model": str(tiny_wan_folder),
            "seed": 5,
            "data": {"manifest": str(manifest), "cache": str(cache)},
            "schedule": schedule.as_dict(),
            "loss": {**({} if mmd is None else {"mmd": mmd}), **(parts or {})},
            "train": {"kind": kind, "steps": 4, "batch_size": 2, "checkpoint_every": 2, "lr": 1e-3, **train},
        }
        if kind == "lora":
            values["train"].setdefault("rank", 4)
        path = tmp_path / "config-in.yaml"
        path.write_text(yaml.safe_dump(values))
        return load_config(path)

    return make


@pytest.fixture(scope="session")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random VideoMAE, and a random trunk of TransNetV2; do not write into their folder."""
    root = tmp_path_factory.mktemp("encoders")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = VideoMAEConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            image_size=16, patch_size=4, num_frames=4, tubelet_size=2,
        )  # fmt: skip
        VideoMAEModel(config).save_pretrained(root / "videomae")
        save_file(TransNetTrunk().state_dict(), root / "trunk.safetensors")
    return root


@pytest.fixture(scope="session")
def small_encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """To evaluate through where it does not matter what: the packaged one takes longer than all else."""
    folder = tmp_path_factory.mktemp("encoder")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = Dinov2Config(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
        )
        Dinov2Model(config).save_pretrained(folder)
    return dict.fromkeys(("encoder", "frame_encoder"), str(folder))
