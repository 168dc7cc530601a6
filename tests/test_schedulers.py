import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchLCMScheduler
from diffusers.utils.torch_utils import randn_tensor
from hypothesis import given, settings
from hypothesis import strategies as st

from swd_video.core.flow import add_noise
from swd_video.core.grid import LatentSize
from swd_video.core.resize import resize_latents
from swd_video.core.sampling import sample_scalewise
from swd_video.core.schedule import ScaleSchedule, Stage
from swd_video.core.upsampler import LatentUpsampler, growing_pairs
from swd_video.schedulers import ScaleWiseFlowMatchScheduler, ScaleWiseFlowMatchSchedulerOutput

SIGMAS = (1.0, 0.896, 0.737, 0.602)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _network(noisy_latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """Any deterministic function of latents and timestep."""
    return (noisy_latents * 1.3 + timestep / 700).sin() - 0.1


def _on(grid: LatentSize, sigmas: tuple[float, ...] = SIGMAS) -> ScaleSchedule:
    return ScaleSchedule(tuple(Stage(sigma, grid) for sigma in sigmas))


def _run(
    scheduler: ScaleWiseFlowMatchScheduler, latents: torch.Tensor, generator: object
) -> list[torch.Tensor]:
    scheduler.set_timesteps()
    trajectory = []
    for timestep in scheduler.timesteps:
        velocity = _network(latents, timestep)
        latents = scheduler.step(velocity, timestep, latents, generator=generator, return_dict=False)[0]
        trajectory.append(latents)
    return trajectory


def _reference(schedule: ScaleSchedule, **options: Any) -> torch.Tensor:
    """What the reference loop makes of `_network` from the noise of seed 9."""
    return sample_scalewise(
        lambda x, sigma, _: _network(x, torch.tensor(sigma) * 1000),
        schedule,
        batch_size=2,
        channels=4,
        generator=_generator(9),
        **{"upsample": resize_latents, **options},
    )


def _run_lcm(
    scheduler: FlowMatchLCMScheduler, latents: torch.Tensor, generator: object
) -> list[torch.Tensor]:
    scheduler.set_timesteps(sigmas=list(SIGMAS))
    trajectory = []
    for timestep in scheduler.timesteps:
        velocity = _network(latents, timestep)
        latents = scheduler.step(velocity, timestep, latents, generator=generator, return_dict=False)[0]
        trajectory.append(latents)
    return trajectory


@pytest.mark.parametrize("clips", [1, 3])
def test_on_one_grid_it_is_the_lcm_scheduler_bit_for_bit(clips: int) -> None:
    grid = LatentSize(3, 4, 6)
    latents = torch.randn(clips, 4, *grid.as_tuple(), generator=_generator(1))
    ours = ScaleWiseFlowMatchScheduler.from_schedule(_on(grid))
    theirs = FlowMatchLCMScheduler()
    got, expected = _run(ours, latents, _generator(7)), _run_lcm(theirs, latents, _generator(7))
    assert torch.equal(ours.timesteps, theirs.timesteps)
    assert torch.equal(ours.sigmas, theirs.sigmas)
    for step, (left, right) in enumerate(zip(got, expected, strict=True)):
        assert torch.equal(left, right), f"step {step}"


def test_a_generator_for_each_clip_draws_as_the_lcm_scheduler_does() -> None:
    grid = LatentSize(2, 4, 4)
    latents = torch.randn(2, 3, *grid.as_tuple(), generator=_generator(1))
    ours = ScaleWiseFlowMatchScheduler.from_schedule(_on(grid))
    got = _run(ours, latents, [_generator(3), _generator(4)])
    expected = _run_lcm(FlowMatchLCMScheduler(), latents, [_generator(3), _generator(4)])
    for left, right in zip(got, expected, strict=True):
        assert torch.equal(left, right)


@settings(max_examples=25)
@given(st.lists(st.integers(10, 999), min_size=0, max_size=4, unique=True), st.integers(0, 99))
def test_any_noise_levels_agree_with_the_lcm_scheduler(levels: list[int], seed: int) -> None:
    sigmas = (1.0, *(level / 1000 for level in sorted(levels, reverse=True)))
    ours = ScaleWiseFlowMatchScheduler.from_schedule(_on(LatentSize(2, 2, 2), sigmas))
    theirs = FlowMatchLCMScheduler()
    theirs.set_timesteps(sigmas=list(sigmas))
    left = right = torch.randn(1, 2, 2, 2, 2, generator=_generator(seed))
    for timestep in theirs.timesteps:
        noise = _generator(seed + 1), _generator(seed + 1)
        left = ours.step(_network(left, timestep), timestep, left, noise[0]).prev_sample
        right = theirs.step(_network(right, timestep), timestep, right, noise[1]).prev_sample
        assert torch.equal(left, right)


def test_on_pictures_that_grow_it_is_the_lcm_scheduler_bit_for_bit() -> None:
    # The one growing case that the LCM scheduler samples as the paper does: pictures, 4-D tensors, bicubic.
    sizes = [(4, 6), (6, 9), (8, 12), (12, 18)]
    schedule = ScaleSchedule(
        tuple(Stage(sigma, LatentSize(1, *size)) for sigma, size in zip(SIGMAS, sizes, strict=True))
    )
    latents = torch.randn(2, 4, 4, 6, generator=_generator(1))
    got = _run(ScaleWiseFlowMatchScheduler.from_schedule(schedule), latents.unsqueeze(2), _generator(7))
    lcm = FlowMatchLCMScheduler(scale_factors=[1.5, 2.0, 3.0], upscale_mode="bicubic")
    expected = _run_lcm(lcm, latents, _generator(7))
    for left, right in zip(got, expected, strict=True):
        assert torch.equal(left.squeeze(2), right)


@pytest.mark.parametrize("clips", [1, 2])
def test_on_clips_that_grow_alike_and_trilinearly_it_is_the_lcm_scheduler_bit_for_bit(clips: int) -> None:
    # All that the LCM scheduler has for clips: one factor for every axis, trilinear, ends not aligned.
    grids = [(2, 4, 6), (3, 6, 9), (4, 8, 12), (6, 12, 18)]
    stages = ScaleSchedule(
        tuple(Stage(sigma, LatentSize(*grid)) for sigma, grid in zip(SIGMAS, grids, strict=True))
    ).as_dict()
    latents = torch.randn(clips, 4, *grids[0], generator=_generator(1))
    ours = ScaleWiseFlowMatchScheduler(stages, upsampling="trilinear")
    got = _run(ours, latents, _generator(7))
    lcm = FlowMatchLCMScheduler(scale_factors=[1.5, 2.0, 3.0], upscale_mode="trilinear")
    expected = _run_lcm(lcm, latents, _generator(7))
    for left, right in zip(got, expected, strict=True):
        assert torch.equal(left, right)
    aligned = _run(ScaleWiseFlowMatchScheduler(stages), latents, _generator(7))
    assert not torch.equal(aligned[-1], got[-1])


def test_the_way_of_upsampling_is_saved_and_checked(tiny_schedule: ScaleSchedule, tmp_path: Path) -> None:
    ScaleWiseFlowMatchScheduler(tiny_schedule.as_dict(), upsampling="trilinear").save_pretrained(tmp_path)
    assert ScaleWiseFlowMatchScheduler.from_pretrained(tmp_path).config.upsampling == "trilinear"
    with pytest.raises(ValueError, match="upsampling: got 'nearest', expected one of bicubic, trilinear"):
        ScaleWiseFlowMatchScheduler(tiny_schedule.as_dict(), upsampling="nearest")


def test_noise_drawn_for_a_stock_pipeline_lasts_for_one_run(tiny_schedule: ScaleSchedule) -> None:
    scheduler = ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule)

    def run(latents: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        scheduler.set_timesteps(len(tiny_schedule))
        for timestep in scheduler.timesteps:
            latents = scheduler.step(_network(latents, timestep), timestep, latents, generator).prev_sample
        return latents

    generator = _generator(5)
    first = torch.randn(2, 4, *tiny_schedule[0].grid.as_tuple(), generator=generator)
    expected = run(first, generator)
    drawn = scheduler.draw_first_noise(2, 4, _generator(5))
    assert torch.equal(drawn, first)
    assert torch.equal(run(drawn, None), expected)
    # The next run draws from torch's global state again.
    torch.manual_seed(3)
    following = run(first, None)
    torch.manual_seed(3)
    assert torch.equal(run(first, None), following) and not torch.equal(following, expected)


def test_it_can_be_exchanged_for_the_schedulers_it_is_compatible_with(tiny_schedule: ScaleSchedule) -> None:
    scheduler = ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule)
    assert {other.__name__ for other in scheduler.compatibles} == {
        "FlowMatchEulerDiscreteScheduler",
        "FlowMatchLCMScheduler",
    }
    for other in scheduler.compatibles:
        there_and_back = ScaleWiseFlowMatchScheduler.from_config(other.from_config(scheduler.config).config)
        assert there_and_back.schedule == tiny_schedule


