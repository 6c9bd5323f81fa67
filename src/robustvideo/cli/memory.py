"""How the C library gives memory back to the system, set before the first tensor."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Let glibc keep the memory of freed tensors for the next ones; does nothing on other C libraries.

    By default every tensor above a threshold (128 KiB to 32 MiB) gets pages of its own from the system, which clears
    them one fault at a time, and gives them back when it is freed: small batches on a CPU can spend as long in the
    system as in the network.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return
    library.mallopt(_M_TRIM_THRESHOLD, -1)
    # older versions refuse more than 32 MiB
    _ = library.mallopt(_M_MMAP_THRESHOLD, 1 << 30) or library.mallopt(_M_MMAP_THRESHOLD, 1 << 25)
