"""Batches on one device: what is measured, what is made of it, and the command."""

from types import SimpleNamespace

import numpy as np
import pytest

from frugal.measure import batching, records
from frugal.measure.plan import Subject
from frugal.models.zoo import Model

PRICES = {1: 1.0, 2: 1.1, 4: 1.2, 8: 2.0, 16: 4.0}


@pytest.fixture(scope="module")
def subject():
    import diffusers

    unet = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",)
    )
    return Subject.of(Model("tiny", "memory", unet.eval(), diffusers.DDPMScheduler()))


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("FRUGAL_RESULTS", str(tmp_path))
    return tmp_path


def made(prices=PRICES, seconds=0.01):
    """A record's table with known medians: every batch's three rounds around its price."""
    values = {str(batch): np.array([0.9, 1, 1.1]) * seconds * price for batch, price in prices.items()}
    return batching.table(SimpleNamespace(values=values, model={"name": "tiny"}, device={"name": "cpu"}, series="here"))


def test_each_batch_is_measured_once_and_then_read(subject, store):
    first = batching.batching(subject, (1, 4, 2), rounds=2, scale="smoke")
    assert list(first.columns) == batching.COLUMNS and first.batch.tolist() == [1, 2, 4] and first.price[0] == 1
    assert (first.low <= first.seconds).all() and (first.seconds <= first.high).all() and (first.low > 0).all()
    [file] = store.glob("batching-*.json")
    assert records.load_all(store)[0].kind == "time" and file.exists()
    assert batching.batching(subject, (1, 4, 2), rounds=2, scale="smoke").equals(first)


@pytest.mark.parametrize("batches", [(2, 4), (1, 0), (1, 1), (1, 2.5), (), 3])
def test_batches_that_tell_nothing_are_refused(subject, batches):
    with pytest.raises(ValueError, match="batches=.*allowed are whole numbers from 1, each once, 1 among them"):
        batching.batching(subject, batches)


def test_the_table_holds_medians_quartiles_and_prices():
    measured = made()
    assert measured.seconds.tolist() == pytest.approx([0.01 * price for price in PRICES.values()])
    assert measured.price.tolist() == pytest.approx(list(PRICES.values()))
    assert measured.low.tolist() == pytest.approx([0.0095 * price for price in PRICES.values()])


def test_the_batch_at_the_price_of_one():
    assert batching.free_batch(made()) == 4
    assert batching.free_batch(made(), within=1.15) == 2
    assert batching.free_batch(made({1: 1.0, 2: 1.0})) == 2
    assert batching.free_batch(made({1: 1.0, 2: 2.0, 4: 1.0})) == 1  # a cheap one behind a dear one does not count


def test_seconds_of_calls_between_and_beyond_the_batches():
    measured = made()
    assert batching.call_seconds(measured, [1, 3, 16, 24]) == pytest.approx([0.01, 0.0115, 0.04, 0.06])


def test_the_command_prints_a_line_a_batch(subject, capsys, monkeypatch):
    monkeypatch.setattr(batching.Subject, "of", lambda *_: subject)
    monkeypatch.setattr(batching, "batching", lambda _: made())
    assert batching.asked()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and lines[1].startswith("batch   2: 0.0110 s") and "tiny on cpu: 4 at 1.25 times the price of one" in lines[-1]


def test_the_command_refuses_what_changes_nothing(capsys):
    from frugal import cli

    with pytest.raises(SystemExit) as left:
        cli.main(["bench", "batching", "--ratios", "0.5"])
    assert left.value.code == cli.REFUSED
    assert "--ratios: got it for benchmark 'batching', allowed are --model and --device" in capsys.readouterr().err
