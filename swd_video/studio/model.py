"""The model of a script: loaded with the facts that planning and skipping need, or those alone, without weights."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from swd_video.core.grid import PixelSize
from swd_video.core.schedule import ScaleSchedule
from swd_video.environment import collecting_no_garbage
from swd_video.files import alone_in
from swd_video.models.decoding import load_decoder
from swd_video.models.devices import Device, Precision, choose_device, choose_precision
from swd_video.models.fingerprint import weights_digest
from swd_video.models.loading import DEFAULT_OPTIONS, LoadOptions, read_model_index
from swd_video.plain_text import first_line, sentence
from swd_video.student.pipeline import ScaleWisePipeline
from swd_video.student.student import Student
from swd_video.studio.progress import Progress

if TYPE_CHECKING:
    from swd_video.cost.architecture import Architecture
    from swd_video.cost.drafting import DraftCost

_OF_DECODING = {"vae_tiling", "vae_slicing", "decode_timestep", "decode_noise"}


@dataclass(frozen=True)
class ScriptModel:
    """A student that can make clips, or only plan them, and what planning needs to know about it.

    Attributes:
        name: As the script names it; written into every clip.
        pipe: What makes clips; without weights where they are only planned.
        fingerprint: Hash of its files.
        tokenizer: Tells which words it knows.
        device: Kind of device that it runs on, for example "cpu".
        dtype: Precision, for example "float32".
        options: How it is fitted into memory and run, where that is not the default; some move pixels a little.
        decoding: The same of what only decoding depends on.
        decoder: Hash of what clips are shown through; empty for the VAE.
        takes_pictures: Whether clips can start from a picture.
        batch: How many takes it computes together, which rounds differently.
        draft_stages: After how many stages a draft tells the clip, where that was measured.
        count_draft: Tells, for stages and how many of them a draft takes, the counted operations of the draft and of
            the whole clip, both shown; None where they cannot be counted.
    """

    name: str
    pipe: ScaleWisePipeline
    fingerprint: str
    tokenizer: Any
    device: str
    dtype: str
    options: tuple[str, ...] = ()
    decoding: tuple[str, ...] = ()
    decoder: str = ""
    takes_pictures: bool = False
    batch: int = 1
    draft_stages: int | None = None
    count_draft: Callable[[ScaleSchedule, int], tuple[int, int] | None] = lambda schedule, stages: None

    @property
    def schedule(self) -> ScaleSchedule:
        """Its stages at its native size."""
        return self.pipe.scheduler.schedule

    def schedule_of(self, size: PixelSize) -> ScaleSchedule:
        """The stages of clips of a size."""
        return self.pipe.schedule_for(*size.as_tuple())


def open_model(
    model: str | ScriptModel,
    out: Path,
    progress: Progress,
    *,
    device: Device,
    dtype: Precision,
    options: LoadOptions,
) -> ScriptModel:
    """The model of a run that writes into a folder; one that is loaded stays as it is.

    Loading takes long: that nothing can be written there shows before. The progress shows the stages in the place of
    the pipeline's own bar.

    Raises:
        ValueError: There is no such student, or it cannot be loaded.
        FolderInUseError: Another run is writing there.
        OSError: The folder cannot be written to.
    """
    if isinstance(model, str):
        with alone_in(out):
            pass
        place = choose_device(device)
        precision = choose_precision(dtype, place)
        progress.note(f"loading {model} on {place} in {str(precision).removeprefix('torch.')}")
        with collecting_no_garbage():
            model = load_model_for_rendering(model, device=place, dtype=precision, options=options)
    model.pipe.set_progress_bar_config(disable=True)
    return model


def load_model_for_rendering(
    name: str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    options: LoadOptions = DEFAULT_OPTIONS,
) -> ScriptModel:
    """Load a student, whose name is as `Student.load` takes it, and gather what planning needs.

    Raises:
        ValueError: There is no such student, or it cannot be loaded.
    """
    student = Student.load(name)
    pipe = student.pipeline(device=device, dtype=dtype, options=options)
    fingerprint = student.fingerprint(options.transformer_file)
    return _describe(
        name, student, pipe, fingerprint=fingerprint, device=device, dtype=dtype, options=options
    )


def load_model_for_planning(
    name: str,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    options: LoadOptions,
    hashed: bool,
) -> "tuple[Architecture, ScriptModel]":
    """The same facts that `load_model_for_rendering` gives, of config files and tokenizers alone, however large it is.

    Where its files are not `hashed`, its fingerprint, by which finished clips are told, is empty.

    Raises:
        ValueError: There is no such student, or its config files or its tokenizer are not on this machine.
    """
    from swd_video.cost.architecture import load_architecture

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
    facts = _describe(
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


def _describe(
    name: str,
    student: Student,
    pipe: ScaleWisePipeline,
    *,
    fingerprint: str,
    device: torch.device | str,
    dtype: torch.dtype,
    options: LoadOptions,
    architecture: "Architecture | None" = None,
) -> ScriptModel:
    """What planning needs of a student's pipeline, whose networks need no weights for that but the decoder."""
    decoder = "" if pipe.model.decoder is None else weights_digest(pipe.model.decoder)
    # The files' bytes are in the hashes; where they lie does not matter.
    settings = options.model_dump(exclude_defaults=True, exclude={"transformer_file", "decoder"})
    texts = {key: f"{key} {value}" for key, value in settings.items()}
    return ScriptModel(
        name=name,
        pipe=pipe,
        fingerprint=fingerprint,
        tokenizer=pipe.model.pipe.tokenizer,
        device=torch.device(device).type,
        dtype=str(dtype).removeprefix("torch."),
        takes_pictures=pipe.model.takes_first_frame,
        options=tuple(text for key, text in texts.items() if key not in _OF_DECODING),
        decoding=(
            *(text for key, text in texts.items() if key in _OF_DECODING),
            *([f"decoder {decoder}"] if decoder else []),
        ),
        decoder=decoder,
        draft_stages=student.draft_stages,
        count_draft=_draft_counter(
            pipe, architecture or student.base_path, options.adapter or student.adapter
        ),
    )


def _draft_counter(
    pipe: ScaleWisePipeline, base: "str | Architecture", adapter: str | None
) -> Callable[[ScaleSchedule, int], tuple[int, int] | None]:
    @cache
    def load() -> "DraftCost | None":
        # Here, as it takes its time, and only drafts are counted.
        from swd_video.cost.drafting import DraftCost

        try:
            return DraftCost(pipe, base, adapter)
        except (ValueError, OSError):
            return None

    def count(schedule: ScaleSchedule, stages: int) -> tuple[int, int] | None:
        cost = load()
        return None if cost is None else (cost.of_draft(schedule, stages), cost.of_clip(schedule))

    return count
