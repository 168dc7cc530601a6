"""Attention in windows is attention under a mask, without the work: same numbers, same gradients, in every family."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.attention_dispatch import attention_backend
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from swd_video.core.grid import LatentSize
from swd_video.core.local_attention import LocalAttention
from swd_video.core.schedule import ScaleSchedule, Stage
from swd_video.cost.architecture import load_architecture
from swd_video.cost.counting import FlopCounter, count_graph, count_kept
from swd_video.cost.networks import Transformer
from swd_video.models.base import VideoModel
from swd_video.models.loading import VideoSpec, write_video_spec
from swd_video.models.lora import active_lora
from swd_video.models.recomputation import recompute_blocks
from swd_video.objectives.networks import Networks
from swd_video.objectives.passes import Pass
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.pipeline import ScaleWisePipeline

LOCAL = ["wan", "wan-ti2v", "wan-a14b", "ltx", "ltx-condition"]
GRIDS = {"wan": LatentSize(5, 8, 10), "ltx": LatentSize(5, 4, 5)}
# Nothing is divided evenly; three blocks: plain, shifted, global.
WINDOWS = {"wan": LocalAttention(2, 4, 6, global_every=3), "ltx": LocalAttention(2, 2, 3, global_every=3)}


class Masked(TorchFunctionMode):
    """All tokens of a clip attend to all, but for a mask in each block: what windows are to equal."""

    def __init__(self, grid: tuple[int, ...], window: tuple[int, ...]) -> None:
        super().__init__()
        places = torch.stack(torch.meshgrid(*map(torch.arange, grid), indexing="ij"), dim=-1).flatten(0, 2)
        size = torch.tensor(window)
        plain, shifted = places // size, (places + size - size // 2) // size
        together = [(of[:, None] == of[None]).all(dim=-1) for of in (plain, shifted)]
        self.masks = [*together, torch.ones_like(together[0])]
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is scaled_dot_product_attention:
            query, key = kwargs["query"], kwargs["key"]  # as diffusers names them
            if query.shape[-2] == key.shape[-2] == len(self.masks[0]):
                kwargs["attn_mask"] = self.masks[self.calls % len(self.masks)]
                self.calls += 1
        return func(*args, **kwargs)


def _build(
    name: str, tiny_pipe: Callable[[str], Any], tiny_family: Callable[[str], Any]
) -> tuple[VideoModel, LatentSize, LocalAttention]:
    entry = tiny_family(name)
    kind = name.partition("-")[0]
    return entry.adapter.from_pipeline(tiny_pipe(name), **entry.extras), GRIDS[kind], WINDOWS[kind]


def _inputs(model: VideoModel, grid: LatentSize, batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    latents = torch.randn(batch, model.spec.latent_channels, *grid.as_tuple(), generator=generator)
    embeds = torch.randn(batch, model.spec.text_length, model.spec.text_dim, generator=generator)
    return latents.requires_grad_(), embeds


@pytest.fixture(params=LOCAL)
def built(
    request: pytest.FixtureRequest, tiny_pipe: Callable[[str], Any], tiny_family: Callable[[str], Any]
) -> tuple[VideoModel, LatentSize, LocalAttention]:
    return _build(request.param, tiny_pipe, tiny_family)


def test_numbers_and_gradients_are_those_of_a_mask(
    built: tuple[VideoModel, LatentSize, LocalAttention],
) -> None:
    model, grid, attention = built
    latents, embeds = _inputs(model, grid)
    weights = [weight for weight in model.transformer.parameters() if weight.requires_grad]

    def of(velocity: Tensor) -> list[Tensor]:
        wanted = [latents, *weights]
        grads = torch.autograd.grad(velocity.square().mean(), wanted, allow_unused=True)
        return [velocity, *(grad for grad in grads if grad is not None)]

    windowed = of(model.predict_velocity(latents, 0.5, embeds, attention=attention))
    patch = model.spec.compression.patch
    along, window = (
        tuple(have // step for have, step in zip(size.as_tuple(), patch, strict=True))
        for size in (grid, attention.window)
    )
    with Masked(along, window) as masked:
        expected = of(model.predict_velocity(latents, 0.5, embeds))
    assert masked.calls == 3
    assert len(windowed) == len(expected) > 20
    for got, wanted in zip(windowed, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    everywhere = model.predict_velocity(latents, 0.5, embeds)
    assert (windowed[0] - everywhere).abs().max() > 1e-3


def test_a_window_as_large_as_the_clip_changes_nothing(
    built: tuple[VideoModel, LatentSize, LocalAttention],
) -> None:
    model, grid, _ = built
    latents, embeds = _inputs(model, grid)
    everywhere = model.predict_velocity(latents, 0.5, embeds)
    for size in (grid.as_tuple(), tuple(2 * have for have in grid.as_tuple())):
        windowed = model.predict_velocity(latents, 0.5, embeds, attention=LocalAttention(*size))
        assert torch.equal(windowed, everywhere)
    every_block = LocalAttention(1, *model.spec.compression.patch[1:], global_every=1)
    assert torch.equal(model.predict_velocity(latents, 0.5, embeds, attention=every_block), everywhere)


@torch.no_grad()
def test_no_token_hears_of_another_window_in_one_block(
    built: tuple[VideoModel, LatentSize, LocalAttention],
) -> None:
    model, grid, attention = built
    latents, embeds = _inputs(model, grid, batch=1)
    blocks = model.transformer_blocks(getattr(model.pipe, model.transformer_at(0.5)))
    tokens: list[Tensor] = []
    hook = blocks[0].register_forward_hook(lambda module, inputs, output: tokens.append(output))
    changed = latents.clone()
    frames, height, width = model.spec.compression.patch
    changed[..., -frames:, -height:, -width:] += 1  # the last token
    for clip in (latents, changed):
        model.predict_velocity(clip, 0.5, embeds, attention=attention)
    hook.remove()
    heard = ((tokens[0] - tokens[1]).abs().amax(dim=-1) > 0).reshape(5, 4, 5)
    # Windows of 2 x 2 x 3 tokens in 5 x 4 x 5: the last has 1 x 2 x 2.
    expected = torch.zeros(5, 4, 5, dtype=torch.bool)
    expected[4:, 2:, 3:] = True
    assert torch.equal(heard, expected)


def test_a_failed_pass_leaves_the_network_as_it_was(
    tiny_pipe: Callable[[str], Any], tiny_family: Callable[[str], Any]
) -> None:
    model, grid, attention = _build("wan", tiny_pipe, tiny_family)
    latents, embeds = _inputs(model, grid)
    everywhere = model.predict_velocity(latents, 0.5, embeds)
    with pytest.raises(RuntimeError):
        model.predict_velocity(latents, 0.5, embeds[..., :3], attention=attention)
    assert torch.equal(model.predict_velocity(latents, 0.5, embeds), everywhere)


@pytest.mark.parametrize("name", ["wan", "ltx"])
def test_blocks_are_computed_again_in_their_windows(
    name: str, tiny_pipe: Callable[[str], Any], tiny_family: Callable[[str], Any]
) -> None:
    """With low-rank additions, under autocast, after another pass without windows."""
    model, grid, attention = _build(name, tiny_pipe, tiny_family)
    roles = Networks.with_lora(model, 2, model.lora_targets)
    latents, embeds = _inputs(model, grid)

    def gradients() -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            predicted = roles.predict_x0(latents, Stage(0.5, grid, attention), embeds)
            tokens = roles.features("teacher", predicted, torch.tensor([0.3, 0.3]), embeds, (1,))[1]
        wanted = [latents, *roles.trainable_parameters().values()]
        return list(torch.autograd.grad(tokens.float().square().mean(), wanted, allow_unused=False))

    expected = gradients()
    recompute_blocks(roles.student)
    got = gradients()
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert any(grad.abs().max() > 0 for grad in got[1:])


def test_the_backend_that_was_chosen_attends(
    tiny_pipe: Callable[[str], Any], tiny_family: Callable[[str], Any]
) -> None:
    model, grid, attention = _build("wan", tiny_pipe, tiny_family)
    latents, embeds = _inputs(model, grid)
    expected = model.predict_velocity(latents, 0.5, embeds, attention=attention)
    with attention_backend("native"):  # which undoes what the call changes for all other models
        model.transformer.set_attention_backend("_native_math")
    with FlopCounter() as counter:
        got = model.predict_velocity(latents, 0.5, embeds, attention=attention)
    assert torch.ops.aten._scaled_dot_product_flash_attention_for_cpu not in counter.flops
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_only_the_student_has_windows(
    tiny_pipe: Callable[[str], Any], tiny_family: Callable[[str], Any]
) -> None:
    model, grid, attention = _build("wan", tiny_pipe, tiny_family)
    latents, embeds = _inputs(model, grid)
    roles = Networks.with_lora(model, 2, model.lora_targets)
    before = roles.features("teacher", latents, torch.tensor([0.3, 0.3]), embeds, (1,))[1]
    everywhere = roles.predict_velocity(latents, Stage(0.5, grid), embeds)
    local = roles.predict_velocity(latents, Stage(0.5, grid, attention), embeds)
    assert not torch.allclose(local, everywhere)
    assert torch.equal(roles.features("teacher", latents, torch.tensor([0.3, 0.3]), embeds, (1,))[1], before)
    with active_lora(model.transformer, None):
        assert torch.equal(model.predict_velocity(latents, 0.5, embeds, attention=attention), local)


@pytest.mark.parametrize("name", ["hunyuan", "cogvideox", "cogvideox-1.5"])
def test_families_that_attend_to_text_and_video_in_one_refuse(
    name: str, tiny_pipe: Callable[[str], Any], tiny_family: Callable[[str], Any]
) -> None:
    entry = tiny_family(name)
    model = entry.adapter.from_pipeline(tiny_pipe(name), **entry.extras)
    stages = Stage(1.0, entry.grid), Stage(0.5, entry.grid, LocalAttention(*entry.grid.as_tuple()))
    scheduler = ScaleWiseFlowMatchScheduler.from_schedule(ScaleSchedule(stages))
    message = rf"schedule\[1\]\.attention: got windows for a {model.family} model, whose tokens attend"
    with pytest.raises(ValueError, match=message):
        ScaleWisePipeline(model, scheduler)


@pytest.mark.parametrize("name", ["wan", "ltx"])
def test_windows_are_counted_as_they_run(
    name: str, save_tiny: Callable[[str], Any], tiny_pipe: Callable[[str], Any], tiny_family: Any
) -> None:
    model, grid, _ = _build(name, tiny_pipe, tiny_family)
    # Of three blocks one has windows, one none and one those that lie half a window further.
    stage = Stage(0.5, grid, LocalAttention(2, grid.height, grid.width, global_every=2))
    folder = save_tiny(name)
    write_video_spec(folder, VideoSpec(text_length=model.spec.text_length))
    roles, counted = Networks.with_copy(model), Transformer(load_architecture(folder))
    latents, embeds = _inputs(model, grid, batch=1)
    noisy = latents.detach()

    def call() -> Tensor:
        return roles.predict_x0(noisy, stage, embeds)

    one = Pass("student", grid, gradient="weights", attention=stage.attention)
    planned = counted.flops(one)
    assert planned == count_graph(call)
    everywhere = count_graph(lambda: roles.predict_x0(noisy, Stage(0.5, grid), embeds))
    assert planned.attention < everywhere.attention and planned.backward < everywhere.backward
    assert counted.kept(one, bf16=False).at(1) == pytest.approx(count_kept(call, roles.student), rel=0.02)
