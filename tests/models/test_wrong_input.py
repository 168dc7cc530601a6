"""Wrong input gets one clear line: what it was, what was expected, what to do. And nothing pickled is opened."""

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, LTXVideoTransformer3DModel
from safetensors.torch import load_file, save_file

from swd_video.core.grid import PixelSize
from swd_video.models.loading import LoadOptions, load_pipeline, load_teacher, resolve_model_path
from swd_video.models.registry import adapter_for
from swd_video.models.teacher_sampling import sample_teacher


@dataclass(frozen=True)
class Bench:
    """What the cases work on.

    Attributes:
        folder: a copy of a tiny Wan pipeline, to be broken.
        tmp_path: room for files.
        tiny_pipe: builds the pipeline of a family.
        save_tiny: saves it as a folder.
    """

    folder: Path
    tmp_path: Path
    tiny_pipe: Callable[[str], Any]
    save_tiny: Callable[[str], Path]

    def adapter(self, family: str, **changes: Any) -> Any:
        pipe = self.tiny_pipe(family)
        pipe.register_modules(**changes)
        return adapter_for(type(pipe).__name__).from_pipeline(pipe)

    def edit_index(self, **changes: Any) -> None:
        path = self.folder / "model_index.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    def weights(self, part: str = "transformer") -> Path:
        return next((self.folder / part).glob("*.safetensors"))


@pytest.fixture
def bench(
    tiny_wan_folder: Path,
    tmp_path: Path,
    tiny_pipe: Callable[[str], Any],
    save_tiny: Callable[[str], Path],
) -> Bench:
    return Bench(Path(shutil.copytree(tiny_wan_folder, tmp_path / "own")), tmp_path, tiny_pipe, save_tiny)


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def set_trap(bench: Bench, path: Path) -> Path:
    path.write_bytes(pickle.dumps(Trap(bench.tmp_path / "opened")))
    return path


def odd_height(bench: Bench) -> None:
    bench.adapter("wan").encode_video(torch.zeros(1, 3, 9, 50, 64))


def frames_not_4k_plus_1(bench: Bench) -> None:
    bench.adapter("wan").encode_video(torch.zeros(1, 3, 10, 48, 64))


def ltx_frames_not_8k_plus_1(bench: Bench) -> None:
    bench.adapter("ltx").encode_video(torch.zeros(1, 3, 13, 64, 64))


def grid_of_half_patches(bench: Bench) -> None:
    bench.adapter("cogvideox-1.5").predict_velocity(torch.zeros(1, 4, 3, 4, 4), 1.0, torch.zeros(1, 20, 16))


def latents_of_another_vae(bench: Bench) -> None:
    bench.adapter("wan").predict_velocity(torch.zeros(1, 16, 3, 4, 4), 1.0, torch.zeros(1, 48, 16))


def no_such_block(bench: Bench) -> None:
    bench.adapter("wan").features(torch.zeros(1, 4, 3, 4, 4), 1.0, torch.zeros(1, 48, 16), [3])


def no_text_encoder_in_the_pipeline(bench: Bench) -> None:
    bench.adapter("wan", text_encoder=None)


def no_text_encoder_on_disk(bench: Bench) -> None:
    shutil.rmtree(bench.folder / "text_encoder")
    load_teacher(bench.folder)


def text_encoder_saved_as_none(bench: Bench) -> None:
    bench.edit_index(text_encoder=[None, None])
    load_teacher(bench.folder)


def image_to_video_transformer(bench: Bench) -> None:
    transformer = type(bench.tiny_pipe("wan").transformer)(
        in_channels=9,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=12,
        ffn_dim=8,
        text_dim=16,
        freq_dim=8,
    )
    bench.adapter("wan", transformer=transformer)


def cogvideox_that_predicts_noise(bench: Bench) -> None:
    bench.adapter("cogvideox", scheduler=CogVideoXDDIMScheduler(prediction_type="epsilon"))


