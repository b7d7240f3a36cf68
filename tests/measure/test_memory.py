import importlib
import signal

import pytest
import torch

from frugal.measure import memory
from frugal.measure.memory import Memory, peak_memory

MIB = 2**20
MODULE = """
import os, signal, time, torch

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

def wait():
    time.sleep(5)

def die():
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def allocations(tmp_path, monkeypatch):
    (tmp_path / "allocations.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("allocations")


def test_peak_memory_of_a_fresh_process(allocations):
    found = peak_memory(allocations.fill, 256)
    assert 255 * MIB < found.extra < 300 * MIB and found.loaded > 10 * MIB


def test_peak_memory_leaves_out_what_was_prepared(allocations):
    found = peak_memory(allocations.double, 128, prepare=allocations.fill_and_drop)
    assert 127 * MIB < found.extra < 170 * MIB


def test_peak_memory_says_what_went_wrong(allocations):
    with pytest.raises(RuntimeError, match="allocations:fail ended: OSError: no such weights"):
        peak_memory(allocations.fail)
    with pytest.raises(ValueError, match="importable"):
        peak_memory(lambda: None)
    with pytest.raises(RuntimeError, match="killed, perhaps for want of memory"):
        peak_memory(allocations.die)


def test_peak_memory_outlives_the_process_that_it_forks(allocations):
    first = peak_memory(allocations.fill, 64)
    memory._server().kill()
    with pytest.raises(RuntimeError, match="killed"):
        peak_memory(allocations.fill, 64)
    assert abs(peak_memory(allocations.fill, 64).extra - first.extra) < 8 * MIB


def test_an_interrupted_measurement_leaves_no_answer_for_the_next(allocations):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        peak_memory(allocations.fill, 1)  # so that the process is there
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(KeyboardInterrupt):
            peak_memory(allocations.wait)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert 255 * MIB < peak_memory(allocations.fill, 256).extra < 300 * MIB


def test_extra_is_what_the_run_needed():
    assert Memory(loaded=3, peak=10).extra == 7


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_peak_memory_on_cuda():
    found = peak_memory(lambda x: x * 2, 64, prepare=lambda n: torch.ones(n * MIB // 4, device="cuda"), device="cuda")
    assert found.extra == pytest.approx(64 * MIB, abs=MIB) and found.loaded >= 64 * MIB
