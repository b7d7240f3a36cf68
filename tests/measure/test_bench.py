import subprocess

import pytest
import torch

from frugal.measure import bench, records


def test_faces_are_drawn_on_one_thread_and_the_number_is_told():
    threads = torch.get_num_threads()
    said = bench.faces(size=16, rounds=2, images=8)
    assert "images/s of 16x16 on one core, median of 2 rounds" in said and ("met" in said or "MISSED" in said)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(("target", "met"), [(0, True), (1e12, False)])
def test_a_target_that_is_missed_is_told(monkeypatch, capsys, target, met):
    monkeypatch.setattr(bench, "AT_LEAST", target)
    monkeypatch.setitem(bench.BENCHMARKS, "faces", lambda: bench.faces(size=16, rounds=1, images=8))
    assert bench.bench("faces") is met and ("MISSED" in capsys.readouterr().out) is not met


def test_tomesd_is_a_noop_on_a_unet2d_and_capped_elsewhere(store):
    record = bench.noop_here()
    values = record.values
    assert (values["unet2d_patched"] == 0).all() and (values["unet2d_identical"] == 1).all()
    after = dict(zip(record.asked["ratios"], values["tokens_after"], strict=True))
    assert after[0.1] > after[0.5] > after[0.75] == after[0.8] == after[0.9] == 0.25 * values["tokens_before"][0]
    said = bench.noop_sentence(record)
    assert "0 modules of a UNet2DModel patched, output bit-identical" in said and "64 are left at 0.9" in said
    assert bench.noop_here().reused


def test_the_probe_would_see_a_patched_network():
    import tomesd

    conditional = bench.tiny_network("UNet2DConditionModel")
    tomesd.apply_patch(conditional, ratio=0.5)
    assert any(type(module).__name__ == "ToMeBlock" for module in conditional.modules())


def test_the_shipped_record_is_of_the_thesis_s_diffusers():
    shipped = [record for record in records.load_shipped() if record.name == "noop"]
    [record] = [record for record in shipped if record.asked["diffusers"] == "0.21.4"]
    assert record.versions["diffusers"] == "0.21.4" and record.series == "shipped"
    assert (record.values["unet2d_patched"] == 0).all() and (record.values["unet2d_identical"] == 1).all()
    assert record.values["tokens_after"][-1] == 64


def test_another_interpreter_writes_its_record_into_this_store(store):
    import sys

    bench.probe_with(sys.executable)
    [found] = records.load_all()
    assert found.name == "noop" and not found.values["unet2d_patched"].any()


def test_without_packages_the_shipped_record_stands(store, monkeypatch, capsys):
    def offline():
        raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setattr(bench, "noop_there", offline)
    bench.bench("noop")
    said = capsys.readouterr().out
    assert "the shipped record stands" in said and "0 modules" in said


def test_an_unknown_benchmark_is_refused():
    with pytest.raises(ValueError, match="name: got 'speed', allowed are faces, noop"):
        bench.bench("speed")