def two_experts_without_a_boundary(bench: Bench) -> None:
    pipe = bench.tiny_pipe("wan-a14b")
    pipe.register_to_config(boundary_ratio=None)
    adapter_for("WanPipeline").from_pipeline(pipe)


def unknown_family(bench: Bench) -> None:
    bench.edit_index(_class_name="FluxPipeline")
    load_teacher(bench.folder)


def transformer_of_another_family(bench: Bench) -> None:
    shutil.rmtree(bench.folder / "transformer")
    bench.tiny_pipe("ltx").transformer.save_pretrained(bench.folder / "transformer")
    load_teacher(bench.folder)


def vae_of_another_family(bench: Bench) -> None:
    shutil.rmtree(bench.folder / "vae")
    bench.tiny_pipe("hunyuan").vae.save_pretrained(bench.folder / "vae")
    load_teacher(bench.folder)


def truncated_weights(bench: Bench) -> None:
    content = bench.weights("vae").read_bytes()
    bench.weights("vae").write_bytes(content[: len(content) // 2])
    load_teacher(bench.folder)


def weights_of_another_size(bench: Bench) -> None:
    config = bench.folder / "transformer" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "ffn_dim": 96}))
    load_teacher(bench.folder)


def edit_weights(path: Path, **changes: torch.Tensor | None) -> None:
    weights = {**load_file(path), **changes}
    save_file({name: weight for name, weight in weights.items() if weight is not None}, path)


def transformer_that_lacks_a_weight(bench: Bench) -> None:
    edit_weights(bench.weights(), **{"blocks.1.attn1.to_q.weight": None})
    load_teacher(bench.folder)


def vae_with_weights_too_many(bench: Bench) -> None:
    edit_weights(bench.weights("vae"), **{"lora.up": torch.ones(1)})
    load_teacher(bench.folder)


def text_encoder_that_lacks_a_weight(bench: Bench) -> None:
    edit_weights(bench.weights("text_encoder"), **{"encoder.final_layer_norm.weight": None})
    load_teacher(bench.folder)


def text_encoder_of_another_size(bench: Bench) -> None:
    edit_weights(bench.weights("text_encoder"), **{"encoder.final_layer_norm.weight": torch.ones(3)})
    load_teacher(bench.folder)


def pickled_weights(bench: Bench) -> None:
    bench.weights().unlink()
    set_trap(bench, bench.folder / "transformer" / "diffusion_pytorch_model.bin")
    load_teacher(bench.folder)


def pickle_named_safetensors(bench: Bench) -> None:
    set_trap(bench, bench.weights())
    load_teacher(bench.folder)


def no_weights(bench: Bench) -> None:
    bench.weights("text_encoder").unlink()
    load_teacher(bench.folder)


def no_model_index(bench: Bench) -> None:
    (bench.folder / "model_index.json").unlink()
    load_teacher(bench.folder)


def broken_model_index(bench: Bench) -> None:
    (bench.folder / "model_index.json").write_text("{")
    load_teacher(bench.folder)


def model_index_without_a_name(bench: Bench) -> None:
    bench.edit_index(_class_name=None)
    load_teacher(bench.folder)


def no_such_folder(bench: Bench) -> None:
    load_teacher(bench.tmp_path / "nothing")


def a_student(bench: Bench) -> None:
    (bench.folder / "student.json").write_text("{}")
    load_teacher(bench.folder)


def a_single_file_as_the_model(bench: Bench) -> None:
    resolve_model_path(bench.weights())


def with_file(bench: Bench, path: Path, folder: Path | None = None) -> None:
    load_pipeline(folder or bench.folder, options=LoadOptions(transformer_file=path))


def no_such_file(bench: Bench) -> None:
    with_file(bench, bench.tmp_path / "model.safetensors")


def pickled_file(bench: Bench) -> None:
    with_file(bench, set_trap(bench, bench.tmp_path / "model.ckpt"))


