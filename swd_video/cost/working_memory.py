"""What sampling a clip holds at once beside weights, counted on shapes."""

import copy
import weakref
from collections.abc import Callable
from itertools import islice
from typing import Any, no_type_check

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from swd_video.core.schedule import ScaleSchedule
from swd_video.cost.architecture import Architecture
from swd_video.cost.counting import shapes_only, without_memory
from swd_video.models.decoding import decode_stream

_COUNTED_BYTES = 4  # shapes are counted in float32
_SIGMA = 0.5
_PARTS = 3  # of a clip that is decoded part by part: by the third, what is carried along is there


def working_bytes(architecture: Architecture, schedule: ScaleSchedule, bytes_per_value: int) -> int:
    """The most that a clip's last stage or its decoding holds beside weights; what kernels need inside is not in it.

    Where the adapter has a decoder, clips are shown through that.
    """
    model, grid, attention = architecture.model, schedule.target, schedule[len(schedule) - 1].attention
    decoder = model.decoder
    counted: dict[object, int] = architecture.counted.setdefault("working", {})

    def latents() -> Tensor:
        return torch.empty(1, architecture.spec.latent_channels, *grid.as_tuple())

    def decoding() -> None:
        for _ in islice(decode_stream(model, latents()), _PARTS):
            pass

    if (grid, attention) not in counted:
        network = without_memory(copy.deepcopy(architecture.small_transformers()[0]))

        def last_stage() -> None:
            embeds = torch.empty(1, architecture.spec.text_length, architecture.spec.text_dim)
            model.predict_velocity(latents(), _SIGMA, embeds, transformer=network, attention=attention)

        counted[grid, attention] = peak_bytes(last_stage)
    if decoder is None:
        if grid not in counted:
            counted[grid] = peak_bytes(decoding)
        shown = counted[grid]
    else:
        try:
            model.decoder = copy.deepcopy(decoder)
            without_memory(model.decoder)
            shown = peak_bytes(decoding)
        finally:
            model.decoder = decoder
    return max(counted[grid, attention], shown) * bytes_per_value // _COUNTED_BYTES


def peak_bytes(run: Callable[[], object]) -> int:
    """The most that tensors made by a computation take at once; it happens to shapes."""
    with shapes_only(), torch.no_grad(), _Living() as living:
        run()
    return living.most


class _Living(TorchDispatchMode):
    """Adds up the tensors that operations made and that are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._now = 0
        self._known: dict[int, weakref.finalize[Any, Any]] = {}

    @no_type_check  # called for every operation, as in `counting`
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func`, and note what it made."""
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return output

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known[key] = weakref.finalize(storage, self._forget, key, size)
        self._now += size
        self.most = max(self.most, self._now)

    def _forget(self, key: int, size: int) -> None:
        self._known.pop(key, None)
        self._now -= size
