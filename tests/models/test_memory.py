from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, torch
from robustvideo.models.memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
for step in range(8):
    if step == 3:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(40 * 2**20, dtype=torch.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_freed_memory_is_used_again() -> None:
    """Five more tensors of 40 MiB: 10 240 pages each when fetched anew, none when kept."""
    assert page_faults("keep") < 1000 < page_faults("leave")