def pickled_file_named_safetensors(bench: Bench) -> None:
    with_file(bench, set_trap(bench, bench.tmp_path / "model.safetensors"))


def truncated_file(bench: Bench) -> None:
    path = bench.tmp_path / "model.safetensors"
    path.write_bytes(bench.weights().read_bytes()[:-1])
    with_file(bench, path)


def file_that_lacks_a_weight(bench: Bench) -> None:
    path = Path(shutil.copy(bench.weights(), bench.tmp_path / "model.safetensors"))
    edit_weights(path, **{"proj_out.bias": None})
    with_file(bench, path)


def file_of_scaled_weights(bench: Bench) -> None:
    path = Path(shutil.copy(bench.weights(), bench.tmp_path / "model.safetensors"))
    edit_weights(path, **{"blocks.0.attn1.to_q.scale_weight": torch.ones(1)})
    with_file(bench, path)


def file_of_another_size(bench: Bench) -> None:
    path = Path(shutil.copy(bench.weights(), bench.tmp_path / "model.safetensors"))
    edit_weights(path, **{"proj_out.bias": torch.ones(99)})
    with_file(bench, path)


def file_of_another_family(bench: Bench) -> None:
    path = bench.tmp_path / "model.safetensors"
    transformer = LTXVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        cross_attention_dim=24,
        num_layers=1,
        caption_channels=16,
    )
    save_file(transformer.state_dict(), path)
    with_file(bench, path)


def file_for_a_family_without_single_files(bench: Bench) -> None:
    path = shutil.copy(bench.weights(), bench.tmp_path / "model.safetensors")
    with_file(bench, Path(path), bench.save_tiny("cogvideox"))


def file_for_one_of_two_experts(bench: Bench) -> None:
    path = shutil.copy(bench.weights(), bench.tmp_path / "model.safetensors")
    with_file(bench, Path(path), bench.save_tiny("wan-a14b"))


def offload_without_an_accelerator(bench: Bench) -> None:
    load_teacher(bench.folder, options=LoadOptions(cpu_offload="model"))


def attention_that_does_not_run(bench: Bench) -> None:
    load_teacher(bench.folder, options=LoadOptions(attention="flash"))


def guidance_for_a_model_that_is_told_none(bench: Bench) -> None:
    load_teacher(bench.folder, options=LoadOptions(embedded_guidance=6))


def noise_for_a_decoder_that_takes_none(bench: Bench) -> None:
    load_teacher(bench.save_tiny("ltx"), options=LoadOptions(decode_timestep=0.05))


def guidance_for_a_second_transformer(bench: Bench) -> None:
    size = PixelSize(9, 48, 64)
    sample_teacher(bench.adapter("wan"), ["a cat"], size, steps=1, guidance_scale_2=3.0)


def broken_video_spec(bench: Bench) -> None:
    (bench.folder / "video_spec.json").write_text('{"fps": "fast"}')
    load_teacher(bench.folder)


