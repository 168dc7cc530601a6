"""A student: what distillation made of a teacher, on disk and in memory.

Its folder holds what distillation changed, and the name of the rest:

- `student.json`: `{"format": 1, "base_model": "pocket-wan", "kind": "full" | "lora"}`, and what else `Student` knows
  under `"positions"`, `"encoders"` (`trained_through`), `"transformer_file"`, `"made_of"`, `"adapter"` and
  `"draft_stages"`;
  `"adapter"`: of a model that the package does not know, where its adapter is found;
- `scheduler/`: the stages, and how its clips go from grid to grid;
- `decoder.safetensors`, where it carries what its clips are shown through in the VAE's place;
- `transformer/` (kind "full") or `pytorch_lora_weights.safetensors` (kind "lora", diffusers' keys).

Which family a student is of says its base model.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from diffusers import ModelMixin
from torch import Tensor

from swd_video.core.decoder import StreamingDecoder
from swd_video.core.schedule import ScaleSchedule
from swd_video.files import expand_home, path_from, whole_folder, write_json
from swd_video.models.checkpoints import (
    INDEX_NAME,
    cast_network,
    check_finite,
    check_fit,
    empty_network,
    errors_in_one_line,
    find_weights,
    load_network,
    read_json,
    read_shapes,
    stored_dtype,
)
from swd_video.models.decoding import load_decoder
from swd_video.models.fingerprint import fingerprint_folders
from swd_video.models.loading import (
    DECODER_FILE_NAME,
    DEFAULT_OPTIONS,
    STUDENT_FILE_NAME,
    LoadOptions,
    adapt,
    adapter_of,
    load_pipeline,
    model_folder,
    prepare_pipeline,
    read_model_index,
    resolve_model_path,
    shipped_models,
)
from swd_video.models.lora import check_lora, join_lora
from swd_video.models.single_file import load_transformer_file
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.pipeline import ScaleWisePipeline
from swd_video.student.student_file import (
    FORMAT,
    SCHEDULER_FOLDER,
    PixelNetwork,
    check_draft_stages,
    read_decoder,
    read_facts,
    read_scheduler,
)

if TYPE_CHECKING:
    from swd_video.student.export import Export

LORA_FILE_NAME = "pytorch_lora_weights.safetensors"
STUDENT_FOLDER = "student"
"""Of a run's folder, where its student lies."""

TRANSFORMER_FOLDER = "transformer"
_KEY_PREFIX = "transformer."


