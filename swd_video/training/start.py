"""A finished student's weights, from which another training goes on."""

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import ModelMixin
from torch import Tensor, nn

from swd_video.config import ConfigError
from swd_video.core.schedule import ScaleSchedule
from swd_video.core.upsampler import LatentUpsampler, growing_pairs
from swd_video.models.checkpoints import check_finite, check_fit, load_network
from swd_video.models.fingerprint import fingerprint_folders
from swd_video.student.student import Student
from swd_video.training.config import FullTrainConfig, TrainConfig, UpsamplerConfig


def start_of(train: TrainConfig) -> Student | None:
    """The student that a training goes on from: a shipped one, or one in a folder; None where it begins anew.

    Raises:
        ConfigError: if there is none of that name, or it is no whole transformer.
    """
    name = train.start if isinstance(train, FullTrainConfig) else None
    if name is None:
        return None
    try:
        student = Student.load(name)
    except ValueError as error:
        raise ConfigError(f"train.start: {error}") from None
    if student.kind != "full":
        raise ConfigError(
            f"train.start: {name} is a student of kind {student.kind}, expected kind full; name another, or null."
        )
    return student


def starts_with_upsampler(train: TrainConfig) -> bool:
    """Whether it goes on from a student with an upsampler; one that is not on this machine is taken for such."""
    try:
        student = start_of(train)
    except ConfigError:
        return True
    return student is not None and student.scheduler.upsampler is not None


def digest_of_start(train: TrainConfig) -> str | None:
    """A digest of the weights that it goes on from; see `start_of`."""
    student = start_of(train)
    return None if student is None else fingerprint_folders([student.weights_path])


def start_from(student: Student | None, network: nn.Module) -> None:
    """Give a network the weights of a student.

    Raises:
        ConfigError: if they are those of no transformer of the same shape.
    """
    if student is not None:
        network.load_state_dict(_weights(student, network))


def kept_upsampler(
    student: Student | None, config: UpsamplerConfig | None, schedule: ScaleSchedule, device: torch.device
) -> LatentUpsampler | None:
    """What takes the student's clips from grid to grid, where it has that and the config names no file.

    Raises:
        ConfigError: if it goes between other grids, or the config wants none, or one of another shape.
    """
    upsampler = None if student is None else student.scheduler.upsampler
    if upsampler is None or not growing_pairs(schedule) or (config is not None and config.file is not None):
        return None
    kept = {"width": upsampler.width, "depth": upsampler.depth}
    if config is None or config.model_dump(include=set(kept)) != kept:
        raise ConfigError(
            f"upsampler: that of train.start is kept, {kept}, and another is asked for, or none; "
            "set upsampler to that, or give upsampler.file a name to train another."
        )
    if set(growing_pairs(schedule)) - set(upsampler.pairs):
        raise ConfigError(
            "train.start: its upsampler goes between other grids than those of the schedule; give upsampler.file a "
            "name to train another, or name another student."
        )
    return upsampler.to(device)


def save_part_of_the_way(
    student: Student,
    before: Student | None,
    train: TrainConfig,
    folder: Path,
    weights: ModelMixin | Mapping[str, Tensor],
) -> None:
    """Save a student; one that went on from another as far from that one's weights as `train.kept_share` says.

    Source: network interpolation, ESRGAN (arXiv 1809.00219), section 3.4.
    """
    if before is not None and isinstance(train, FullTrainConfig) and isinstance(weights, ModelMixin):
        others = _weights(before, weights)
        with torch.no_grad():
            for name, weight in weights.state_dict().items():
                weight.copy_(torch.lerp(others[name].to(weight), weight, train.kept_share))
    student.save(folder, weights)


def _weights(student: Student, network: nn.Module) -> dict[str, Tensor]:
    try:
        there = load_network(student.transformer_class(), student.weights_path, torch.float32).state_dict()
        check_fit(student.weights_path, there, network.state_dict(), "the teacher")
        check_finite(student.weights_path, there)
    except ValueError as error:
        raise ConfigError(f"train.start: {error}") from None
    return dict(there)
