import subprocess
import sys

import pytest

PAGES_OF_TEN_STEPS = """
import resource
import sys
import torch
from lstm_lm.machine import keep_freed_memory

if "keep" in sys.argv:
    keep_freed_memory()

def step():
    torch.ones(16, 1024, 1024)  # 64 MiB

def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(5):  # until the heap is as large as it needs to be
    step()
before = pages()
for _ in range(10):
    step()
print(pages() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="is about the GNU C library")
def test_freed_memory_is_kept_for_the_next_step():
    anew, kept = (
        int(subprocess.check_output([sys.executable, "-c", PAGES_OF_TEN_STEPS, *arguments]))
        for arguments in ([], ["keep"])
    )
    assert kept < anew / 5
