import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import ViTConfig, ViTModel

from swd_video.cli.main import EXIT_DONE, EXIT_WRONG_INPUT, main
from swd_video.config import ConfigError
from swd_video.core.decoder import DecoderLayout, StreamingDecoder
from swd_video.core.grid import Compression, LatentSize
from swd_video.core.pixels import frames_from_pixels
from swd_video.core.randomness import keyed_global
from swd_video.core.schedule import ScaleSchedule, Stage
from swd_video.data.latent_cache import LatentCache
from swd_video.data.manifest import Clip, read_manifest
from swd_video.files import hash_file
from swd_video.losses.gan import hinge_discriminator_loss
from swd_video.models.fingerprint import fingerprint_vae
from swd_video.models.loading import load_teacher
from swd_video.models.pixel_encoders import TransformersEncoder
from swd_video.training.decoder import _hold_out, _Stretches, distill_decoder
from swd_video.training.decoder_clips import DecoderBatch, DecoderClips
from swd_video.training.decoder_config import DecoderConfig, HeldOutConfig, ImitateConfig
from swd_video.training.decoder_discriminator import FeatureDiscriminator
from swd_video.training.decoder_imitation import Imitated, imitated_clips
from swd_video.training.decoder_step import DecoderTrainer
from swd_video.training.finite import NonFiniteError

MakeDecoderConfig = Callable[..., DecoderConfig]


@pytest.fixture
def make_decoder_config(
    tiny_wan_folder: Path, manifest: Path, tmp_path_factory: pytest.TempPathFactory
) -> MakeDecoderConfig:
    def make(decoder: dict[str, Any] | None = None, **train: Any) -> DecoderConfig:
        shape = {"widths": [16, 8], "blocks": [1, 1], "patch": [2, 4], **(decoder or {})}
        learning = {"steps": 4, "batch_size": 2, "crop": 4, "checkpoint_every": 2, "sample_every": 0, **train}
        return DecoderConfig(
            model=str(tiny_wan_folder),
            seed=3,
            data={"manifest": str(manifest), "cache": str(_shared(tmp_path_factory) / "decoder-cache")},
            grid="3x6x8",
            decoder=shape,
            held_out={"count": 2},
            train=learning,
        )

    return make


def _shared(factory: pytest.TempPathFactory) -> Path:
    return factory.getbasetemp()


def test_it_learns_and_is_compared_with_the_vae(
    make_decoder_config: MakeDecoderConfig, tmp_path: Path
) -> None:
    config = make_decoder_config(steps=60, sample_every=30, clips_in_memory=4, lr_warmup_steps=5, lr=1e-2)
    report = distill_decoder(config, tmp_path / "run")
    untrained = distill_decoder(make_decoder_config(steps=1, sample_every=0), tmp_path / "untrained")
    assert report["clips"] == 2
    assert report["decoder"]["psnr_db"]["value"] > untrained["decoder"]["psnr_db"]["value"] + 3
    gain = report["decoder"]["psnr_db"]["value"] - report["vae"]["psnr_db"]["value"]
    assert report["difference"]["psnr_db"]["value"] == pytest.approx(gain)
    names = {path.name for path in (tmp_path / "run" / "samples").iterdir()}
    assert names == {"step_00000030.webp", "step_00000060.webp", "final.webp"}
    decoder = StreamingDecoder.load(tmp_path / "run" / "decoder.safetensors")
    assert decoder.vae == fingerprint_vae(config.model)
    assert decoder.made_of is not None
    assert decoder.made_of["settings"]["train"]["steps"] == 60