@dataclass(frozen=True)
class Student:
    """All that belongs to a student, but the weights that it learned: these lie in its folder.

    Attributes:
        base_model: the teacher: a shipped model, a hub name, or a folder (relative to the student's, if it has one).
        scheduler: its stages, and what takes its clips from grid to grid.
        positions: "native" or "rescaled": how temporal positions were counted in training.
        trained_through: networks of pixels that its training looked through; None where that is not known.
        transformer_file: of additions, a single file that took the place of the teacher's transformer (relative to
            the student's folder, if it has one); None where there was none.
        made_of: what it follows from: digests of teacher, VAE, clips and the like, and settings, as far as known.
        adapter: of its base model, where it is from outside of the package, see `LoadOptions`.
        decoder: what its clips are shown through in the VAE's place, where it carries one.
        draft_stages: after how many stages a clip can be told from others, where that was measured.
        kind: "full" (a whole transformer), "lora" (additions to the teacher's), or "pipeline": the base model, whose
            scheduler has stages, is the student already.
        folder: where it lies; None for one that was not saved yet, or that lies on the hub.
    """

    base_model: str
    scheduler: ScaleWiseFlowMatchScheduler
    positions: str = "native"
    trained_through: tuple[PixelNetwork, ...] | None = None
    transformer_file: str | None = None
    made_of: Mapping[str, Any] | None = None
    adapter: str | None = None
    decoder: StreamingDecoder | None = None
    draft_stages: int | None = None
    kind: str = "full"
    folder: Path | None = None

    @property
    def schedule(self) -> ScaleSchedule:
        """Its stages, and the grids on which each of them runs."""
        return self.scheduler.schedule

    @classmethod
    def load(cls, name_or_path: str | Path) -> "Student":
        """Read a student, but for its weights and its base model.

        Args:
            name_or_path: a shipped student ("pocket-wan-swd"), a student folder, or the folder of a pipeline whose
                scheduler has stages.

        Raises:
            ValueError: if there is no such student, or its files are not what this version writes.
        """
        path = resolve_model_path(name_or_path)
        folder = Path(path) if Path(path).is_dir() else None
        with errors_in_one_line(f"model {str(name_or_path)!r}", (OSError,)):
            if folder is not None and (folder / STUDENT_FILE_NAME).is_file():
                facts, scheduler = read_facts(folder), read_scheduler(folder / SCHEDULER_FOLDER)
                check_draft_stages(folder / STUDENT_FILE_NAME, facts["draft_stages"], scheduler.schedule)
                return cls(scheduler=scheduler, decoder=read_decoder(folder), folder=folder, **facts)
            index = read_model_index(path)
            if not is_student(path):
                raise ValueError(
                    f"model {str(name_or_path)!r}: got a {index.get('_class_name')}, expected a scale-wise student; "
                    "distill one from it first."
                )
            scheduler = (
                read_scheduler(folder / SCHEDULER_FOLDER)
                if folder is not None
                else ScaleWiseFlowMatchScheduler.from_pretrained(path, subfolder=SCHEDULER_FOLDER)
            )
            return cls(path, scheduler, decoder=read_decoder(folder), kind="pipeline", folder=folder)

    def save(self, folder: str | Path, weights: ModelMixin | Mapping[str, Tensor]) -> None:
        """Write it into a folder, whole or not at all; a student that is there is replaced.

        Args:
            folder: where; a base model that is a folder is recorded relative to it.
            weights: what it learned: a whole transformer, or low-rank additions under diffusers' keys, with or without
                the "transformer." in front, at scale 1 (alpha = rank).

        Raises:
            ValueError: if `folder` exists and is not a student's.
        """
        folder = Path(folder)
        if folder.exists() and any(folder.iterdir()) and not (folder / STUDENT_FILE_NAME).is_file():
            raise ValueError(
                f"{folder} is not empty and holds no {STUDENT_FILE_NAME}; choose another folder."
            )
        with whole_folder(folder, durable=True) as draft:
            self.scheduler.save_pretrained(draft / SCHEDULER_FOLDER)
            if isinstance(weights, Mapping):
                layers = {name.removeprefix(_KEY_PREFIX): tensor for name, tensor in weights.items()}
                named = {f"{_KEY_PREFIX}{name}": tensor.contiguous() for name, tensor in layers.items()}
                safetensors.torch.save_file(named, draft / LORA_FILE_NAME, metadata={"format": "pt"})
            else:
                weights.save_pretrained(draft / TRANSFORMER_FOLDER)
            self.write_facts(draft, "lora" if isinstance(weights, Mapping) else "full", folder)
            self.write_decoder(draft)

    def write_facts(self, draft: Path, kind: str, folder: Path) -> None:
        """Write `student.json` into a draft of `folder`, to which its paths are relative; `kind` is full or lora."""
        file, used = self.transformer_file, self.trained_through
        facts = {
            "format": FORMAT,
            "base_model": self.base_name(folder),
            "kind": kind,
            "positions": None if self.positions == "native" else self.positions,
            "encoders": None if used is None else [asdict(network) for network in used],
            "transformer_file": None
            if file is None or kind == "full"
            else path_from(folder, self._here(file)),
            "made_of": self.made_of,
            "adapter": self.adapter,
            "draft_stages": self.draft_stages,
        }
        facts = {key: value for key, value in facts.items() if value is not None}
        write_json(draft / STUDENT_FILE_NAME, facts)

    def write_decoder(self, folder: Path) -> None:
        """Write the decoder that it carries, where it carries one, into a folder."""
        if self.decoder is not None:
            self.decoder.save(folder / DECODER_FILE_NAME)

    def keep_draft_stages(self, count: int) -> "Student":
        """Note in its folder after how many stages a clip can be told from others.

        Returns:
            The student as it is now.

        Raises:
            ValueError: if it has not so many stages, or no folder of its own.
        """
        path = None if self.folder is None else self.folder / STUDENT_FILE_NAME
        if path is None or not path.is_file():
            raise ValueError(
                f"student {self.base_model!r}: has no {STUDENT_FILE_NAME} here in which that could be noted."
            )
        check_draft_stages(path, count, self.schedule)
        write_json(path, read_json(path) | {"draft_stages": count})
        return replace(self, draft_stages=count)

    def carry_decoder(self, file: str | Path | None) -> "Student":
        """Put a decoder into its folder, which its clips are shown through from now on; None takes out what is there.

        Returns:
            The student as it is now.

        Raises:
            ValueError: if there is no such decoder, it is of other latents, or the student has no folder.
        """
        if self.folder is None:
            raise ValueError(
                f"student {self.base_model!r}: has no folder here that a decoder could be put into."
            )
        if file is None:
            (self.folder / DECODER_FILE_NAME).unlink(missing_ok=True)
            return replace(self, decoder=None)
        stock = LoadOptions(adapter=self.adapter)
        model = adapt(load_pipeline(self.base_path, options=stock), self.base_path, self.folder, stock)
        student = replace(self, decoder=load_decoder(Path(file), model, self.base_path))
        student.write_decoder(self.folder)
        return student

    def base_name(self, folder: Path) -> str:
        """The teacher as files in `folder` name it: a path relative to it, or a name as it is."""
        name = self.base_model
        if name in shipped_models():
            return name
        path = self._here(expand_home(name))
        return path_from(folder, path) if path.is_dir() else name

    @property
    def base_path(self) -> str:
        """The folder or hub name of the teacher.

        Raises:
            ValueError: if it is not there.
        """
        beside = self._here(self.base_model)
        return resolve_model_path(beside if (beside / INDEX_NAME).is_file() else self.base_model)

    def file_for_transformer(self, asked: str | Path | None) -> Path | None:
        """The single file whose weights the transformer gets before the student's, where there is one.

        Raises:
            ValueError: if one is asked for, but the student has a whole transformer of its own.
        """
        if asked is not None and self.kind == "full":
            raise ValueError(
                f"load.transformer_file: {asked} would replace all that student {self.folder} learned; leave it out."
            )
        if asked is not None:
            return Path(asked)
        return None if self.transformer_file is None else self._here(self.transformer_file)

    def folders(self) -> list[Path]:
        """The folders whose files make it up: its own, and its base model's where that is another."""
        own = [] if self.folder is None else [self.folder]
        return own if self.kind == "pipeline" and own else [*own, model_folder(self.base_path)]

    def fingerprint(self, asked: str | Path | None = None) -> str:
        """A hash of all files that make it up; `asked` as for `file_for_transformer`."""
        file = self.file_for_transformer(asked)
        return fingerprint_folders(self.folders(), [] if file is None else [file])

    def pipeline(
        self,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        options: LoadOptions = DEFAULT_OPTIONS,
    ) -> ScaleWisePipeline:
        """The student and its base model, loaded and ready to sample.

        On CUDA the fastest attention that really runs is chosen.

        Raises:
            ValueError: if it cannot be loaded, or an option cannot work here.
        """
        if options.adapter is None:
            options = options.model_copy(update={"adapter": self.adapter})
        name = self.folder or self.base_model
        base, file = self.base_path, self.file_for_transformer(options.transformer_file)
        with errors_in_one_line(f"model {str(name)!r}", (OSError,)):
            transformer = None
            if self.kind == "full":
                path = self.weights_path
                transformer = load_network(self.transformer_class(), path, dtype)
                check_finite(path, transformer.state_dict())
            elif self.kind == "lora":
                transformer, file = self._joined_transformer(base, file, dtype), None
            stock = LoadOptions(transformer_file=file, adapter=options.adapter)
            pipe = load_pipeline(base, dtype=dtype, transformer=transformer, options=stock)
        prepare_pipeline(pipe, adapter_of(base, options), device=device, dtype=dtype, options=options)
        model = adapt(pipe, base, name, options, self.decoder)
        # Pipelines that run at once need a scheduler each.
        return ScaleWisePipeline(model, deepcopy(self.scheduler), self.positions)

    def _joined_transformer(self, base: str, file: Path | None, dtype: torch.dtype) -> ModelMixin:
        """The base model's transformer with the additions.

        They are summed in float32, as most of them are less than half a step of bfloat16, or stay beside: `adds_up`.
        """
        folder = model_folder(base)
        own = folder / TRANSFORMER_FOLDER
        fuse = adds_up(find_weights(own) if file is None else [file], dtype)
        read_as = torch.float32 if fuse else dtype
        network: Any
        if file is None:
            network = load_network(type(empty_network(own)), own, read_as)
        else:
            network = load_transformer_file(file, folder, read_as)
        tensors = check_lora(self.weights_path, network)
        with errors_in_one_line(self.weights_path):
            join_lora(network, tensors, fuse=fuse)
        cast_network(network, dtype)
        return network

    def export(self, out: Path, **options: Any) -> "Export":
        """Write it in a form that other tools read; see `export.export_student`."""
        # Here, as most students are sampled and never exported, and a hub's client takes its time.
        from swd_video.student.export import export_student

        return export_student(self, out, **options)

    @property
    def weights_path(self) -> Path:
        """Where what it learned lies."""
        assert self.folder is not None, "this student was not saved yet"
        return self.folder / (LORA_FILE_NAME if self.kind == "lora" else TRANSFORMER_FOLDER)

    def transformer_class(self) -> Any:
        """The class of its own transformer, whose files are looked at but not read.

        Raises:
            ValueError: if it is of another class than the base model's, broken, or its weights are not those of its
                configuration.
        """
        path = self.weights_path
        empty = empty_network(path)
        found, expected = type(empty).__name__, read_model_index(self.base_path)[TRANSFORMER_FOLDER][1]
        if found != expected:
            raise ValueError(
                f"student {self.folder}: is a {found}, its base model {self.base_path} has a {expected}; name its own "
                f"base model in {STUDENT_FILE_NAME}."
            )
        shapes = {name: shape for file in find_weights(path) for name, shape in read_shapes(file).items()}
        check_fit(path, shapes, empty.state_dict(), found)
        return type(empty)

    def _here(self, path: str | Path) -> Path:
        """A path as the student means it: from its own folder."""
        return Path(path) if self.folder is None else self.folder / path


def load_student(
    name_or_path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    options: LoadOptions = DEFAULT_OPTIONS,
) -> ScaleWisePipeline:
    """Load a student of any family, ready to sample: `Student.load` and `Student.pipeline` in one."""
    return Student.load(name_or_path).pipeline(device=device, dtype=dtype, options=options)


def adds_up(files: Sequence[Path], dtype: torch.dtype) -> bool:
    """Whether additions are summed with the weights of a base model's files where these are loaded in a dtype.

    Not where they are stored no finer than that: every sum would be rounded back to them.
    """
    stored = stored_dtype(files)
    is_finer = stored == torch.float32 or (stored, dtype) == (torch.float16, torch.bfloat16)
    return is_finer or dtype == torch.float32


def is_student(name_or_path: str | Path) -> bool:
    """Whether `load_student` takes a model: a student's folder, or a pipeline with a scale-wise scheduler.

    Raises:
        ValueError: if there is no such model.
    """
    path = resolve_model_path(name_or_path)
    if (Path(path) / STUDENT_FILE_NAME).is_file():
        return True
    index = read_model_index(path)
    return (index.get("scheduler") or [None])[-1] == ScaleWiseFlowMatchScheduler.__name__
