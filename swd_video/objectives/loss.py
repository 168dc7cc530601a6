"""The `loss` section of a config: what the student is trained on."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator, model_validator

from swd_video.config import Section, or_from_outside
from swd_video.core.grid import LatentSize
from swd_video.models.spec import ModelSpec
from swd_video.objectives.dmd import DmdConfig
from swd_video.objectives.encoders import CriticEncoderConfig, WindowConfig
from swd_video.objectives.gan import GanConfig
from swd_video.objectives.mmd import MmdConfig, MmdTermConfig
from swd_video.objectives.objective import ObjectiveConfig
from swd_video.objectives.passes import Pass


def _refuse_unknown(value: Any) -> Any:
    if not isinstance(value, ObjectiveConfig):
        kind = value.get("kind") if isinstance(value, dict) else value
        raise ValueError(f"kind: got {kind!r}, expected an importable module:Class of an objective")
    return value


OtherObjective = Annotated[
    SerializeAsAny[ObjectiveConfig],
    BeforeValidator(_refuse_unknown),
    or_from_outside("objectives", ObjectiveConfig),
]


class LossConfig(Section):
    """What the student is trained on: the weighted sum of its parts."""

    mmd: tuple[MmdTermConfig, ...] = (MmdTermConfig(),)
    """Comparisons of features, which are added up; an empty list for none. Those of one encoder and the same noise
    levels share its passes."""
    group: int = Field(default=1, ge=1)
    """Clips of the same caption that a micro-batch holds for each of its prompts; comparisons may join them."""
    window: WindowConfig = WindowConfig()
    """What encoders of pixels are shown."""
    dmd: DmdConfig | None = None
    """Distribution matching with a critic; null leaves it out."""
    gan: GanConfig | None = None
    """A discriminator; null leaves it out."""
    others: tuple[OtherObjective, ...] = ()
    """Objectives from outside of the package, each with `kind: module:Class` and keys of its own."""

    @field_validator("mmd", mode="before")
    @classmethod
    def _check_list(cls, terms: Any) -> Any:
        if isinstance(terms, dict):
            raise ValueError(
                "got keys, expected a list of comparisons, each with all its keys: "
                "`mmd: [{kernel: {kind: pseudo_huber}, block: 4}]`; group and window are loss.group and loss.window"
            )
        return terms

    @model_validator(mode="after")
    def _check_group(self) -> "LossConfig":
        joins = [term.join != "none" for term in self._comparisons]
        judged = 1 if self.gan is None else self.gan.group
        if judged not in (1, self.group):
            raise ValueError(
                f"gan: group is {judged}, and loss.group {self.group}; set both to the same number"
            )
        if self.group > 1 and judged == 1 and not any(joins):
            raise ValueError(
                f"group {self.group}, but no comparison of mmd joins clips; set join to tokens or means, or gan.group "
                f"to {self.group}, or group to 1"
            )
        if self.group == 1 and any(joins):
            raise ValueError(
                "mmd: join needs several clips to a prompt; set group to 2 or more, or join to none"
            )
        return self

    @model_validator(mode="after")
    def _check_parts(self) -> "LossConfig":
        if not self.objectives:
            raise ValueError(
                "nothing to train on: no comparison of mmd has a weight, and there is no dmd, no gan and no other; "
                "add one"
            )
        if self.window != WindowConfig() and not any(term.encoder.sees_pixels for term in self._comparisons):
            raise ValueError("window: no encoder here sees pixels; name one, or leave window out")
        for name, part in (*(("mmd", term) for term in self._comparisons), ("gan", self.gan)):
            if self.dmd is None and part is not None and isinstance(part.encoder, CriticEncoderConfig):
                raise ValueError(
                    f"{name}: an encoder is critic, but nothing trains one; add loss.dmd, or take the teacher's blocks"
                )
        return self

    @property
    def _comparisons(self) -> list[MmdTermConfig]:
        return [term for term in self.mmd if term.weight > 0]

    @property
    def objectives(self) -> dict[str, ObjectiveConfig]:
        """Its parts by their keys below `loss`, which name them in logs, too."""
        parts: dict[str, ObjectiveConfig | None] = {}
        if self._comparisons:
            parts["mmd"] = MmdConfig(terms=self.mmd, group=self.group, window=self.window)
        parts |= {"dmd": self.dmd, "gan": self.gan}
        parts |= {f"others[{index}]": other for index, other in enumerate(self.others)}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def num_updates(self) -> int:
        """Most times that something beside the student learns in a step; for all but the first it makes new clips."""
        return max(part.num_updates for part in self.objectives.values())

    def num_updates_at(self, stage_index: int) -> int:
        """The same of what learns at a stage."""
        parts = self.objectives.values()
        return max((part.num_updates for part in parts if part.has_say(stage_index)), default=1)

    def passes(self, spec: ModelSpec, grid: LatentSize, stage_index: int) -> dict[str, list[Pass]]:
        """What each objective runs for clips of a stage, what learns beside the student included, by its name.

        Nothing where it has no say.
        """
        return {
            name: part.passes(spec, grid) if part.has_say(stage_index) else []
            for name, part in self.objectives.items()
        }
