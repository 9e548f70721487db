"""Peak memory of a call beyond what was held before it, on any device: by the storages that its operations make."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Storages(TorchDispatchMode):
    """Bytes of the storages that are alive after each operation. What an operation uses inside itself is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._bytes: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._note((args, kwargs), counted=False)  # a storage first met as an input was held before
        result = function(*args, **(kwargs or {}))
        self._note(result, counted=True)
        self._bytes = {storage: size for storage, size in self._bytes.items() if not storage.expired()}
        self.peak = max(self.peak, sum(self._bytes.values()))
        return result

    def _note(self, tree: Any, counted: bool) -> None:
        for tensor in tree_leaves(tree):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._bytes.setdefault(StorageWeakRef(storage), storage.nbytes() if counted else 0)


def peak_bytes(call: Callable[[], Any], device: torch.device) -> int:
    """The largest number of bytes that `call` has in use at a time beyond what was held before; its result counts."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    with _Storages() as storages:
        call()
    return storages.peak
