import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import LTXConditionPipeline, LTXImageToVideoPipeline, WanPipeline
from safetensors.torch import save_file

import swd_video.models.loading as loading
from swd_video.core.grid import PixelSize
from swd_video.cost.architecture import load_architecture
from swd_video.models.checkpoints import errors_in_one_line
from swd_video.models.loading import (
    ARCHITECTURES,
    LoadOptions,
    VideoSpec,
    load_pipeline,
    load_teacher,
    model_folder,
    read_model_index,
    read_video_spec,
    resolve_model_path,
    shipped_models,
    write_video_spec,
)
from swd_video.models.ltx import LtxModel
from swd_video.student.student import is_student


@pytest.fixture
def own_folder(tiny_wan_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_wan_folder, tmp_path / "own"))


def test_a_teacher_is_a_plain_diffusers_pipeline(tiny_wan_folder: Path, tiny_wan_pipe: WanPipeline) -> None:
    pipe = load_pipeline(tiny_wan_folder)
    assert type(pipe) is WanPipeline
    for name, tensor in tiny_wan_pipe.transformer.state_dict().items():
        assert torch.equal(pipe.transformer.state_dict()[name], tensor)
    assert not any(getattr(pipe, name).training for name in ("transformer", "text_encoder", "vae"))


def test_precision_reaches_every_part(tiny_wan_folder: Path) -> None:
    pipe = load_pipeline(tiny_wan_folder, dtype=torch.bfloat16)
    assert {pipe.transformer.dtype, pipe.text_encoder.dtype, pipe.vae.dtype} == {torch.bfloat16}
    model = load_teacher(tiny_wan_folder, dtype=torch.bfloat16)
    embeds = model.encode_prompt(["a cat"])
    assert model.predict_velocity(torch.zeros(1, 4, 3, 4, 4), 1.0, embeds).dtype == torch.float32
    assert model.encode_video(torch.zeros(1, 3, 5, 32, 32)).dtype == torch.float32


def test_a_model_knows_what_its_folder_says(own_folder: Path) -> None:
    assert load_teacher(own_folder).spec.fps == 16
    write_video_spec(own_folder, VideoSpec(fps=12.0, training_size=PixelSize(9, 48, 64), text_length=20))
    spec = load_teacher(own_folder).spec
    assert (spec.fps, spec.training_size, spec.text_length) == (12, PixelSize(9, 48, 64), 20)
    assert type(WanPipeline.from_pretrained(own_folder)) is WanPipeline


def test_a_model_of_the_hub_knows_what_its_repository_says(
    own_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    cached, revision = tmp_path / "hub" / "models--someone--tiny-wan", "0123456789abcdef" * 2 + "01234567"
    write_video_spec(own_folder, VideoSpec(fps=12.0))
    shutil.copytree(own_folder, cached / "snapshots" / revision)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revision)
    assert read_video_spec("someone/tiny-wan") == VideoSpec(fps=12.0)


def test_the_size_of_published_models_is_known(own_folder: Path) -> None:
    assert read_video_spec(own_folder) == VideoSpec()
    name = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    assert read_video_spec(name) == VideoSpec(training_size=PixelSize(81, 480, 832))
    assert read_video_spec("nobody/nothing") == VideoSpec()
    # A copy of the model anywhere, saved by another version.
    config = json.loads(
        (ARCHITECTURES / "Wan-AI/Wan2.1-T2V-14B-Diffusers/transformer/config.json").read_text()
    )
    copy = own_folder / "transformer/config.json"
    copy.write_text(json.dumps({**config, "_diffusers_version": "0.99", "new_key": 1}))
    assert read_video_spec(own_folder) == VideoSpec(training_size=PixelSize(81, 720, 1280))
    copy.write_text(json.dumps({**config, "num_layers": 7}))
    assert read_video_spec(own_folder) == VideoSpec()
    write_video_spec(own_folder, VideoSpec(fps=12.0))
    copy.write_text(json.dumps(config))
    assert read_video_spec(own_folder) == VideoSpec(fps=12.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"fsp": 12}', "keys: got ['fsp'], expected only fps, training_size and text_length"),
        ('{"training_size": "9x48"}', "'9x48' is not a size"),
        ('{"fps": [12]}', "fps: got [12], expected a number of frames per second"),
        ('{"text_length": 7.5}', "text_length: got 7.5, expected a number of tokens"),
        ("[1]", "got list, expected an object"),
        ("{", "Expecting property name"),
    ],
)
def test_a_broken_spec_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "video_spec.json").write_text(text)
    with pytest.raises(ValueError) as error:
        read_video_spec(tmp_path)
    assert str(error.value).startswith(str(tmp_path / "video_spec.json"))
    assert message in str(error.value)


