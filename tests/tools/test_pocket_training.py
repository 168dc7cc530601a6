"""Parts of the pocket trainers that have an exact answer."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from swd_video.core.decoder import StreamingDecoder
from swd_video.core.grid import LatentSize, PixelSize
from swd_video.data.latent_cache import CacheHeader
from swd_video.data.latent_cache_writing import LatentCacheWriter
from swd_video.models.fingerprint import fingerprint_encoders, weights_digest
from swd_video.models.loading import ASSETS, load_teacher
from swd_video.training.checkpoint_file import load_checkpoint, save_checkpoint
from swd_video.training.muon import Muon, orthogonalised
from swd_video.training.optimizers import learning_rate_share
from tools.pocket import teacher, text, vae
from tools.pocket.corpus import ClipSpec
from tools.pocket.curricula import CURRICULA, phase_of
from tools.pocket.recipes import Clock
from tools.pocket.teacher import draw_sigmas, initialise, open_caches
from tools.pocket.text import TEXT_LENGTH, WORDINGS, build_encoder, build_tokenizer, take_words, wording


def test_orthogonalised_keeps_directions_and_levels_strengths() -> None:
    torch.manual_seed(0)
    for shape in ((2, 24, 8), (2, 8, 24)):
        matrices = torch.randn(shape)
        left, _, right = torch.linalg.svd(matrices, full_matrices=False)
        levelled = torch.linalg.svdvals(orthogonalised(matrices))
        assert levelled.min() > 0.3 and levelled.max() < 1.3
        assert torch.linalg.matrix_norm(orthogonalised(matrices) - left @ right).max() < 1.3


def test_muon_solves_a_linear_problem_and_resumes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    target, inputs = torch.randn(6, 4), torch.randn(64, 4)

    def run(folder: Path, until: int) -> torch.nn.Linear:
        torch.manual_seed(1)
        layer = torch.nn.Linear(4, 6, bias=False)
        optimizer = Muon(layer.parameters(), lr=0.05)
        state = {"layer": layer, "optimizer": optimizer}
        for _ in range(load_checkpoint(folder, state, {"lr": 0.05}), until):
            (layer(inputs) - inputs @ target.T).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        save_checkpoint(folder, until, state, {"lr": 0.05})
        return layer

    straight = run(tmp_path / "straight", 80)
    assert (straight.weight - target).norm() < 0.25 * target.norm()
    run(tmp_path / "resumed", 30)
    assert torch.equal(run(tmp_path / "resumed", 80).weight, straight.weight)
    with pytest.raises(ValueError, match="another --out"):
        load_checkpoint(tmp_path / "resumed", {}, {"lr": 0.1})


def test_every_wording_is_in_the_vocabulary_and_fits() -> None:
    tokenizer, rng = build_tokenizer(), np.random.default_rng(0)
    for words in WORDINGS:
        subject, motion, background = "racing car", "moving left", "on a sandy beach"
        if words.startswith(("under", "on", "at", "in")):
            background = words
        elif words in (
            "racing car",
            "birthday cake",
            "christmas tree",
            "blue heart",
            "chick",
        ):
            subject = words
        else:
            motion = words
        for _ in range(20):
            caption = wording(ClipSpec(subject, motion, background, 0), rng, canonical=0.2)
            tokens = tokenizer(caption).input_ids
            assert tokenizer.unk_token_id not in tokens, caption
            assert len(tokens) <= TEXT_LENGTH, caption


def test_an_encoder_of_fewer_words_reads_those_that_are_left_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    words = build_tokenizer()
    trained = build_encoder(len(words)).eval()
    monkeypatch.setattr(text, "SUBJECTS", {"tiger": "1f405", "racing car": "1f3ce-fe0f"})
    fewer = build_tokenizer()
    smaller = build_encoder(len(fewer)).eval()
    take_words(smaller, fewer, trained, words.get_vocab())
    assert len(fewer) < len(words)
    caption = "a racing car moving left at night"
    with torch.no_grad():
        before, after = (
            encoder(tokenizer(caption, return_tensors="pt").input_ids).last_hidden_state
            for encoder, tokenizer in ((trained, words), (smaller, fewer))
        )
    assert torch.equal(before, after)
    assert fewer.unk_token_id in fewer("a penguin").input_ids


def test_noise_levels_and_phases_cover_the_run() -> None:
    sigmas = draw_sigmas(64, np.random.default_rng(0))
    assert 0 <= sigmas.min() < 0.05 and 0.97 < sigmas.max() <= 1
    assert sigmas.mean() > 0.5
    small_first = CURRICULA["small-first"]
    assert phase_of(0, 100) is small_first[0] and phase_of(99, 100) is small_first[-1]
    for phase in (phase for phases in CURRICULA.values() for phase in phases):
        assert abs(sum(share for share, _ in phase.grids.values()) - 1) < 1e-9
    assert learning_rate_share(0, 1000) < learning_rate_share(99, 1000) == 1.0
    assert learning_rate_share(999, 1000) < 0.01


def test_an_encoder_learns_beside_a_fast_decoder_and_the_vaes_own_follows() -> None:
    network = AutoencoderKLWan.from_pretrained(ASSETS / "pocket-wan" / "vae", torch_dtype=torch.float32)
    fast = StreamingDecoder.load(ASSETS / "pocket-wan-swd" / "decoder.safetensors")
    phases = vae.plan_phases(network, fast, 1e-2, 1e-3)
    frames = torch.randint(0, 255, (2, 5, 32, 32, 3), dtype=torch.uint8)
    clock = Clock(9, None)
    recipe = argparse.Namespace(start="", batch_size=2, crop=16, small=[PixelSize(5, 16, 16)])
    recipe.muon_lr, recipe.adamw_lr, recipe.precision, recipe.device = 1e-2, 1e-3, "fp32", "cpu"
    parts = {"encoder": network.encoder, "own": network.decoder, "fast": fast}

    def moved_by(step: int) -> set[str]:
        before = {name: weights_digest(part) for name, part in parts.items()}
        assert vae.take_step(step, frames, [network], phases, recipe, clock) > 0
        return {name for name, part in parts.items() if weights_digest(part) != before[name]}

    assert moved_by(5) == {"encoder", "fast"}
    assert moved_by(7) == {"own"}


def test_a_wider_vae_starts_as_the_trained_one(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    wide = vae.build_vae()
    monkeypatch.setattr(vae, "LATENT_CHANNELS", 24)
    trained = vae.build_vae()
    vae.take_weights(wide, trained)
    pixels = torch.rand(1, 3, 5, 32, 32) * 2 - 1
    with torch.no_grad():
        before, after = trained.encode(pixels).latent_dist.mean, wide.encode(pixels).latent_dist.mean
        assert torch.equal(before, after[:, :24])
        assert after[:, 24:].std() > 0.01, "new channels must be able to learn"
        assert torch.allclose(trained.decode(before).sample, wide.decode(after).sample, atol=1e-6)


def test_a_wider_teacher_starts_as_the_trained_one() -> None:
    torch.manual_seed(0)
    trained, wide = teacher.build_transformer(6, 16).eval(), teacher.build_transformer(8, 16).eval()
    teacher.take_weights(wide, trained)
    latents, embeds = torch.randn(1, 8, 2, 4, 4), torch.randn(1, 5, 16)
    with torch.no_grad():
        before = trained(latents[:, :6], torch.tensor([500]), embeds, return_dict=False)[0]
        after = wide(latents, torch.tensor([500]), embeds, return_dict=False)[0]
    assert torch.allclose(before, after[:, :6], atol=1e-6)
    assert not after[:, 6:].any()


def test_a_wider_and_deeper_teacher_starts_as_the_one_it_comes_from() -> None:
    torch.manual_seed(0)
    small = {"patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "text_dim": 8}
    small |= {"freq_dim": 16, "ffn_dim": 16, "cross_attn_norm": True, "rope_max_seq_len": 16}
    trained = WanTransformer3DModel(**small, in_channels=4, out_channels=4, num_layers=3).eval()
    larger = WanTransformer3DModel(**small, in_channels=6, out_channels=6, num_layers=5).eval()
    teacher.take_weights(larger, trained)
    latents, prompt = torch.randn(1, 6, 2, 4, 4), torch.randn(1, 3, 8)
    with torch.no_grad():
        before = trained(latents[:, :4], torch.tensor([500.0]), prompt).sample
        after = larger(latents, torch.tensor([500.0]), prompt).sample
    torch.testing.assert_close(after[:, :4], before)
    assert not after[:, 4:].any()


def test_an_untrained_teacher_reads_the_clips_that_were_encoded_for_the_shipped_one(tmp_path: Path) -> None:
    shipped = ASSETS / "pocket-wan"
    initialise(shipped / "vae", shipped, tmp_path / "untrained")
    assert fingerprint_encoders(tmp_path / "untrained") == fingerprint_encoders(shipped)
    assert load_teacher(tmp_path / "untrained").spec.latent_channels == 32


def test_caches_are_learned_from_together_only_where_one_encoder_made_them_on_the_same_grids(
    tmp_path: Path,
) -> None:
    def write(name: str, encoders: str, grid: LatentSize) -> Path:
        header = CacheHeader(
            model="tiny", encoders=encoders, clips_digest="d", num_clips=1, num_captions=1, grids=(grid,)
        )
        writer = LatentCacheWriter(tmp_path / name, header, 1)
        writer.write_prompts(*writer.prompt_shards, ["a fox"], torch.zeros(1, 6, 16))
        latents = {grid: torch.zeros(1, 4, *grid.as_tuple())}
        writer.write_latents(*writer.latent_shards, {"0": "a fox"}, latents, [])
        writer.finish()
        return tmp_path / name

    small, large = LatentSize(2, 4, 4), LatentSize(3, 6, 8)
    one, alike = write("one", "a", small), write("alike", "a", small)
    assert [cache.folder for cache in open_caches([one, alike])] == [one, alike]
    for other in (write("encoders", "b", small), write("grids", "a", large)):
        with pytest.raises(ValueError, match=f"--cache: {other} has other grids or encoders than {one}"):
            open_caches([one, alike, other])
