import importlib

import pytest
import torch

from frugal.measure.memory import Memory, peak_memory

MIB = 2**20
MODULE = """
import torch

def fill(mebibytes):
    return torch.ones(mebibytes * 2**18).sum()

def fill_and_drop(mebibytes):
    fill(3 * mebibytes)
    return torch.ones(mebibytes * 2**18)

def double(tensor):
    print("text that is no answer")
    return (tensor * 2).sum()

def fail():
    raise OSError("no such weights")
"""


@pytest.fixture
def allocations(tmp_path, monkeypatch):
    (tmp_path / "allocations.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("allocations")


def test_peak_memory_of_a_fresh_process(allocations):
    memory = peak_memory(allocations.fill, 256)
    assert 255 * MIB < memory.extra < 300 * MIB and memory.loaded > 10 * MIB


def test_peak_memory_leaves_out_what_was_prepared(allocations):
    memory = peak_memory(allocations.double, 128, prepare=allocations.fill_and_drop)
    assert 127 * MIB < memory.extra < 170 * MIB


def test_peak_memory_says_what_went_wrong(allocations):
    with pytest.raises(RuntimeError, match="allocations:fail ended with 1: OSError: no such weights"):
        peak_memory(allocations.fail)
    with pytest.raises(ValueError, match="importable"):
        peak_memory(lambda: None)


def test_extra_is_what_the_run_needed():
    assert Memory(loaded=3, peak=10).extra == 7


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_peak_memory_on_cuda():
    memory = peak_memory(lambda x: x * 2, 64, prepare=lambda n: torch.ones(n * MIB // 4, device="cuda"), device="cuda")
    assert memory.extra == pytest.approx(64 * MIB, abs=MIB) and memory.loaded >= 64 * MIB
