"""A finished student's weights, from which another training goes on."""

import torch
from torch import nn

from swd_video.config import ConfigError
from swd_video.models.checkpoints import check_finite, check_fit, load_network
from swd_video.models.fingerprint import fingerprint_folders
from swd_video.student.student import Student


def digest_of_start(name: str) -> str:
    """A digest of the weights.

    Raises:
        ConfigError: if there is no such student, or it is no whole transformer.
    """
    return fingerprint_folders([_find(name).weights_path])


def start_from(name: str, network: nn.Module) -> Student:
    """Give a network the weights of a student: a shipped one, or one in a folder.

    Raises:
        ConfigError: if there is none, or it is no transformer of the same shape.
    """
    student = _find(name)
    try:
        there = load_network(student.transformer_class(), student.weights_path, torch.float32)
        check_fit(student.weights_path, there.state_dict(), network.state_dict(), "the teacher")
        check_finite(student.weights_path, there.state_dict())
    except ValueError as error:
        raise ConfigError(f"train.start: {error}") from None
    network.load_state_dict(there.state_dict())
    return student


def _find(name: str) -> Student:
    try:
        student = Student.load(name)
    except ValueError as error:
        raise ConfigError(f"train.start: {error}") from None
    if student.kind != "full":
        raise ConfigError(
            f"train.start: {name} is a student of kind {student.kind}, expected kind full; name another, or null."
        )
    return student
