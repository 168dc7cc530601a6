"""Counts on shapes alone equal counts of the real thing: real weights, real tensors, the trainer's own calls."""

from functools import partial

import pytest
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from swd_video.core.grid import LatentSize
from swd_video.cost.architecture import Architecture
from swd_video.cost.counting import count_flops, count_graph, count_kept
from swd_video.cost.sampling_cost import (
    TransformerCounter,
    count_decoding,
    count_encoding,
    count_text,
)
from swd_video.cost.step_cost import KeptBytes, LossShape, SharedCounters, StepCounter
from swd_video.cost.training_cost import LoraShape, PerClip
from swd_video.cost.training_memory import TrainingSetup, TrainingSizes, memory_parts
from swd_video.models.recomputation import recompute_blocks
from swd_video.models.wan import WanModel
from swd_video.objectives.networks import Networks
from swd_video.training.optimizers import AdamWConfig, MuonConfig, build_optimizers

GRID = LatentSize(3, 6, 8)
BATCH = 3
NOTHING = PerClip(0, 0)
# torch's own counter knows no attention kernel of CPUs.
attention_in_parts = partial(sdpa_kernel, SDPBackend.MATH)
LORA = LoraShape(4, ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"))


def inputs(model: WanModel, grid: LatentSize, batch: int = 1) -> tuple[Tensor, Tensor]:
    spec = model.spec
    latents = torch.randn(batch, spec.latent_channels, *grid.as_tuple())
    return latents, torch.randn(batch, spec.text_length, spec.text_dim)


def roles_of(model: WanModel, kind: str) -> Networks:
    return Networks.with_copy(model) if kind == "full" else Networks.with_lora(model, LORA.rank, LORA.targets)


def counter_of(architecture: Architecture, kind: str, block: int = 0) -> StepCounter:
    lora = LORA if kind == "lora" else None
    return StepCounter(SharedCounters(architecture, LossShape((block,))), lora)


def real_flops(model: WanModel, grid: LatentSize) -> int:
    latents, prompt_embeds = inputs(model, grid)
    return count_flops(lambda: model.predict_velocity(latents, 0.5, prompt_embeds))


def test_operations_are_those_of_torchs_own_counter(real_model: WanModel) -> None:
    latents, prompt_embeds = inputs(real_model, GRID, 2)
    roles = Networks.with_copy(real_model)
    with FlopCounterMode(display=False) as forward, attention_in_parts():
        predicted = roles.predict_x0(latents, 0.5, prompt_embeds)
    with FlopCounterMode(display=False) as backward:
        predicted.sum().backward()
    with attention_in_parts():
        counted = count_graph(lambda: roles.predict_x0(latents, 0.5, prompt_embeds))
    assert counted.forward == forward.get_total_flops() > 0
    assert counted.backward == backward.get_total_flops() > 0
    with FlopCounterMode(display=False) as decoding, attention_in_parts():
        real_model.decode(latents)
    with attention_in_parts():
        assert count_flops(lambda: real_model.decode(latents)) == decoding.get_total_flops() > 0


@pytest.mark.parametrize("grid", [LatentSize(1, 2, 2), GRID], ids=str)
def test_an_evaluation_of_the_tiny_model_costs_what_it_really_costs(
    grid: LatentSize, real_model: WanModel, tiny_architecture: Architecture
) -> None:
    counted = TransformerCounter(tiny_architecture).evaluation(grid)
    assert counted.forward == real_flops(real_model, grid)
    assert 0 < counted.attention < counted.forward


def test_an_evaluation_of_the_pocket_model_costs_what_it_really_costs(
    pocket_model: WanModel, pocket_architecture: Architecture
) -> None:
    grid = LatentSize(3, 8, 8)
    counted = TransformerCounter(pocket_architecture).evaluation(grid)
    assert counted.forward == real_flops(pocket_model, grid)


def test_attention_counts_two_operations_for_every_product_of_queries_keys_and_values(
    tiny_architecture: Architecture,
) -> None:
    spec = tiny_architecture.spec
    tokens = spec.compression.tokens(GRID)
    keys = tokens + spec.text_length  # the clip's own, and the prompt's
    counted = TransformerCounter(tiny_architecture).evaluation(GRID)
    assert counted.attention == spec.num_blocks * 2 * 2 * tokens * keys * spec.hidden_size


def test_the_vae_costs_what_it_really_costs(real_model: WanModel, tiny_architecture: Architecture) -> None:
    grid = LatentSize(6, 4, 6)
    latents, _ = inputs(real_model, grid)
    pixels = torch.zeros(1, 3, *real_model.spec.compression.pixel_size(grid).as_tuple())
    assert count_decoding(tiny_architecture, grid) == count_flops(lambda: real_model.decode(latents))
    assert count_encoding(tiny_architecture, grid) == count_flops(lambda: real_model.encode_video(pixels))


def test_the_text_encoder_costs_what_it_really_costs(
    real_model: WanModel, tiny_architecture: Architecture
) -> None:
    assert count_text(tiny_architecture) == count_flops(lambda: real_model.encode_prompt(["a red square"]))


@pytest.mark.parametrize(
    ("kind", "bf16"), [("full", False), ("lora", True)], ids=["full-float32", "lora-bf16"]
)
def test_training_costs_what_the_trainer_really_spends(
    kind: str, bf16: bool, real_model: WanModel, tiny_architecture: Architecture
) -> None:
    block, roles = 1, roles_of(real_model, kind)
    latents, prompt_embeds = inputs(real_model, GRID, BATCH)
    sigma = torch.full((BATCH,), 0.3)
    predicted_x0 = latents.clone().requires_grad_()

    def predict() -> Tensor:
        return roles.predict_x0(latents, 0.8, prompt_embeds)

    def tokens() -> Tensor:
        return roles.features("teacher", predicted_x0, sigma, prompt_embeds, (block,))[block]

    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        student, teacher = count_graph(predict), count_graph(tokens)
        student_kept = count_kept(predict, roles.student)
        teacher_kept = count_kept(tokens, real_model.transformer)

    counter = counter_of(tiny_architecture, kind, block)
    stage, kept = counter.stage(GRID), counter.kept(GRID, bf16=bf16)
    # On the true clips the teacher runs once more, without gradients.
    expected = {
        "student_forward": student.forward,
        "student_backward": student.backward,
        "teacher_forward": 2 * teacher.forward,
        "teacher_backward": teacher.backward,
    }
    assert {name: BATCH * flops for name, flops in stage.parts.items() if flops} == expected
    assert kept.student.at(BATCH) == pytest.approx(student_kept, rel=0.01)
    assert kept.teacher.at(BATCH) == pytest.approx(teacher_kept, rel=0.01)


def test_the_pocket_students_activations_are_those_of_a_real_pass(
    pocket_model: WanModel, pocket_architecture: Architecture
) -> None:
    grid, batch = LatentSize(3, 8, 8), 2
    roles = Networks.with_copy(pocket_model)
    latents, prompt_embeds = inputs(pocket_model, grid, batch)
    real = count_kept(lambda: roles.predict_x0(latents, 0.78, prompt_embeds), roles.student)
    kept = counter_of(pocket_architecture, "full").kept(grid, bf16=False)
    assert kept.student.at(batch) == pytest.approx(real, rel=0.01)


def test_checkpointing_keeps_the_tokens_between_blocks_and_one_block(tiny_architecture: Architecture) -> None:
    spec = tiny_architecture.spec
    kept = counter_of(tiny_architecture, "full", block=1).kept(GRID, bf16=False)
    tokens_bytes = 4 * spec.compression.tokens(GRID) * spec.hidden_size
    assert kept.teacher_checkpointed.at(BATCH) == BATCH * 2 * tokens_bytes
    assert kept.student_checkpointed.at(BATCH) < kept.student.at(BATCH)


def test_checkpointing_computes_nearly_the_whole_forward_pass_again(
    pocket_model: WanModel, pocket_architecture: Architecture
) -> None:
    grid, block = LatentSize(3, 8, 8), pocket_model.spec.num_blocks - 1
    roles = Networks.with_copy(pocket_model)
    latents, prompt_embeds = inputs(pocket_model, grid)
    predicted_x0, sigma = latents.clone().requires_grad_(), torch.tensor([0.3])
    recompute_blocks(roles.student)
    recompute_blocks(pocket_model.transformer)
    try:
        student = count_graph(lambda: roles.predict_x0(latents, 0.8, prompt_embeds))
        teacher = count_graph(
            lambda: roles.features("teacher", predicted_x0, sigma, prompt_embeds, (block,))[block]
        )
    finally:
        pocket_model.transformer.disable_gradient_checkpointing()  # others use it, too
    stage = counter_of(pocket_architecture, "full", block).stage(grid)
    without = stage.parts["student_backward"] + stage.parts["teacher_backward"]
    again = student.backward + teacher.backward - without
    assert 0.9 * stage.recomputed_flops < again <= stage.recomputed_flops


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("muon", [False, True], ids=["adamw", "muon"])
def test_weights_that_train_take_what_optimizer_and_average_really_hold(
    kind: str, muon: bool, real_model: WanModel, tiny_architecture: Architecture
) -> None:
    parameters = roles_of(real_model, kind).trainable_parameters()
    for weight in parameters.values():
        weight.grad = torch.ones_like(weight)
    optimizers = build_optimizers(parameters, MuonConfig() if muon else AdamWConfig(), 1e-4)
    for optimizer in optimizers:
        optimizer.step()
    held = sum(
        tensor.numel() * tensor.element_size()
        for optimizer in optimizers
        for state in optimizer.state.values()
        for tensor in state.values()
        if isinstance(tensor, Tensor) and tensor.ndim  # not the count of steps
    )
    average = EMAModel(list(parameters.values()), foreach=True)

    counter = counter_of(tiny_architecture, kind)
    sizes = TrainingSizes(
        num_parameters=size_of(tiny_architecture.parts["transformer"]),
        trainable=counter.trainable,
        kept=KeptBytes(NOTHING, NOTHING, NOTHING, NOTHING),
    )
    parts = memory_parts(TrainingSetup(kind, 1, 1, False, muon), sizes)  # type: ignore[arg-type]
    assert parts["optimizer"] == held
    assert parts["gradients"] == 4 * sum(weight.numel() for weight in parameters.values())
    assert parts["ema"] == 4 * sum(shadow.numel() for shadow in average.shadow_params)
    copies = 1 if kind == "lora" else 2
    assert parts["weights"] == 4 * copies * size_of(real_model.transformer)


def size_of(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())