def test_names_of_shipped_models_resolve(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "ASSETS", own_folder.parent)
    assert shipped_models() == ["own"]
    assert resolve_model_path("own") == str(own_folder)


def test_folders_and_hub_names_resolve(tiny_wan_folder: Path) -> None:
    assert resolve_model_path(tiny_wan_folder) == str(tiny_wan_folder)
    assert resolve_model_path("Wan-AI/Wan2.1-T2V-1.3B-Diffusers") == "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"


@pytest.mark.parametrize(
    "name", ["pocket-wam", "./runs/studnet", "/no/such/folder", "~nobody-of-this-name/model", ""]
)
def test_what_is_no_model_is_refused_with_what_there_is(name: str) -> None:
    with pytest.raises(ValueError) as error:
        resolve_model_path(name)
    assert str(error.value).startswith(f"model {name!r}")
    assert "give a shipped model" in str(error.value)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run" / "student").mkdir(parents=True)
    (tmp_path / "run" / "student" / "student.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is the folder of a run; give .*run/student\.$"):
        resolve_model_path(tmp_path / "run")
    with pytest.raises(ValueError, match=r"has no model_index\.json"):
        load_pipeline(tmp_path)


def test_a_lora_is_no_model_and_says_what_to_do(tiny_wan_folder: Path, tmp_path: Path) -> None:
    lora = tmp_path / "run" / "teacher" / "pytorch_lora_weights.safetensors"
    lora.parent.mkdir(parents=True)
    save_file({"transformer.blocks.0.attn1.to_q.lora_A.weight": torch.ones(2, 4)}, lora)
    for name in (lora, lora.parent, lora.parent.parent):
        with pytest.raises(
            ValueError, match=r"teacher/pytorch_lora\S* is a LoRA, expected .* as transformer_file"
        ):
            resolve_model_path(name)
    with pytest.raises(ValueError, match="is a LoRA, expected a whole transformer; fuse it"):
        load_pipeline(tiny_wan_folder, options=LoadOptions(transformer_file=lora))


def test_a_broken_model_is_refused_in_one_line(own_folder: Path) -> None:
    shutil.rmtree(own_folder / "vae")
    with pytest.raises(ValueError, match=r"vae: is missing, model_index\.json expects a AutoencoderKLWan"):
        load_pipeline(own_folder)


# Wan's image-to-video transformers take the picture as further channels.
@pytest.mark.parametrize("name", ["FluxPipeline", "WanImageToVideoPipeline"])
def test_other_families_are_refused(name: str, own_folder: Path) -> None:
    index = own_folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": name}))
    with pytest.raises(ValueError, match=f"got a {name}, expected one of WanPipeline"):
        load_pipeline(own_folder)


@pytest.mark.parametrize("pipeline", [LTXImageToVideoPipeline, LTXConditionPipeline])
def test_folders_of_ltx_pipelines_with_the_same_parts_load(
    pipeline: Any, tiny_pipe: Callable[[str], Any], tmp_path: Path
) -> None:
    pipe = tiny_pipe("ltx")
    pipeline(**pipe.components).save_pretrained(tmp_path / "ltx")
    assert json.loads((tmp_path / "ltx/model_index.json").read_text())["_class_name"] == pipeline.__name__
    expected = LtxModel.from_pipeline(pipeline(**pipe.components))
    model = load_teacher(tmp_path / "ltx")
    assert isinstance(model, LtxModel) and type(model.pipe) is pipeline
    assert model.spec == load_architecture(tmp_path / "ltx").spec == expected.spec
    weights = expected.transformer.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in model.transformer.state_dict().items())


def test_a_student_is_no_teacher(tmp_path: Path) -> None:
    (tmp_path / "student.json").write_text("{}")
    with pytest.raises(ValueError, match="is a distilled student"):
        load_teacher(tmp_path)


@pytest.mark.parametrize("family", ["wan-ti2v", "wan-a14b", "ltx", "hunyuan", "cogvideox"])
def test_a_folder_of_any_family_finds_its_adapter(
    family: str,
    save_tiny: Callable[[str], Path],
    tiny_pipe: Callable[[str], Any],
    tiny_family: Callable[[str], Any],
) -> None:
    model, pipe = load_teacher(save_tiny(family)), tiny_pipe(family)
    assert type(model) is tiny_family(family).adapter
    assert type(model.pipe) is type(pipe)
    expected = type(model).from_pipeline(pipe)
    assert model.spec == expected.spec
    weights = expected.transformer.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in model.transformer.state_dict().items())


