"""A student that plans clips and cannot make them: read from config files and tokenizers alone, however large it is."""

import copy
from typing import Any

import torch
import transformers

from swd_video.cost.architecture import Architecture, load_architecture
from swd_video.models.decoding import load_decoder
from swd_video.models.loading import LoadOptions, read_model_index
from swd_video.plain_text import first_line, sentence
from swd_video.student.pipeline import ScaleWisePipeline
from swd_video.student.student import Student
from swd_video.studio.model import ModelFacts, describe_model


def load_model_for_planning(
    name: str,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    options: LoadOptions,
    hashed: bool,
) -> tuple[Architecture, ModelFacts]:
    """The same facts that `load_model_for_rendering` gives, without the networks.

    Where its files are not `hashed`, its fingerprint, by which finished clips are told, is empty.

    Raises:
        ValueError: There is no such student, or its config files or its tokenizer are not on this machine.
    """
    student = Student.load(name)
    base = student.base_path
    architecture = load_architecture(base, options.adapter or student.adapter)
    model = architecture.model
    for part, entry in read_model_index(base).items():
        if part.startswith("tokenizer") and isinstance(entry, list) and entry[1]:
            setattr(model.pipe, part, _load_tokenizer(base, part, entry[1]))
    if isinstance(options.decoder, str):  # the VAE
        model.decoder = None
    else:
        decoder = student.decoder if options.decoder is None else load_decoder(options.decoder, model, base)
        model.decoder = None if decoder is None else copy.deepcopy(decoder).to(dtype=dtype)
    pipe = ScaleWisePipeline(model, student.scheduler, student.positions)
    fingerprint = student.fingerprint(options.transformer_file) if hashed else ""
    facts = describe_model(
        name,
        student,
        pipe,
        fingerprint=fingerprint,
        device=device,
        dtype=dtype,
        options=options,
        architecture=architecture,
    )
    return architecture, facts


def _load_tokenizer(base: str, part: str, class_name: str) -> Any:
    try:
        return getattr(transformers, class_name).from_pretrained(base, subfolder=part)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model {base!r}: its {part} cannot be read: {sentence(first_line(error))} Render with it once, or name a "
            "folder that has it."
        ) from error
