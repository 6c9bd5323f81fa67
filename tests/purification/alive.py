"""`Alive`: how many large tensors are held at once."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode


class Alive(TorchDispatchMode):
    """Counts the tensors of at least so many bytes that operations made and nobody has let go yet."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size
        self.known: dict[int, StorageWeakRef] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().nbytes() >= self.size:
                self.known[tensor.untyped_storage().data_ptr()] = StorageWeakRef(tensor.untyped_storage())
        self.known = {place: storage for place, storage in self.known.items() if not storage.expired()}
        self.most = max(self.most, len(self.known))
        return made
