"""A finished student's weights, from which another training goes on."""

import torch
from torch import Tensor, nn

from swd_video.config import ConfigError
from swd_video.core.schedule import ScaleSchedule
from swd_video.core.upsampler import LatentUpsampler, growing_pairs
from swd_video.models.checkpoints import check_finite, check_fit, load_network
from swd_video.models.fingerprint import fingerprint_folders
from swd_video.student.student import Student


def digest_of_start(name: str) -> str:
    """A digest of the weights; see `find_start`."""
    return fingerprint_folders([find_start(name).weights_path])


def start_from(student: Student, network: nn.Module) -> None:
    """Give a network the weights of a student.

    Raises:
        ConfigError: if they are those of no transformer of the same shape.
    """
    network.load_state_dict(_weights(student, network))


@torch.no_grad()
def go_back(student: Student, network: nn.Module, kept_share: float) -> None:
    """Take a network's weights back towards those of the student that it went on from; 1 leaves them.

    Source: network interpolation, ESRGAN (arXiv 1809.00219), section 3.4.
    """
    before = _weights(student, network)
    for name, weight in network.state_dict().items():
        weight.copy_(torch.lerp(before[name].to(weight), weight, kept_share))


def kept_upsampler(student: Student, schedule: ScaleSchedule, device: torch.device) -> LatentUpsampler | None:
    """What takes the student's clips from grid to grid, where it has such a network.

    Raises:
        ConfigError: if it goes between other grids.
    """
    upsampler = student.scheduler.upsampler
    if upsampler is not None and set(growing_pairs(schedule)) - set(upsampler.pairs):
        raise ConfigError(
            "train.start: its upsampler goes between other grids than those of the schedule; give upsampler.file a "
            "name to train another, or name another student."
        )
    return None if upsampler is None else upsampler.to(device)


def _weights(student: Student, network: nn.Module) -> dict[str, Tensor]:
    try:
        there = load_network(student.transformer_class(), student.weights_path, torch.float32).state_dict()
        check_fit(student.weights_path, there, network.state_dict(), "the teacher")
        check_finite(student.weights_path, there)
    except ValueError as error:
        raise ConfigError(f"train.start: {error}") from None
    return dict(there)


def find_start(name: str) -> Student:
    """The student of `train.start`: a shipped one, or one in a folder.

    Raises:
        ConfigError: if there is none, or it is no whole transformer.
    """
    try:
        student = Student.load(name)
    except ValueError as error:
        raise ConfigError(f"train.start: {error}") from None
    if student.kind != "full":
        raise ConfigError(
            f"train.start: {name} is a student of kind {student.kind}, expected kind full; name another, or null."
        )
    return student
