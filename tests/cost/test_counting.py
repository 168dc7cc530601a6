"""Counts on shapes alone equal counts of the real thing: real weights, real tensors, the trainer's own calls."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from swd_video.core.grid import LatentSize
from swd_video.core.randomness import SampleDraws
from swd_video.core.schedule import Stage
from swd_video.cost.architecture import Architecture, load_architecture
from swd_video.cost.counting import Flops, count_flops, count_graph, count_kept
from swd_video.cost.memory import Setup, memory_parts
from swd_video.cost.networks import Decoder, Heads, Kept, Transformer, count_encoding, count_text
from swd_video.cost.step import Sizes
from swd_video.models.recomputation import decode_clips, recompute_blocks
from swd_video.models.wan import WanModel
from swd_video.objectives.dmd import Critic, DmdConfig
from swd_video.objectives.gan import Discriminator, GanConfig
from swd_video.objectives.networks import Networks
from swd_video.objectives.objective import ClipPair
from swd_video.objectives.passes import Pass
from swd_video.training.config import DistillConfig
from swd_video.training.optimizers import AdamWConfig, MuonConfig, build_optimizers

GRID = LatentSize(3, 6, 8)
BATCH = 3
# torch's own counter knows no attention kernel of CPUs.
attention_in_parts = partial(sdpa_kernel, SDPBackend.MATH)
LORA = (4, ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"))


def inputs(model: WanModel, grid: LatentSize, batch: int = 1) -> tuple[Tensor, Tensor]:
    spec = model.spec
    latents = torch.randn(batch, spec.latent_channels, *grid.as_tuple())
    return latents, torch.randn(batch, spec.text_length, spec.text_dim)


def roles_of(model: WanModel, kind: str) -> Networks:
    return Networks.with_copy(model) if kind == "full" else Networks.with_lora(model, *LORA)


def transformer_of(architecture: Architecture, kind: str) -> Transformer:
    return Transformer(architecture, LORA if kind == "lora" else None)


def student_pass(grid: LatentSize) -> Pass:
    return Pass("student", grid, gradient="weights")


def teacher_pass(grid: LatentSize, block: int) -> Pass:
    return Pass("teacher", grid, gradient="input", depth=block + 1)


def evaluation(architecture: Architecture, grid: LatentSize) -> Flops:
    return Transformer(architecture).evaluation(grid)


def real_flops(model: WanModel, grid: LatentSize) -> int:
    latents, prompt_embeds = inputs(model, grid)
    return count_flops(lambda: model.predict_velocity(latents, 0.5, prompt_embeds))


def test_operations_are_those_of_torchs_own_counter(real_model: WanModel) -> None:
    latents, prompt_embeds = inputs(real_model, GRID, 2)
    roles = Networks.with_copy(real_model)
    with FlopCounterMode(display=False) as forward, attention_in_parts():
        predicted = roles.predict_x0(latents, Stage(0.5, GRID), prompt_embeds)
    with FlopCounterMode(display=False) as backward:
        predicted.sum().backward()
    with attention_in_parts():
        counted = count_graph(lambda: roles.predict_x0(latents, Stage(0.5, GRID), prompt_embeds))
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
    counted = evaluation(tiny_architecture, grid)
    assert counted.forward == real_flops(real_model, grid)
    assert 0 < counted.attention < counted.forward
    transformer = Transformer(tiny_architecture)
    for blocks in ((1,), (0, 2)):
        with real_model.without_blocks(blocks):
            assert transformer.flops(Pass("teacher", grid, left_out=blocks)).forward == real_flops(
                real_model, grid
            )


def test_an_evaluation_of_the_pocket_model_costs_what_it_really_costs(
    pocket_model: WanModel, pocket_architecture: Architecture
) -> None:
    grid = LatentSize(3, 8, 8)
    counted = evaluation(pocket_architecture, grid)
    assert counted.forward == real_flops(pocket_model, grid)


def test_what_was_counted_is_known_of_models_built_alike_and_of_no_others(tiny_wan_folder: Path) -> None:
    known, again = load_architecture(tiny_wan_folder), load_architecture(tiny_wan_folder)
    counted = evaluation(known, GRID)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("swd_video.cost.networks.count_graph", lambda run: pytest.fail("counted again"))
        assert evaluation(again, GRID) == counted
    pipe = known.model.pipe
    settings = {**pipe.config, "expand_timesteps": not pipe.config.expand_timesteps}
    for model in (
        replace(known, parts={"transformer": known.transformer(2)}),
        load_architecture("pocket-wan"),
    ):
        assert model.counted is not again.counted
    pipe.register_to_config(**settings)
    assert replace(known).counted is not again.counted is known.counted


def test_attention_counts_two_operations_for_every_product_of_queries_keys_and_values(
    tiny_architecture: Architecture,
) -> None:
    spec = tiny_architecture.spec
    tokens = spec.compression.tokens(GRID)
    keys = tokens + spec.text_length  # the clip's own, and the prompt's
    counted = evaluation(tiny_architecture, GRID)
    assert counted.attention == spec.num_blocks * 2 * 2 * tokens * keys * spec.hidden_size


def test_the_vae_costs_what_it_really_costs(real_model: WanModel, tiny_architecture: Architecture) -> None:
    grid = LatentSize(6, 4, 6)
    latents, _ = inputs(real_model, grid)
    pixels = torch.zeros(1, 3, *real_model.spec.compression.pixel_size(grid).as_tuple())
    decoding = Decoder(tiny_architecture).flops(Pass("vae_decoder", grid))
    assert decoding.forward == count_flops(lambda: real_model.decode(latents))
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
        return roles.predict_x0(latents, Stage(0.8, GRID), prompt_embeds)

    def tokens() -> Tensor:
        return roles.features("teacher", predicted_x0, sigma, prompt_embeds, (block,))[block]

    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        student, teacher = count_graph(predict), count_graph(tokens)
        student_kept = count_kept(predict, roles.student)
        teacher_kept = count_kept(tokens, real_model.transformer)

    counted, looked_at = transformer_of(tiny_architecture, kind), transformer_of(tiny_architecture, "full")
    passes = student_pass(GRID), teacher_pass(GRID, block)
    for network, one, real, real_kept in (
        (counted, passes[0], student, student_kept),
        (looked_at, passes[1], teacher, teacher_kept),
    ):
        flops = network.flops(one)
        assert (BATCH * flops.forward, BATCH * flops.backward) == (real.forward, real.backward)
        assert network.kept(one, bf16=bf16).at(BATCH) == pytest.approx(real_kept, rel=0.01)


def test_a_pass_without_gradients_is_the_forward_half_and_keeps_nothing(
    tiny_architecture: Architecture,
) -> None:
    network = Transformer(tiny_architecture)
    for one in (student_pass(GRID), teacher_pass(GRID, 1)):
        alone = replace(one, gradient="none")
        assert network.flops(alone) == replace(network.flops(one), backward=0)
        assert network.kept(alone, bf16=False) == Kept()


def test_what_two_passes_keep_adds_up_but_for_what_is_there_while_one_passes() -> None:
    assert Kept(1, 10, 100) + Kept(2, 20, 300) == Kept(3, 30, 300)
    assert Kept(1, 10, 100).at(4) == 141


def test_the_pocket_students_activations_are_those_of_a_real_pass(
    pocket_model: WanModel, pocket_architecture: Architecture
) -> None:
    grid, batch = LatentSize(3, 8, 8), 2
    roles = Networks.with_copy(pocket_model)
    latents, prompt_embeds = inputs(pocket_model, grid, batch)
    real = count_kept(lambda: roles.predict_x0(latents, Stage(0.78, grid), prompt_embeds), roles.student)
    kept = Transformer(pocket_architecture).kept(student_pass(grid), bf16=False)
    assert kept.at(batch) == pytest.approx(real, rel=0.01)


def test_checkpointing_keeps_the_tokens_between_blocks_and_one_block(tiny_architecture: Architecture) -> None:
    spec = tiny_architecture.spec
    network = Transformer(tiny_architecture)
    student, teacher = student_pass(GRID), teacher_pass(GRID, 1)
    tokens_bytes = 4 * spec.compression.tokens(GRID) * spec.hidden_size
    assert network.kept(teacher, bf16=False, checkpointing=True).at(BATCH) == BATCH * 2 * tokens_bytes
    checkpointed = network.kept(student, bf16=False, checkpointing=True)
    assert checkpointed.at(BATCH) < network.kept(student, bf16=False).at(BATCH)


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
        student = count_graph(lambda: roles.predict_x0(latents, Stage(0.8, grid), prompt_embeds))
        teacher = count_graph(
            lambda: roles.features("teacher", predicted_x0, sigma, prompt_embeds, (block,))[block]
        )
    finally:
        pocket_model.transformer.disable_gradient_checkpointing()  # others use it, too
    network = Transformer(pocket_architecture)
    planned = [network.flops(one) for one in (student_pass(grid), teacher_pass(grid, block))]
    again = student.backward + teacher.backward - sum(flops.backward for flops in planned)
    recomputed = sum(flops.forward for flops in planned)
    assert 0.9 * recomputed < again <= recomputed


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

    network = transformer_of(tiny_architecture, kind)
    sizes = Sizes(size_of(tiny_architecture.parts["transformer"]), network.weights, network.block_matrices)
    values = {"kind": kind, "optimizer": {"kind": "muon" if muon else "adamw"}}
    schedule = [{"sigma": 1, "frames": 1, "height": 2, "width": 2}]
    config = {"data": {"cache": ""}, "schedule": schedule, "train": values}
    parts = memory_parts(Setup(DistillConfig.model_validate(config)), sizes)
    assert parts["optimizer"] == held
    assert parts["gradients"] == 4 * sum(weight.numel() for weight in parameters.values())
    assert parts["ema"] == 4 * sum(shadow.numel() for shadow in average.shadow_params)
    copies = 1 if kind == "lora" else 2
    assert parts["weights"] == 4 * copies * size_of(real_model.transformer)


@pytest.fixture
def clips(real_model: WanModel) -> ClipPair:
    (predicted, prompt_embeds), (target, _) = inputs(real_model, GRID, BATCH), inputs(real_model, GRID, BATCH)
    return ClipPair(predicted.requires_grad_(), target, prompt_embeds)


def test_what_a_critic_keeps(real_model: WanModel, clips: ClipPair, tiny_architecture: Architecture) -> None:
    networks, lora = Networks.with_copy(real_model), (3, ("to_q", "ffn.net.2"))
    critic = Critic(networks, DmdConfig(critic_rank=lora[0], critic_targets=lora[1]))
    critic.start(networks)
    real = count_kept(
        lambda: critic.loss(networks, clips.detached(), SampleDraws(range(BATCH), 1)), real_model.transformer
    )
    counted = Transformer(tiny_architecture, lora)
    kept = counted.kept(Pass("critic", GRID, gradient="weights"), bf16=False)
    assert kept.at(BATCH) == pytest.approx(real, rel=0.02)
    assert counted.weights == sum(weight.numel() for weight in critic.parameters.values())


@pytest.mark.parametrize("head", ["mlp", "conv3d"])
def test_what_a_discriminator_keeps(
    head: str, real_model: WanModel, clips: ClipPair, tiny_architecture: Architecture
) -> None:
    networks, blocks = Networks.with_copy(real_model), (0, 1)
    config = GanConfig.model_validate({"head": head, "hidden": 5, "block": blocks})
    encoder, _ = config.see("loss.gan", real_model.spec, torch.device("cpu"))
    judge = Discriminator(config, config.heads(encoder, blocks), encoder, blocks)
    judge.start(networks)
    real = count_kept(
        lambda: judge.deceive(networks, clips, SampleDraws(range(BATCH), 1)), real_model.transformer
    )
    heads = Heads(config.heads(encoder, blocks), encoder, blocks)
    kept = heads.kept(Pass("heads", GRID, gradient="input"), bf16=True)
    kept += Transformer(tiny_architecture).kept(teacher_pass(GRID, 1), bf16=False)
    assert kept.at(BATCH) == pytest.approx(real, rel=0.1)
    assert heads.weights == sum(weight.numel() for weight in judge.parameters.values())


def test_decoding_keeps_pixels_and_the_graph_of_one_clip_while_it_passes(
    real_model: WanModel, clips: ClipPair, tiny_architecture: Architecture
) -> None:
    latents = clips.predicted_x0
    kept = Decoder(tiny_architecture).kept(Pass("vae_decoder", GRID, gradient="input"), bf16=True)
    pixels = decode_clips(real_model.decode, latents)
    assert BATCH * kept.clip == pixels.numel() * pixels.element_size()
    real = count_kept(lambda: real_model.decode(latents[:1]), real_model.vae)
    assert kept.passing == pytest.approx(real, rel=0.01)


def size_of(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())
