"""Gradient checkpointing: the same gradients from less that is kept."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from swd_video.core.grid import LatentSize
from swd_video.core.schedule import Stage
from swd_video.models.base import VideoModel
from swd_video.models.lora import active_lora
from swd_video.models.recomputation import recompute_blocks
from swd_video.objectives.networks import Networks


class LiveBytes(TorchDispatchMode):
    """Remembers every storage that is made, without keeping it."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            storage = made.untyped_storage()
            self._made[StorageWeakRef(storage)] = storage.nbytes()
        return made

    def alive(self) -> int:
        return sum(size for storage, size in self._made.items() if not storage.expired())


def roles_with_additions(model: VideoModel) -> Networks:
    model.transformer = getattr(model.pipe, model.transformer_at(0.3))
    roles = Networks.with_lora(model, 2, model.lora_targets)
    with torch.no_grad():
        for index, weight in enumerate(roles.trainable_parameters().values()):
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(index)) / 4)
    return roles


def gradients(roles: Networks, grid: LatentSize) -> tuple[list[Tensor], int]:
    """Of a loss through the student and then, with the additions off, through the teacher; and what was kept."""
    spec, generator = roles.model.spec, torch.Generator().manual_seed(5)
    latents = torch.randn(1, spec.latent_channels, *grid.as_tuple(), generator=generator)
    prompt_embeds = torch.randn(1, spec.text_length, spec.text_dim, generator=generator)
    with LiveBytes() as live:
        predicted_x0 = roles.predict_x0(latents, Stage(0.3, grid), prompt_embeds)
        tokens = roles.features("teacher", predicted_x0, torch.tensor([0.3]), prompt_embeds, (1,))[1]
        kept = live.alive()
    # The backward pass comes when the additions are on again.
    parameters = list(roles.trainable_parameters().values())
    grads = torch.autograd.grad(tokens.square().mean(), parameters, allow_unused=True)
    return [grad for grad in grads if grad is not None], kept


def test_gradients_stay_and_less_is_kept(model: VideoModel, grid: LatentSize) -> None:
    roles = roles_with_additions(model)
    expected, all_kept = gradients(roles, grid)
    recompute_blocks(roles.student)
    got, kept = gradients(roles, grid)
    assert len(got) == len(expected) > 0
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert any(grad.abs().max() > 0 for grad in got)
    assert kept < 0.7 * all_kept


def test_the_teacher_is_no_student_in_the_backward_pass(
    tiny_pipe: Callable[[str], Any], tiny_family: Callable[[str], Any]
) -> None:
    roles = roles_with_additions(tiny_family("wan").adapter.from_pipeline(tiny_pipe("wan")))
    recompute_blocks(roles.student)
    latents, prompt_embeds = torch.randn(1, 4, 3, 4, 6, requires_grad=True), torch.randn(1, 48, 16)
    tokens = roles.features("teacher", latents, torch.tensor([0.5]), prompt_embeds, (1,))[1]
    (got,) = torch.autograd.grad(tokens.sum(), latents, retain_graph=True)
    assert torch.equal(torch.autograd.grad(tokens.sum(), latents)[0], got), (
        "a graph may be gone through twice"
    )
    with active_lora(roles.student, None):
        (inside,) = roles.model.features(latents, 0.5, prompt_embeds, (1,))
        (expected,) = torch.autograd.grad(inside.sum(), latents)
    assert torch.equal(got, expected)


def test_a_network_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear has no blocks to compute again"):
        recompute_blocks(torch.nn.Linear(2, 2))