CASES = {
    odd_height: "got height 50 .* expected multiples of 16 and 16. Nearest legal size: 9x48x64",
    frames_not_4k_plus_1: r"got 10 frames, expected 4k \+ 1.* Nearest legal size: 9x48x64",
    ltx_frames_not_8k_plus_1: r"got 13 frames, expected 8k \+ 1.* Nearest legal size: 9x64x64",
    grid_of_half_patches: "3x4x4 is not a whole number of 2x2x2 patches. Nearest legal latent size: 2x4x4",
    latents_of_another_vae: "got 16 channels, expected the 4 of this wan model",
    no_such_block: "got blocks .3., expected at least one index from 0 to 2",
    no_text_encoder_in_the_pipeline: "this WanPipeline has no text_encoder",
    no_text_encoder_on_disk: "text_encoder: is missing, model_index.json expects a UMT5EncoderModel there",
    text_encoder_saved_as_none: "model_index.json: lists no text_encoder, expected all of transformer, vae",
    image_to_video_transformer: "takes 9 channels and its VAE makes 4, expected as many",
    cogvideox_that_predicts_noise: "prediction_type 'epsilon', expected 'v_prediction'",
    two_experts_without_a_boundary: "two transformers but no boundary_ratio",
    unknown_family: "got a FluxPipeline, expected one of WanPipeline, .*LTXPipeline",
    transformer_of_another_family: "holds a LTXVideoTransformer3DModel, .* expects a WanTransformer3DModel",
    vae_of_another_family: "holds a AutoencoderKLHunyuanVideo, .* expects a AutoencoderKLWan",
    truncated_weights: "is no whole safetensors file .*; download or copy it again",
    weights_of_another_size: "cannot be loaded",
    transformer_that_lacks_a_weight: (
        r"own/transformer: lacks 1 weights of WanTransformer3DModel, the first is blocks\.1\.attn1\.to_q\.weight; give"
    ),
    vae_with_weights_too_many: "own/vae: 1 weights have no place in AutoencoderKLWan, the first is lora.up; give the",
    text_encoder_that_lacks_a_weight: "own/text_encoder: lacks 1 weights of UMT5EncoderModel, the first is encoder.fin",
    text_encoder_of_another_size: "own/text_encoder cannot be loaded",
    file_that_lacks_a_weight: "model.safetensors: lacks 1 weights of WanTransformer3DModel in .*, the first is proj",
    file_of_scaled_weights: "1 weights have no place in WanTransformer3DModel in .*, the first is .*scale_weight; give",
    file_of_another_size: r"proj_out.bias has shape \(99,\), in WanTransformer3DModel in .* it has \(",
    pickled_weights: "is a pickled checkpoint, which could run any code when opened and is not",
    pickle_named_safetensors: "is no whole safetensors file",
    no_weights: "holds no .safetensors file",
    no_model_index: "has no model_index.json",
    broken_model_index: "model_index.json: cannot be read",
    model_index_without_a_name: "got _class_name None, expected the name of a pipeline",
    no_such_folder: "does not exist; give a shipped model",
    a_student: "is a distilled student, expected a teacher",
    a_single_file_as_the_model: "is a single file of weights; .* give the file as transformer_file",
    no_such_file: "does not exist; give a file that ends in .safetensors",
    pickled_file: "is a pickled checkpoint, which could run any code when opened and is not",
    pickled_file_named_safetensors: "is no whole safetensors file",
    truncated_file: "is no whole safetensors file",
    file_of_another_family: "[0-9]+ weights have no place in WanTransformer3DModel in .*, the first is",
    file_for_a_family_without_single_files: "reads no single-file checkpoints of CogVideoXTransformer3DModel",
    file_for_one_of_two_experts: "replaces one transformer, but .* has two",
    offload_without_an_accelerator: "got 'model' for device cpu, expected an accelerator",
    attention_that_does_not_run: "'flash' does not run on cpu for this model",
    guidance_for_a_model_that_is_told_none: "embedded_guidance: got 6, but models of family wan take none",
    noise_for_a_decoder_that_takes_none: "decode_timestep: got 0.05, but this VAE decodes without noise",
    guidance_for_a_second_transformer: "guidance_scale_2: got 3, but this wan model has one transformer",
    broken_video_spec: "video_spec.json: fps: got 'fast', expected a number",
}


@pytest.mark.parametrize(("case", "message"), CASES.items(), ids=[case.__name__ for case in CASES])
def test_wrong_input_gets_one_clear_line(case: Callable[[Bench], None], message: str, bench: Bench) -> None:
    with pytest.raises(ValueError, match=message) as error:
        case(bench)
    assert "\n" not in str(error.value)
    assert len(str(error.value).replace(str(bench.tmp_path), "")) < 400
    assert not (bench.tmp_path / "opened").exists(), "a pickled file was opened"


def test_the_trap_works(bench: Bench) -> None:
    pickle.loads(set_trap(bench, bench.tmp_path / "trap").read_bytes())
    assert (bench.tmp_path / "opened").exists()
