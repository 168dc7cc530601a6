import pytest
import torch
from diffusers import WanPipeline
from torch import nn

from swd_video.cost.speed import (
    Sampler,
    Timing,
    count_tflops,
    machine_name,
    median_seconds,
    time_interleaved,
    time_once,
)
from swd_video.models.devices import cpu_name


class Clock:
    """Seconds that pass when told to, so that no busy machine adds to them."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.now / 2

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Sleeper(nn.Module):
    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def forward(self) -> None:
        self.clock.sleep(self.seconds)


def test_seconds_are_attributed_to_the_modules_that_spend_them(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("swd_video.cost.speed.time", clock)
    heavy, light = Sleeper(clock, 0.04), Sleeper(clock, 0.01)

    def run() -> None:
        heavy()
        heavy()
        light()
        clock.sleep(0.02)

    timing = time_once(Sampler(run, {"heavy": heavy, "light": light}))
    assert timing.calls == {"heavy": 2, "light": 1}
    assert timing.parts["heavy"] == pytest.approx(0.08)
    assert timing.parts["light"] == pytest.approx(0.01)
    assert timing.total - sum(timing.parts.values()) == pytest.approx(0.02)
    assert timing.processor == pytest.approx(timing.total / 2)
    assert not heavy._forward_hooks and not heavy._forward_pre_hooks


def test_rounds_are_interleaved_and_rotated() -> None:
    order: list[str] = []
    samplers = {name: Sampler(lambda name=name: order.append(name)) for name in "abc"}
    timings = time_interleaved(samplers, rounds=3, warmup=1)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab"
    assert {name: len(runs) for name, runs in timings.items()} == {"a": 3, "b": 3, "c": 3}


def test_median_ignores_one_slow_run() -> None:
    runs = [Timing(t, {"part": t / 2}, {"part": 1}) for t in (1.0, 1.1, 0.9, 1.05, 30.0)]
    assert median_seconds(runs).value == 1.05
    part = median_seconds(runs, "part")
    assert part.value == 0.525 and part.low >= 0.45 and part.high <= 15.0


def test_flops_of_attention_are_counted_on_the_cpu() -> None:
    """Two products of 2 * heads * queries * keys * channels each, besides the projections."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Linear(32, 96, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.project(x).unflatten(-1, (3, 2, 16)).permute(2, 0, 3, 1, 4)
            return nn.functional.scaled_dot_product_attention(q, k, v)

    net = Attention()
    with torch.inference_mode():
        counted = count_tflops(lambda: net(torch.randn(3, 40, 32)), {"net": net})
    expected = 2 * 3 * 40 * 32 * 96 + 2 * (2 * 3 * 2 * 40 * 40 * 16)
    assert counted["net"] * 1e12 == pytest.approx(expected)


def test_flops_of_a_real_pipeline_grow_with_its_steps(tiny_wan_pipe: WanPipeline) -> None:
    parts = {"transformer": tiny_wan_pipe.transformer, "vae": tiny_wan_pipe.vae.decoder}

    def tflops(steps: int, guidance: float) -> dict[str, float]:
        return count_tflops(
            lambda: tiny_wan_pipe(
                "a cat",
                height=16,
                width=16,
                num_frames=5,
                num_inference_steps=steps,
                guidance_scale=guidance,
                max_sequence_length=16,
            ),
            parts,
        )

    one, three, guided = tflops(1, 1.0), tflops(3, 1.0), tflops(3, 3.0)
    assert one["transformer"] > 0 and one["vae"] > 0
    assert three["transformer"] == pytest.approx(3 * one["transformer"])
    assert guided["transformer"] == pytest.approx(2 * three["transformer"])
    assert guided["vae"] == one["vae"]


def test_the_machine_is_that_of_the_device() -> None:
    assert machine_name("cpu") == cpu_name()
    # Torch need not see it: another device's figures shall not pass for the processor's.
    assert machine_name("mps") == f"mps, {cpu_name()}"