def test_it_is_the_reference_loop_bit_for_bit(tiny_schedule: ScaleSchedule) -> None:
    scheduler = ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule)
    clean: list[torch.Tensor] = []
    generator = _generator(9)
    latents = randn_tensor((2, 4, *tiny_schedule[0].grid.as_tuple()), generator=generator)
    for timestep in scheduler.timesteps:
        output = scheduler.step(_network(latents, timestep), timestep, latents, generator)
        assert isinstance(output, ScaleWiseFlowMatchSchedulerOutput)
        latents = output.prev_sample
        clean.append(output.pred_original_sample)

    expected: list[torch.Tensor] = []
    reference = _reference(tiny_schedule, on_stage=lambda _, x0: expected.append(x0))
    assert torch.equal(latents, reference)
    for left, right in zip(clean, expected, strict=True):
        assert torch.equal(left, right)


def test_a_half_precision_velocity_is_used_in_float32(tiny_schedule: ScaleSchedule) -> None:
    scheduler = ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule)
    sample = torch.randn(1, 4, *tiny_schedule[0].grid.as_tuple(), generator=_generator())
    velocity = sample.bfloat16()
    got = scheduler.step(velocity, scheduler.timesteps[0], sample, _generator(1))
    scheduler.set_timesteps()
    expected = scheduler.step(velocity.float(), scheduler.timesteps[0], sample, _generator(1))
    assert got.prev_sample.dtype == torch.float32
    assert torch.equal(got.prev_sample, expected.prev_sample)


