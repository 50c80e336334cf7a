"""Memory that a step frees is there for the next step."""

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource
import torch
from stealing.processor import set_up_processor

def step():
    layers = [torch.ones(16, 2**20) for _ in range(3)]  # 64 MiB each
    del layers

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if {is_set_up}:
    set_up_processor(1)
for _ in range(10):  # until the places of the layers in the heap repeat
    step()
before = faults()
for _ in range(3):
    step()
print(faults() - before)
"""


def page_faults(*, is_set_up: bool) -> int:
    """Return the page faults of three steps of a process that made ten steps before."""
    code = STEPS.format(is_set_up=is_set_up)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries keep their ways")
def test_a_step_takes_no_memory_anew() -> None:
    as_it_comes = page_faults(is_set_up=False)
    kept = page_faults(is_set_up=True)
    # three steps of 192 MiB, in pages of at most 2 MiB
    assert as_it_comes >= 3 * 96
    assert kept < as_it_comes / 100
