"""What batch of states a device takes at the price of one: seconds of a network call over its batch.

Whatever asks a network at many states at once, to need fewer calls, gains where a larger batch costs little more.
"""

from collections.abc import Iterable
from functools import partial

import numpy as np
import pandas as pd
import torch

from . import cost, records
from .plan import Subject, step_input

BATCHES = (1, 2, 4, 8, 16, 32, 64)
ROUNDS = 5
ALMOST = 1.25  # times the price of one state: what is called the same price
COLUMNS = ["model", "batch", "seconds", "low", "high", "price", "price_low", "price_high", "device", "series"]


def batching(
    subject: Subject, batches: Iterable[int] = BATCHES, *, rounds: int = ROUNDS, scale: str = "quick"
) -> pd.DataFrame:
    """Seconds of one network call at each batch, the batches in turn: COLUMNS, from this machine's records or measured now.

    seconds, low, high: median and quartiles; price: in calls of batch 1, round by round. Raises ValueError for batches
    that are not whole numbers from 1, each once, 1 among them.
    """
    batches = list(batches) if isinstance(batches, Iterable) else [batches]
    if 1 not in batches or len(set(batches)) != len(batches) or any(not isinstance(b, int) or isinstance(b, bool) or b < 1 for b in batches):
        raise ValueError(f"batches={batches}: allowed are whole numbers from 1, each once, 1 among them")
    about = {"scale": scale, "model": subject.about, "device": subject.place, "dtype": subject.dtype}
    asked = {"batches": batches, "rounds": rounds}
    function, source = partial(_seconds, subject, batches, rounds), (_seconds, cost.interleaved, step_input)
    return table(records.measure("time", "batching", asked, function, source=source, **about))


def shipped() -> pd.DataFrame:
    """The same from shipped records, of other machines; empty where there are none."""
    found = [table(record) for record in records.load_shipped() if record.name == "batching"]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=COLUMNS)


@torch.inference_mode()
def _seconds(subject: Subject, batches: list[int], rounds: int) -> dict:
    unet, calls = subject.model.unet, {}
    for batch in batches:
        arguments, options = step_input(unet, device=subject.model.device, batch=batch)
        calls[str(batch)] = partial(unet, *arguments, **options)
    measured = cost.interleaved(calls, rounds, 1, subject.model.device)
    return {batch: {"unit": "s", "values": values} for batch, values in measured.items()}


def table(record: records.Record) -> pd.DataFrame:
    """What a record of `batching` holds, one row a batch, COLUMNS."""
    rows, one = [], record.values["1"]
    for batch, values in record.values.items():
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
        price_low, price, price_high = np.quantile(values / one, [0.25, 0.5, 0.75])
        rows.append((record.model["name"], int(batch), middle, low, high, price, price_low, price_high, record.device["name"], record.series))
    return pd.DataFrame(rows, columns=COLUMNS).sort_values("batch", ignore_index=True)


def free_batch(measured: pd.DataFrame, within: float = ALMOST) -> int:
    """The largest batch up to which every one costs no more than `within` times one state."""
    dear = measured.batch[measured.price > within]
    return int(measured.batch[measured.batch < dear.min()].max() if len(dear) else measured.batch.max())


def call_seconds(measured: pd.DataFrame, rows: np.ndarray) -> np.ndarray:
    """Seconds of calls of as many rows each, by straight lines between the batches that were measured and beyond the last."""
    rows, batch, seconds = np.asarray(rows, dtype=float), measured.batch.to_numpy(float), measured.seconds.to_numpy()
    slope = (seconds[-1] - seconds[-2]) / (batch[-1] - batch[-2]) if len(batch) > 1 else seconds[-1]
    return np.interp(rows, batch, seconds) + slope * np.maximum(rows - batch[-1], 0)


def asked(model: str = "faces-ldm", device: str = "auto") -> bool:
    """The command: measure, or read from this machine's records, and print."""
    measured = batching(Subject.of(model, device))
    for row in measured.itertuples():
        print(f"batch {row.batch:3}: {row.seconds:.4f} s ({row.low:.4f} to {row.high:.4f}), the price of {row.price:.2f} states")
    last = measured.iloc[-1]
    print(f"{last.model} on {last.device}: {free_batch(measured)} at {ALMOST} times the price of one; {last.batch} at {last.price:.1f} times", flush=True)
    return True