def test_half_precision_samples_keep_their_dtype(tiny_schedule: ScaleSchedule) -> None:
    scheduler = ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule)
    sample = torch.zeros(1, 4, *tiny_schedule[0].grid.as_tuple(), dtype=torch.bfloat16)
    output = scheduler.step(sample, scheduler.timesteps[0], sample, _generator())
    assert output.prev_sample.dtype == output.pred_original_sample.dtype == torch.bfloat16


def test_saved_and_loaded_it_has_the_same_stages(tiny_schedule: ScaleSchedule, tmp_path: Path) -> None:
    scheduler = ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule)
    scheduler.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert config["stages"] == tiny_schedule.as_dict()
    assert ScaleWiseFlowMatchScheduler.from_pretrained(tmp_path).schedule == tiny_schedule
    assert ScaleWiseFlowMatchScheduler.from_config(scheduler.config).schedule == tiny_schedule


def test_windows_are_saved_and_stock_pipelines_which_have_none_refused(
    local_schedule: ScaleSchedule, tmp_path: Path
) -> None:
    ScaleWiseFlowMatchScheduler.from_schedule(local_schedule).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert config["stages"] == local_schedule.as_dict()
    assert "attention" not in config["stages"][0] and config["stages"][2]["attention"]["global_every"] == 3
    scheduler = ScaleWiseFlowMatchScheduler.from_pretrained(tmp_path)
    assert scheduler.schedule == local_schedule
    with pytest.raises(
        ValueError, match=r"schedule\[1\]\.attention: got windows of 2x2x4 latents, which stock"
    ):
        scheduler.set_timesteps(3)
    scheduler.set_timesteps(schedule=scheduler.schedule)


def test_a_learned_upsampler_is_saved_and_loaded_with_it(
    tiny_schedule: ScaleSchedule, tmp_path: Path
) -> None:
    upsampler = LatentUpsampler(4, 8, 1, growing_pairs(tiny_schedule)).requires_grad_(False)
    upsampler.out.weight.normal_(generator=_generator(2))
    saved = ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule, upsampler=upsampler)
    saved.save_pretrained(tmp_path / "part")
    scheduler = ScaleWiseFlowMatchScheduler.from_pretrained(tmp_path, subfolder="part")

    generator = _generator(9)
    latents = randn_tensor((2, 4, *tiny_schedule[0].grid.as_tuple()), generator=generator)
    got = _run(scheduler, latents, generator)[-1]
    assert torch.equal(got, _reference(tiny_schedule, upsample=upsampler))


class _Hub(BaseHTTPRequestHandler):
    """Has nothing, and remembers what it was asked for."""

    asked: list[str]

    def do_HEAD(self) -> None:
        self.asked.append(self.path)
        self.send_error(404)

    do_GET = do_HEAD

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_learned_upsampler_of_a_hub_s_copy_is_read_without_asking_the_hub(
    tiny_schedule: ScaleSchedule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upsampler = LatentUpsampler(4, 8, 1, growing_pairs(tiny_schedule)).requires_grad_(False)
    cached, revision = tmp_path / "models--me--student", "0123456789abcdef" * 2 + "01234567"
    saved = ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule, upsampler=upsampler)
    saved.save_pretrained(cached / "snapshots" / revision / "scheduler")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revision)
    asked: list[str] = []
    hub = ThreadingHTTPServer(("127.0.0.1", 0), type("Hub", (_Hub,), {"asked": asked}))
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    address = f"http://127.0.0.1:{hub.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    files = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", files)
    try:
        loaded = ScaleWiseFlowMatchScheduler.from_pretrained(
            "me/student", subfolder="scheduler", cache_dir=tmp_path, local_files_only=True
        )
    finally:
        hub.shutdown()
        hub.server_close()
    assert not [path for path in asked if "me/student" in path]
    assert torch.equal(loaded.upsampler.out.weight, upsampler.out.weight)