def _original_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names that Wan's own files give to the weights of a diffusers transformer."""
    for theirs, ours in (
        ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
        ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
        ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
        ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
        ("time_projection.1", "condition_embedder.time_proj"),
        ("head.head", "proj_out"),
        (".modulation", ".scale_shift_table"),
        (".norm3.", ".norm2."),
        ("self_attn", "attn1"),
        ("cross_attn", "attn2"),
        (".o.", ".to_out.0."),
        (".q.", ".to_q."),
        (".k.", ".to_k."),
        (".v.", ".to_v."),
        ("ffn.0", "ffn.net.0.proj"),
        ("ffn.2", "ffn.net.2"),
    ):
        state = {name.replace(ours, theirs): weight for name, weight in state.items()}
    return {name.replace("scale_shift_table", "head.modulation"): weight for name, weight in state.items()}


@pytest.mark.parametrize("rename", [dict, _original_names])
def test_a_single_file_replaces_the_transformer(
    rename: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    tiny_wan_folder: Path,
    tiny_wan_pipe: WanPipeline,
    tmp_path: Path,
) -> None:
    weights = {name: weight + 1 for name, weight in tiny_wan_pipe.transformer.state_dict().items()}
    path = tmp_path / "model.safetensors"
    save_file(rename(dict(weights)), path)
    pipe = load_pipeline(tiny_wan_folder, dtype=torch.bfloat16, options=LoadOptions(transformer_file=path))
    loaded = pipe.transformer.state_dict()
    assert loaded.keys() == weights.keys() and pipe.transformer.dtype == torch.bfloat16
    for name, weight in weights.items():
        torch.testing.assert_close(loaded[name].float(), weight, rtol=0.01, atol=0.01)


@torch.no_grad()
def test_memory_is_saved_as_asked(tiny_wan_folder: Path) -> None:
    options = LoadOptions(vae_tiling=True, vae_slicing=True, float8_weights=True, attention="native")
    plain, small = load_teacher(tiny_wan_folder), load_teacher(tiny_wan_folder, options=options)
    assert small.vae.use_tiling and small.vae.use_slicing
    assert not plain.vae.use_tiling and not plain.vae.use_slicing
    dtypes = {weight.dtype for weight in small.transformer.parameters()}
    assert torch.float8_e4m3fn in dtypes and torch.float32 in dtypes  # what is sensitive stays wide
    inputs = torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0)), 0.7
    expected = plain.predict_velocity(*inputs, plain.encode_prompt(["a cat"]))
    velocity = small.predict_velocity(*inputs, small.encode_prompt(["a cat"]))
    assert 0 < (velocity - expected).abs().max() < 0.3 * expected.abs().max()


@torch.no_grad()
def test_the_shipped_teacher_is_a_plain_diffusers_folder() -> None:
    pipe = WanPipeline.from_pretrained(loading.ASSETS / "pocket-wan")
    pipe.set_progress_bar_config(disable=True)
    clip = pipe(
        "a tiger moving left on a green meadow",
        num_frames=5,
        height=64,
        width=48,
        num_inference_steps=2,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).frames
    assert clip.shape == (1, 5, 3, 64, 48) and torch.isfinite(clip).all()
    assert clip.std() > 0.02  # a picture, not one colour


def test_what_is_shipped_stays_small() -> None:
    sizes = [path.stat().st_size for path in loading.ASSETS.rglob("*") if path.is_file()]
    assert len(sizes) > 10 and sum(sizes) < 40e6


@pytest.mark.parametrize("load", [load_teacher, is_student, read_model_index, model_folder])
def test_a_hub_name_that_nobody_knows_is_asked_for_once(
    load: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def unknown_host(*address: object, **_: object) -> None:
        attempts.append(address)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown_host)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(ValueError) as error:
        load("nobody/no-such-model")
    # The client looks for a list of its own as well, once a process. Downloads would try six times.
    assert 1 <= len(attempts) <= 2
    message = str(error.value)
    assert message.startswith(
        "model 'nobody/no-such-model': is no folder here, and the hub does not give it ("
    )
    assert "Name or service not known" in message and "check the name" in message and "\n" not in message


def test_errors_do_not_send_people_to_a_stacktrace() -> None:
    text = "The model is not cached. Please check out the root cause in the stacktrace above."
    expected = pytest.raises(ValueError, match=r"^model x cannot be loaded: The model is not cached\.$")
    with expected, errors_in_one_line("model x"):
        raise ValueError(text)


def test_a_model_is_told_the_guidance_that_options_ask_for(save_tiny: Callable[[str], Path]) -> None:
    folder = save_tiny("hunyuan")
    model = load_teacher(folder, options=LoadOptions(embedded_guidance=4))
    assert (model.spec.embedded_guidance, load_teacher(folder).spec.embedded_guidance) == (4, 6)
    told = [
        each._transformer_inputs(each.transformer, torch.zeros(1, 4, 1, 4, 4), 0.5, torch.zeros(1, 257, 16))
        for each in (model, load_teacher(folder))
    ]
    assert [inputs["guidance"].tolist() for inputs in told] == [[4000.0], [6000.0]]