def test_a_run_that_was_stopped_ends_with_the_same_bytes(
    make_decoder_config: MakeDecoderConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_decoder_config(steps=3, discriminator={"steps": 3, "width": 8}, muon_lr=1e-2)
    distill_decoder(config, tmp_path / "whole")

    class Stopped(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stopped

    # Stopped while it writes what it made: the checkpoint of step 4 is the last one then.
    with monkeypatch.context() as patched:
        patched.setattr(DecoderClips, "draw", _until(4, DecoderClips.draw, stop))
        with pytest.raises(Stopped):
            distill_decoder(config, tmp_path / "stopped")
    distill_decoder(config, tmp_path / "stopped")
    whole, stopped = (tmp_path / name / "decoder.safetensors" for name in ("whole", "stopped"))
    assert whole.read_bytes() == stopped.read_bytes()
    assert distill_decoder(config, tmp_path / "whole") == distill_decoder(config, tmp_path / "stopped")


def _until(last: int, draw: Any, stop: Callable[..., None]) -> Any:
    def drawn(self: DecoderClips, step: int, *rest: Any) -> Any:
        if step >= last:
            stop()
        return draw(self, step, *rest)

    return drawn


def test_windows_show_the_same_place_in_latents_and_pixels(
    make_decoder_config: MakeDecoderConfig, tmp_path: Path
) -> None:
    config = make_decoder_config(steps=1)
    distill_decoder(config, tmp_path / "run")
    model = load_teacher(config.model)
    manifest, grid = read_manifest(str(config.data.manifest)), LatentSize(3, 6, 8)
    clips = LatentCache(config.data.cache)
    pairs = DecoderClips(clips, manifest, {0}, grid, model.spec, 1, 0)
    whole = pairs.draw(0, 0, 5, None, None)
    assert whole.is_start
    assert whole.pixels.shape == (5, 3, 9, 48, 64)
    kinds = set()
    for step in range(12):
        batch = pairs.draw(step, 0, 1, 2, 3)
        latents, pixels, is_start = batch.latents[0], batch.pixels[0], batch.is_start
        kinds.add(is_start)
        assert pixels.shape[1:] == (5 if is_start else 8, 24, 24)
        # Where the latents are cut from the whole clips says where the pixels must be.
        windows = whole.latents.unfold(2, 2, 1).unfold(3, 3, 1).unfold(4, 3, 1)
        same = (windows.permute(0, 2, 3, 4, 1, 5, 6, 7) == latents).flatten(4).all(dim=-1).nonzero()
        assert len(same) == 1
        clip, frame, row, column = same[0].tolist()
        first = 0 if frame == 0 else 4 * (frame - 1) + 1
        expected = whole.pixels[clip, :, first:, 8 * row :, 8 * column :]
        assert torch.equal(expected[:, : pixels.shape[1], :24, :24], pixels)
    assert kinds == {True, False}


@pytest.fixture
def student(make_student: Callable[[Path, ScaleSchedule], Path], tmp_path: Path) -> Path:
    """One whose last stage is on the runs' grid."""
    schedule = ScaleSchedule((Stage(1.0, LatentSize(2, 4, 4)), Stage(0.6, LatentSize(3, 6, 8))))
    return make_student(tmp_path / "student", schedule)


def test_a_student_s_latents_are_shown_as_the_vae_shows_them(
    make_decoder_config: MakeDecoderConfig, student: Path, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a tiger\na fish\n")
    imitate = {"student": str(student), "prompts_file": str(prompts), "count": 3, "batch_size": 2}
    # A start that failed later leaves them to the next; what is of another config, and none of this run's, goes.
    nowhere = {"encoder": {"kind": "transformers", "name": str(tmp_path / "nowhere")}, "block": [0]}
    with pytest.raises(ConfigError, match=r"train\.features\.encoder: "):
        mistaken = make_decoder_config(steps=3, imitate={**imitate, "count": 5}, features=nowhere)
        distill_decoder(mistaken, tmp_path / "run")
    folder = tmp_path / "run" / "imitated"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert sorted(before) == ["000000.safetensors", "000002.safetensors", "000004.safetensors"]
    config = make_decoder_config(steps=3, discriminator={"steps": 2, "width": 8}, imitate=imitate)
    distill_decoder(config, tmp_path / "run")
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert after["000000.safetensors"] == before["000000.safetensors"]
    assert sorted(after) == sorted(before)[:2] and after["000002.safetensors"] != before["000002.safetensors"]
    imitated = Imitated(sorted(folder.iterdir()))
    assert imitated.count == 3 and not torch.equal(imitated.latents(0), imitated.latents(2))
    model = load_teacher(config.model)
    with torch.no_grad():
        shown = frames_from_pixels(model.decode(imitated.latents(1)[None]))[0]
    assert (shown.int() - imitated.pixels(1).int()).abs().max() <= 1

    manifest, grid = read_manifest(str(config.data.manifest)), LatentSize(3, 6, 8)
    clips = LatentCache(config.data.cache)
    pairs = DecoderClips(clips, manifest, {0}, grid, model.spec, 1, 0, imitated)
    batch, same = (pairs.draw(0, 0, 4, None, None, count) for count in (2, 0))
    assert torch.equal(batch.latents[:2], same.latents[:2])
    known = [imitated.latents(index) for index in range(3)]
    assert all(any(torch.equal(latents, one) for one in known) for latents in batch.latents[2:])

    made_of = StreamingDecoder.load(tmp_path / "run" / "decoder.safetensors").made_of
    assert made_of is not None and made_of["imitated"] == imitated.digest
    small = make_decoder_config(imitate=imitate).model_copy(update={"grid": "2x4x4"})
    small = small.model_copy(
        update={"data": small.data.model_copy(update={"cache": str(tmp_path / "small")})}
    )
    with pytest.raises(ConfigError, match=r"train\.imitate\.student: makes latents of \(\d+, 3, 6, 8\)"):
        distill_decoder(small, tmp_path / "small-run")
    with pytest.raises(ValidationError, match="leave one out"):
        DecoderConfig.model_validate(config.model_dump() | {"decoder": {"upscale": 2}})


@pytest.mark.parametrize("row", [0, 2], ids=["clip", "imitated"])
def test_where_edges_are_made_crisp_the_vae_does_not_say_how_crisp(
    row: int, make_decoder_config: MakeDecoderConfig
) -> None:
    imitate = {"student": "pocket-wan-swd", "prompts_file": "prompts.txt", "share": 0.4}
    config = make_decoder_config(
        steps=1, batch_size=3, discriminator={"steps": 1, "width": 8}, imitate=imitate, differences=0.0
    )
    draws = torch.Generator().manual_seed(0)
    batch = DecoderBatch(torch.randn(3, 4, 2, 4, 4, generator=draws), torch.zeros(3, 3, 5, 32, 32), True)
    board = 0.5 * (torch.arange(32) % 2 * 2 - 1.0)
    fine = replace(batch, pixels=batch.pixels.clone())
    fine.pixels[row] += board * board[:, None]
    layout = DecoderLayout.for_compression(Compression(), 4, (16, 8), (1, 1), (2, 4))

    def errors(step: int) -> list[float]:
        found = []
        for shown in (batch, fine):
            torch.manual_seed(0)
            no_clips = DecoderClips.__new__(DecoderClips)
            trainer = DecoderTrainer(config, StreamingDecoder(layout), no_clips, torch.device("cpu"))
            found.append(trainer.step(step, shown)["error"])
        return found

    plain, detailed = errors(0)
    assert detailed > plain + 0.01
    plain, detailed = errors(1)
    assert (detailed == pytest.approx(plain, abs=1e-6)) == (row == 2)


def test_a_trained_decoder_is_where_another_run_begins(
    make_decoder_config: MakeDecoderConfig, tmp_path: Path
) -> None:
    distill_decoder(make_decoder_config(steps=30, lr_warmup_steps=5, lr=1e-2), tmp_path / "first")
    first = tmp_path / "first" / "decoder.safetensors"
    # One whose VAE was not hashed, as tools.pocket.vae writes it, is taken for the model's own.
    unhashed = StreamingDecoder.load(first)
    unhashed.vae = ""
    unhashed.save(first)
    # Trained further at a rate of next to nothing, it is what it was.
    config = make_decoder_config(steps=1, lr=1e-12, muon_lr=None, start=str(first))
    distill_decoder(config, tmp_path / "second")
    one, other = (
        StreamingDecoder.load(first),
        StreamingDecoder.load(tmp_path / "second" / "decoder.safetensors"),
    )
    for name, weight in one.state_dict().items():
        assert torch.allclose(weight, other.state_dict()[name], atol=1e-9), name
    assert other.made_of is not None and other.made_of["started_from"] == hash_file(first)


def test_what_a_decoder_was_trained_through_is_known_of_those_that_begin_with_it(
    make_decoder_config: MakeDecoderConfig, tmp_path: Path
) -> None:
    distill_decoder(make_decoder_config(steps=1), tmp_path / "first")
    first = StreamingDecoder.load(tmp_path / "first" / "decoder.safetensors")
    seen = [{"name": "an encoder"}]
    first.made_of = {**(first.made_of or {}), "trained_through": seen}
    first.save(tmp_path / "seen.safetensors")
    distill_decoder(
        make_decoder_config(steps=1, start=str(tmp_path / "seen.safetensors")), tmp_path / "second"
    )
    made_of = StreamingDecoder.load(tmp_path / "second" / "decoder.safetensors").made_of
    assert made_of is not None and made_of["trained_through"] == seen


def test_the_shipped_student_can_be_imitated(tmp_path: Path) -> None:
    """Its VAE's pixels do not lie in memory as a file needs them."""
    (tmp_path / "prompts.txt").write_text("a tiger moving left on a green meadow\n")
    section = ImitateConfig(student="pocket-wan-swd", prompts_file=str(tmp_path / "prompts.txt"), count=1)
    made = imitated_clips(section, load_teacher("pocket-wan"), LatentSize(5, 12, 12), 0, tmp_path / "run")
    assert made.pixels(0).shape == (3, 17, 96, 96) and made.latents(0).shape == (32, 5, 12, 12)


def test_a_discriminator_sees_through_a_frozen_network(
    make_decoder_config: MakeDecoderConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "network"
    _small_network(folder)
    features = {"encoder": {"kind": "transformers", "name": str(folder)}, "block": [0, 1]}

    def second(**keys: Any) -> DecoderConfig:
        return make_decoder_config(
            steps=1, lr=1e-2, lr_warmup_steps=0, discriminator={"steps": 3, "width": 8, "frames": 1, **keys}
        )

    distill_decoder(second(features=features), tmp_path / "seen")
    distill_decoder(second(features=features, weight=1e-9), tmp_path / "unheeded")
    seen, unheeded = (
        StreamingDecoder.load(tmp_path / run / "decoder.safetensors") for run in ("seen", "unheeded")
    )
    moved = [(seen.state_dict()[name] - weight).abs().max() for name, weight in unheeded.state_dict().items()]
    assert max(moved) > 1e-5  # it says something to the decoder
    assert seen.made_of is not None
    assert [network["name"] for network in seen.made_of["trained_through"]] == ["network"]
    with pytest.raises(
        ConfigError, match=r"train\.discriminator\.features\.block: 40 does not exist; the .*network"
    ):
        distill_decoder(second(features={**features, "block": [40]}), tmp_path / "none")


def test_a_share_of_what_the_discriminator_changed_is_kept(
    make_decoder_config: MakeDecoderConfig, tmp_path: Path
) -> None:
    def weights(run: str, kept_share: float) -> dict[str, torch.Tensor]:
        second = {"steps": 2, "width": 8, "kept_share": kept_share}
        config = make_decoder_config(steps=2, lr=1e-2, lr_warmup_steps=0, discriminator=second)
        report = distill_decoder(config, tmp_path / run)
        assert json.loads((tmp_path / run / "report.json").read_text()) == report
        return StreamingDecoder.load(tmp_path / run / "decoder.safetensors").state_dict()

    whole, half, nearly_none = (weights(str(share), share) for share in (1.0, 0.5, 1e-6))
    assert not torch.equal(whole["stem.weight"], nearly_none["stem.weight"])
    for name, weight in half.items():
        torch.testing.assert_close(weight, (whole[name] + nearly_none[name]) / 2, atol=1e-5, rtol=0)

    # A finished run takes another share without a step.
    files = [tmp_path / run / "decoder.safetensors" for run in ("1.0", "0.5")]
    checkpoint = (tmp_path / "1.0" / "checkpoint.pt").read_bytes()
    assert torch.equal(weights("1.0", 0.5)["stem.weight"], half["stem.weight"])
    assert files[0].read_bytes() == files[1].read_bytes()
    assert (tmp_path / "1.0" / "checkpoint.pt").read_bytes() == checkpoint


def test_a_frozen_network_tells_clips_apart(tmp_path: Path) -> None:
    _small_network(tmp_path)
    with keyed_global(0, "heads"):
        judge = FeatureDiscriminator(TransformersEncoder(str(tmp_path)), [0, 1], 8)
    even, striped = torch.zeros(1, 3, 9, 32, 32), torch.zeros(1, 3, 9, 32, 32)
    striped[:, :, 4, ::2] = 0.5
    places = torch.tensor([1, 5])  # the striped frame is a neighbour of the second alone
    unseen = torch.zeros(0)
    learner = torch.optim.Adam(judge.parameters(), lr=1e-2)
    for _ in range(40):
        pairs = zip(judge(unseen, even, places, unseen), judge(unseen, striped, places, unseen), strict=True)
        loss = torch.stack([hinge_discriminator_loss(real, made) for real, made in pairs]).mean()
        learner.zero_grad()
        loss.backward()
        learner.step()
    assert all(name.startswith("heads.") for name in judge.state_dict())
    for block in judge(unseen, striped, places, unseen):
        first, second = block.mean((1, 2, 3, 4))
        assert first > second + 0.5


def _small_network(folder: Path) -> None:
    with keyed_global(0, "network"):
        config = ViTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=32,
            patch_size=8,
        )
        ViTModel(config).save_pretrained(folder)


def test_windows_inside_of_clips_train_too(make_decoder_config: MakeDecoderConfig, tmp_path: Path) -> None:
    config = make_decoder_config(steps=6, frames=2, discriminator={"steps": 2, "width": 8})
    assert distill_decoder(config, tmp_path / "run")["clips"] == 2


def test_a_decoder_can_make_larger_clips_than_the_vae(
    make_decoder_config: MakeDecoderConfig, tmp_path: Path, manifest: Path
) -> None:
    config = make_decoder_config({"upscale": 2, "patch": [2, 8]}, steps=2)
    smaller = config.model_copy(
        update={"grid": "3x2x4", "data": config.data.model_copy(update={"cache": str(tmp_path / "small")})}
    )
    smaller = smaller.model_copy(update={"train": smaller.train.model_copy(update={"crop": 2})})
    distill_decoder(smaller, tmp_path / "run")
    decoder = StreamingDecoder.load(tmp_path / "run" / "decoder.safetensors")
    with torch.no_grad():
        assert decoder(torch.zeros(1, 4, 3, 2, 4)).shape[2:] == (9, 32, 64)


def test_held_out_clips_that_cannot_be_read_are_said_and_counted(
    make_decoder_config: MakeDecoderConfig, tmp_path: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = tmp_path / "others.jsonl"
    lines = [*manifest.read_text().splitlines()[:2], json.dumps({"path": "gone.mp4", "caption": "a cat"})]
    for line in ("red-slowly.mp4", "red-fast.mp4"):
        (tmp_path / line).write_bytes((manifest.parent / line).read_bytes())
    others.write_text("\n".join(lines) + "\n")
    config = make_decoder_config(steps=1)
    config = config.model_copy(update={"held_out": HeldOutConfig(manifest=str(others), count=3)})
    report = distill_decoder(config, tmp_path / "run")
    assert (report["clips"], report["skipped"]) == (2, 1)
    assert "skipped gone.mp4: " in capsys.readouterr().err
    (tmp_path / "none.jsonl").write_text(lines[-1] + "\n")
    config = config.model_copy(update={"held_out": HeldOutConfig(manifest=str(tmp_path / "none.jsonl"))})
    with pytest.raises(ConfigError, match=r"held_out: none of 1 clips can be read; gone\.mp4"):
        distill_decoder(config, tmp_path / "other")


@pytest.mark.parametrize("name", ["decoder", "discriminator"])
def test_a_gradient_that_is_not_finite_moves_nothing(
    name: str, make_decoder_config: MakeDecoderConfig
) -> None:
    config = make_decoder_config(steps=1, discriminator={"steps": 1, "width": 8})
    layout = DecoderLayout.for_compression(Compression(), 4, (16, 8), (1, 1), (2, 4))
    no_clips = DecoderClips.__new__(DecoderClips)
    trainer = DecoderTrainer(config, StreamingDecoder(layout), no_clips, torch.device("cpu"))
    network = trainer.state[name]
    weight = next(network.parameters())
    weight.register_hook(lambda gradient: gradient * float("inf"))
    before = {key: value.clone() for key, value in network.state_dict().items() if value is not None}
    batch = DecoderBatch(torch.randn(2, 4, 2, 4, 4), torch.rand(2, 3, 5, 32, 32), True)
    with pytest.raises(NonFiniteError, match=rf"the norm of the {name}'s gradient is (inf|nan), first in "):
        trainer.step(1, batch)
    assert all(
        torch.equal(dict(network.named_parameters())[key], before[key])
        for key, _ in network.named_parameters()
    )


@pytest.mark.parametrize("harm", ["empty", "cut", "text", "another"])
def test_a_damaged_checkpoint_is_named_in_one_line(
    harm: str, make_decoder_config: MakeDecoderConfig, tmp_path: Path
) -> None:
    config, out = make_decoder_config(), tmp_path / "run"
    distill_decoder(config, out)
    (out / "report.json").unlink()  # else it is finished, and the checkpoint not looked at
    file, made = out / "checkpoint.pt", (out / "decoder.safetensors").read_bytes()
    if harm == "another":
        torch.save({"weights": torch.zeros(3)}, file)
    else:
        whole = file.read_bytes()
        file.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "text": b"no checkpoint"}[harm])
    with pytest.raises(
        ValueError, match=r"checkpoint\.pt: the checkpoint is damaged: .*\. Delete it to start anew"
    ):
        distill_decoder(config, out)
    assert (out / "decoder.safetensors").read_bytes() == made


def test_another_config_or_other_clips_in_the_same_folder_are_refused(
    make_decoder_config: MakeDecoderConfig, tmp_path: Path
) -> None:
    config, out = make_decoder_config(steps=1), tmp_path / "run"
    distill_decoder(config, out)
    report = (out / "report.json").read_bytes()
    for state in ("finished", "begun"):
        with pytest.raises(
            ConfigError, match=r"holds a run with another train\.batch_size \(2 there, 1 now\)"
        ):
            distill_decoder(make_decoder_config(steps=1, batch_size=1), out)
        with pytest.raises(ConfigError, match=r"another model \(.* there, \"gone\" now\)"):
            distill_decoder(config.model_copy(update={"model": "gone"}), out)
        # Where they lie is the same, what lies there is not.
        index = Path(config.data.cache) / "index.json"
        known = index.read_text()
        index.write_text(json.dumps(json.loads(known) | {"digest": "others"}))
        with pytest.raises(ConfigError, match=r"another latents \(data\.cache\): .* there, others now"):
            distill_decoder(config, out)
        index.write_text(known)
        if state == "finished":
            (out / "report.json").unlink()
    distill_decoder(make_decoder_config(steps=1, sample_every=1, clips_in_memory=1), out)
    assert (out / "report.json").read_bytes() == report


def test_the_folder_of_another_command_is_left_alone(
    make_decoder_config: MakeDecoderConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = {
        "distill": "{data: {cache: c}, schedule: [{sigma: 1, frames: 1, height: 2, width: 2}], train: {kind: full}}",
        "decoder": json.dumps(make_decoder_config().model_dump(mode="json")),
        "evaluate": "{prompts: [a], rows: [{kind: teacher, key: t, model: pocket-wan}], reference: t}",
    }
    for command, text in configs.items():
        for other in configs.keys() - {command}:
            (tmp_path / "asked.yaml").write_text(text)
            (tmp_path / "run").mkdir(exist_ok=True)
            (tmp_path / "run" / "config.yaml").write_text(configs[other])
            words = [command, str(tmp_path / "asked.yaml"), "--out", str(tmp_path / "run")]
            assert main(words) == EXIT_WRONG_INPUT
            assert "run: holds the config.yaml of another command or version; " in capsys.readouterr().err
            assert (tmp_path / "run" / "config.yaml").read_text() == configs[other]


def test_the_command_trains_and_says_what_came_out(
    make_decoder_config: MakeDecoderConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "decoder.yaml"
    path.write_text(json.dumps(make_decoder_config().model_dump(mode="json")))
    out = tmp_path / "run"
    assert main(["decoder", str(path), "--out", str(out), "--train.steps", "2", "--json"]) == EXIT_DONE
    said = json.loads(capsys.readouterr().out)
    assert said["file"] == str(out / "decoder.safetensors")
    assert set(said["difference"]) == {"psnr_db", "ssim", "laplacian_energy", "motion_error"}
    command = ["decoder", str(path), "--out", str(out), "--train.steps", "2"]
    assert main(command) == EXIT_DONE
    assert "PSNR, dB" in capsys.readouterr().out
    report = (out / "report.json").read_bytes()
    (out / "report.json").write_bytes(report[:20])  # damaged, it is written again
    assert main(command) == EXIT_DONE
    assert (out / "report.json").read_bytes() == report
    assert main([*command, "--data.cache", str(out)]) == EXIT_WRONG_INPUT
    assert f"error: data.cache: {out} is the folder of the run, --out, as well; " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (("--decoder.patch", "[1, 4]"), "decoder.patch: 1 frames of 4 pixels"),
        (("--data.manifest", "null"), "data.manifest: got none, expected a manifest"),
        (("--held-out.count", "6"), "held_out.count: all 6 clips are kept back"),
        (("--grid", "3x6"), "3x6"),
        (("--student", "pocket-wan-swd"), "--student: pocket-wan-swd has another VAE than "),
        (("--train.start", "gone.safetensors"), "train.start: gone.safetensors: cannot be read as a decoder"),
        (
            ("--train.start", "swd_video/assets/pocket-wan-swd/decoder.safetensors"),
            "decoder.safetensors has channels 32, expected 4",
        ),
        (
            ("--train.imitate", "{student: pocket-wan-swd, prompts_file: prompts.txt, share: 0.1}"),
            "imitate.share: 0.1 of a batch_size of 2 is 0; expected some of the clips, not all",
        ),
        (
            ("--train.features", "{encoder: {kind: teacher}, block: [1]}"),
            "got 'teacher', expected one of 'transformers', 'transnetv2'",
        ),
    ],
)
def test_wrong_input_is_one_line(
    make_decoder_config: MakeDecoderConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    override: tuple[str, str],
    line: str,
) -> None:
    path = tmp_path / "decoder.yaml"
    path.write_text(json.dumps(make_decoder_config().model_dump(mode="json")))
    assert main(["decoder", str(path), "--out", str(tmp_path / "run"), *override]) == EXIT_WRONG_INPUT
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert line in error
    assert not (tmp_path / "run" / "decoder.safetensors").exists()


def test_no_file_of_a_held_out_clip_is_trained_on(
    make_decoder_config: MakeDecoderConfig, tmp_path: Path, manifest: Path
) -> None:
    entries = [json.loads(line) for line in manifest.read_text().splitlines()]
    for entry in entries:
        entry["path"] = str(manifest.parent / entry["path"])
    twice = [{**entry, "caption": caption} for entry in entries for caption in ("a cat", "a dog")]
    (tmp_path / "twice.jsonl").write_text("\n".join(map(json.dumps, twice)))
    config = make_decoder_config(steps=1)
    data = config.data.model_copy(
        update={"manifest": str(tmp_path / "twice.jsonl"), "cache": tmp_path / "cache"}
    )
    config = config.model_copy(update={"data": data})
    distill_decoder(config, tmp_path / "run")
    clips, lines = LatentCache(tmp_path / "cache"), read_manifest(tmp_path / "twice.jsonl")
    kept_back, held_out = _hold_out(config, clips, lines)
    trained = {lines[int(key)].path for place, key in enumerate(clips.keys) if place not in kept_back}
    assert len(held_out) == 2 and trained and not trained & {clip.path for clip in held_out}
    film = [Clip(Path("film.mp4"), "a cat", start, start + 2) for start in range(0, 12, 2)]
    shown = _Stretches(film[1:2])
    assert [shown.show_some_of(clip) for clip in film] == [False, True, *[False] * 4]
    assert shown.show_some_of(Clip(Path("film.mp4"), "a dog", 3.5)) and not shown.show_some_of(lines[0])
    own = HeldOutConfig(manifest=str(manifest), count=2)
    with pytest.raises(ConfigError, match=r"held_out\.manifest: .* is in data\.manifest as well"):
        distill_decoder(config.model_copy(update={"held_out": own}), tmp_path / "other")
