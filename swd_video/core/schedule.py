"""Scale schedules: which noise level is denoised on which grid.

Source: Scale-wise Distillation of Diffusion Models (arXiv 2503.16397), section 4.1.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from swd_video.core.grid import Compression, LatentSize
from swd_video.core.local_attention import LocalAttention

# A tenth of a timestep of 1000: closer stages cannot be told apart once they are float32 timesteps.
_MIN_SIGMA_STEP = 1e-4
_USUAL = Compression()
_KEYS = ("sigma", "frames", "height", "width")
_ATTENTION = "attention"


@dataclass(frozen=True)
class Stage:
    """One evaluation of the student: a noise level and the latent grid it is seen on.

    Attributes:
        sigma: noise level in (0, 1]; 1 is pure noise.
        grid: latent frames, height and width.
        attention: the windows in which its tokens attend to each other; None: each attends to all.
    """

    sigma: float
    grid: LatentSize
    attention: LocalAttention | None = None


@dataclass(frozen=True)
class ScaleSchedule:
    """Stages from pure noise on a small grid to the target grid, checked once, here.

    The first sigma is 1, sigmas strictly decrease (by at least 0.0001) and stay above 0, and no axis of the
    grid ever shrinks. The grid of the last stage is the target.

    Raises:
        ValueError: naming the stage that breaks one of these rules.
    """

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("schedule: got no stages, expected at least one. Add a stage with sigma 1.")
        if self.stages[0].sigma != 1:
            raise ValueError(
                f"schedule[0]: got sigma {self.stages[0].sigma}, expected 1; sampling starts from "
                "pure noise. Set the first sigma to 1."
            )
        for index in range(1, len(self.stages)):
            _check_follows(index, self.stages[index - 1], self.stages[index])

    def __len__(self) -> int:
        return len(self.stages)

    def __iter__(self) -> Iterator[Stage]:
        return iter(self.stages)

    def __getitem__(self, index: int) -> Stage:
        return self.stages[index]

    def __str__(self) -> str:
        return " -> ".join(f"{stage.grid} at {stage.sigma:g}" for stage in self.stages)

    @property
    def target(self) -> LatentSize:
        """The grid of the last stage, and of the sample."""
        return self.stages[-1].grid

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Noise level of every stage."""
        return tuple(stage.sigma for stage in self.stages)

    @property
    def grids(self) -> tuple[LatentSize, ...]:
        """Latent grid of every stage."""
        return tuple(stage.grid for stage in self.stages)

    @property
    def distinct_grids(self) -> tuple[LatentSize, ...]:
        """The grids in stage order, each once."""
        return tuple(dict.fromkeys(self.grids))

    @property
    def first_half(self) -> int:
        """How many stages a draft takes where nobody measured after how many it tells the clip."""
        return -(-len(self) // 2)

    def until(self, count: int) -> "ScaleSchedule":
        """The first stages alone, at least one."""
        return ScaleSchedule(self.stages[:count])

    def tokens(self, compression: Compression) -> list[int]:
        """Tokens of a model's transformer in every stage.

        Raises:
            ValueError: naming the first stage whose grid or window is not legal for the model, and the nearest that is.
        """
        tokens = []
        for index, stage in enumerate(self):
            where = f"schedule[{index}]"
            try:
                tokens.append(compression.tokens(stage.grid))
                if stage.attention is not None:
                    where += f".{_ATTENTION}"
                    compression.tokens(stage.attention.window)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
        return tokens

    def scaled_to(self, target: LatentSize, compression: Compression = _USUAL) -> "ScaleSchedule":
        """The same noise levels for clips of another length or size.

        Every grid keeps its share of the target: of the height, of the width, and of the time between first
        and last frame (frames less one, and less those that a VAE repeats), rounded to whole patches. A
        one-picture schedule says nothing about time, so all its stages take the new number of frames. Windows of
        attention keep their size.

        Raises:
            ValueError: if `target` is not legal.
        """
        if target == self.target:
            return self
        compression.tokens(target)
        return ScaleSchedule(
            tuple(
                replace(stage, grid=self._scaled_grid(stage.grid, target, compression))
                for stage in self.stages
            )
        )

    def _scaled_grid(self, grid: LatentSize, target: LatentSize, compression: Compression) -> LatentSize:
        old, patch, picture = self.target, compression.patch, 1 + compression.repeated_frames
        if old.frames <= picture:
            frames = target.frames
        else:
            share, whole, new = (size.frames - picture for size in (grid, old, target))
            frames = _scaled(share, whole, new, 1, low=0) + picture
            frames = min(target.frames, -(-frames // patch[0]) * patch[0])
        return LatentSize(
            frames,
            _scaled(grid.height, old.height, target.height, patch[1], low=patch[1]),
            _scaled(grid.width, old.width, target.width, patch[2], low=patch[2]),
        )

    def as_dict(self) -> list[dict[str, Any]]:
        """The stages as plain values, as configs and `scheduler_config.json` hold them."""
        return [
            {"sigma": stage.sigma, **asdict(stage.grid)}
            | ({} if stage.attention is None else {_ATTENTION: asdict(stage.attention)})
            for stage in self.stages
        ]

    @classmethod
    def from_dict(cls, stages: Sequence[Mapping[str, Any]]) -> "ScaleSchedule":
        """The inverse of `as_dict`.

        Raises:
            ValueError: naming the stage and the key that is missing, unknown, or not a number of its kind.
        """
        return cls(tuple(_read_stage(index, stage) for index, stage in enumerate(stages)))


def _check_follows(index: int, before: Stage, stage: Stage) -> None:
    where = f"schedule[{index}]"
    if not stage.sigma >= _MIN_SIGMA_STEP:
        raise ValueError(f"{where}: got sigma {stage.sigma}, expected above 0 (at least {_MIN_SIGMA_STEP}).")
    if before.sigma - stage.sigma < _MIN_SIGMA_STEP:
        raise ValueError(
            f"{where}: sigma {stage.sigma} cannot follow {before.sigma}; sigmas must decrease by at least "
            f"{_MIN_SIGMA_STEP}. Reorder stages or drop it."
        )
    for axis, words in (
        ("frames", "latent frames"),
        ("height", "latents of height"),
        ("width", "latents of width"),
    ):
        now, then = getattr(stage.grid, axis), getattr(before.grid, axis)
        if now < then:
            raise ValueError(
                f"{where}: {now} {words} cannot follow {then}; stages must not shrink. "
                "Reorder stages or drop it."
            )


def _read_stage(index: int, stage: Mapping[str, Any]) -> Stage:
    where = f"schedule[{index}]"
    if not isinstance(stage, Mapping) or set(stage) - {_ATTENTION} != set(_KEYS):
        got = ", ".join(map(str, stage)) if isinstance(stage, Mapping) else repr(stage)
        raise ValueError(
            f"{where}: got {got or 'nothing'}, expected exactly the keys {', '.join(_KEYS)}, with {_ATTENTION} "
            "or without."
        )
    sigma = stage["sigma"]
    if isinstance(sigma, bool) or not isinstance(sigma, int | float):
        raise ValueError(f"{where}.sigma: got {sigma!r}, expected a number above 0 and at most 1.")
    for axis in _KEYS[1:]:
        value = stage[axis]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{where}.{axis}: got {value!r}, expected a whole number of at least 1.")
    grid = LatentSize(stage["frames"], stage["height"], stage["width"])
    return Stage(float(sigma), grid, _read_attention(f"{where}.{_ATTENTION}", stage.get(_ATTENTION)))


def _read_attention(where: str, keys: Any) -> LocalAttention | None:
    try:
        return None if keys is None else LocalAttention(**keys)
    except TypeError:
        raise ValueError(
            f"{where}: got {keys!r}, expected frames, height and width of a window, and where wanted shift and "
            "global_every."
        ) from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _scaled(value: int, old: int, new: int, step: int, low: int) -> int:
    # Halves round up in whole numbers: monotone in `value`, so a schedule that grows keeps growing.
    nearest = (2 * value * new + old * step) // (2 * old * step) * step
    return max(low, min(new, nearest))