def test_a_learned_upsampler_that_is_not_there_is_missed(
    tiny_schedule: ScaleSchedule, tmp_path: Path
) -> None:
    scheduler = ScaleWiseFlowMatchScheduler(tiny_schedule.as_dict(), upsampling="learned")
    latents = torch.zeros(1, 4, *tiny_schedule[0].grid.as_tuple())
    with pytest.raises(ValueError, match=r"made of its config alone; .* holds upsampler\.safetensors"):
        scheduler.step(latents, scheduler.timesteps[0], latents)
    scheduler.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cannot be read as an upsampler"):
        ScaleWiseFlowMatchScheduler.from_pretrained(tmp_path)


def test_a_broken_config_is_refused_with_the_stage() -> None:
    stages = [{"sigma": 1.0, "frames": 2, "height": 4, "width": 4}]
    with pytest.raises(ValueError, match=r"schedule\[1\]: 1 latent frames cannot follow 2"):
        ScaleWiseFlowMatchScheduler(stages=[*stages, {"sigma": 0.5, "frames": 1, "height": 4, "width": 4}])


def test_another_clip_size_lasts_until_the_next_start(tiny_schedule: ScaleSchedule) -> None:
    scheduler = ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule)
    longer = tiny_schedule.scaled_to(LatentSize(5, 6, 8))
    scheduler.set_timesteps(schedule=longer)
    assert scheduler.active_schedule == longer and scheduler.schedule == tiny_schedule
    scheduler.set_timesteps(3)
    assert scheduler.active_schedule == tiny_schedule


def test_the_number_of_stages_is_fixed(tiny_schedule: ScaleSchedule) -> None:
    with pytest.raises(ValueError, match="num_inference_steps: got 50, expected 3"):
        ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule).set_timesteps(50)


def test_misuse_is_refused(tiny_schedule: ScaleSchedule) -> None:
    scheduler = ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule)
    sample = torch.zeros(1, 4, *tiny_schedule[0].grid.as_tuple())
    with pytest.raises(ValueError, match=r"timestep: got 999\.0, expected one of .* \(1000, 800, 500\)"):
        scheduler.step(sample, 999.0, sample)
    with pytest.raises(ValueError, match="timestep: got 1000, expected one of"):
        scheduler.step(sample, torch.tensor(1000), sample)
    with pytest.raises(ValueError, match="sample: got a 2x4x4 grid, expected 3x4x4 for stage 2"):
        scheduler.step(sample, scheduler.timesteps[1], sample)
    scheduler.set_timesteps()
    for timestep, grid in zip(scheduler.timesteps, tiny_schedule.grids, strict=True):
        done = torch.zeros(1, 4, *grid.as_tuple())
        scheduler.step(done, timestep, done)
    with pytest.raises(ValueError, match="all 3 stages are done"):
        scheduler.step(done, timestep, done)


def test_a_begin_index_starts_in_the_middle(tiny_schedule: ScaleSchedule) -> None:
    scheduler = ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule)
    scheduler.set_begin_index(2)
    sample = torch.ones(1, 4, *tiny_schedule.target.as_tuple())
    output = scheduler.step(sample, scheduler.timesteps[2], sample)
    assert scheduler.begin_index == 2 and scheduler.step_index == 3
    assert torch.equal(output.prev_sample, torch.full_like(sample, 0.5))


def test_noising_by_timestep_is_noising_by_sigma(tiny_schedule: ScaleSchedule) -> None:
    scheduler = ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule)
    x0 = torch.randn(2, 4, 3, 4, 4, generator=_generator())
    noise = torch.randn(2, 4, 3, 4, 4, generator=_generator(1))
    timesteps = torch.tensor([800.0, 250.0])
    got = scheduler.scale_noise(x0, timesteps, noise)
    torch.testing.assert_close(got, add_noise(x0, noise, torch.tensor([0.8, 0.25])))
    assert torch.equal(got, scheduler.add_noise(x0, noise, timesteps))
    assert scheduler.scale_noise(x0.bfloat16(), 500.0, noise).dtype == torch.bfloat16
    assert scheduler.scale_model_input(x0, timesteps[0]) is x0
    assert len(scheduler) == 1000 and scheduler.init_noise_sigma == 1.0
