"""Records: one JSON file a measurement, named by a hash of what was asked, so that asking again costs nothing.

Times and memory are asked of one device, thread count, dtype, set of library versions and source, so they are never
reused elsewhere; quality is asked of one source and one set of weights. Records shipped with the project come back from
`load_shipped` alone: they are drawn as a reference series and never stand in for a measurement on this machine.
"""

import functools
import hashlib
import inspect
import json
import math
import os
import re
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from frugal import paths

from . import runs
from .environment import commit, environment, versions

KINDS = ("time", "memory", "quality", "count")
OF_THIS_MACHINE = ("time", "memory")
SCALES = ("smoke", "quick", "thesis")
NOT_FINITE = ("inf", "-inf", "nan")  # PSNR of identical images; the accuracy of an attribute that no image shows
STARTED = time.time()


@dataclass(frozen=True)
class Record:
    """One measurement: what was asked, the raw values with their units, and everything they depend on."""

    key: str  # hash of what was asked
    kind: str  # time, memory, quality or count
    name: str
    scale: str  # smoke, quick or thesis
    asked: dict  # parameters and seeds
    quantities: dict  # {quantity: {"unit": "s", "values": [...]}}
    model: dict  # name, weights, weights_hash, revision; empty where no model is involved
    device: dict  # kind, name, cores, threads, dtype, ...
    versions: dict
    commit: str | None
    source: str  # hash of the source of what was measured
    run: str
    start: str  # UTC, ISO 8601
    end: str
    reused: bool = field(default=False, compare=False)  # stored before it was asked for
    series: str = field(default="here", compare=False)  # "here", or "shipped" for a reference series

    @property
    def values(self) -> dict[str, np.ndarray]:
        """The raw values by quantity, float64."""
        return {quantity: np.array(entry["values"], dtype=np.float64) for quantity, entry in self.quantities.items()}


def measure(
    kind: str,                  # "time", "memory", "quality" or "count"
    name: str,                  # letters, digits, "_", "." and "-": the file's name begins with it
    asked: Mapping,             # parameters and seeds: plain values, lists, mappings
    function: Callable,         # () -> {quantity: {"unit": str, "values": numbers}}; called where nothing is stored
    *,
    scale: str,                 # "smoke", "quick" or "thesis"
    source=(),                  # the functions, classes and modules that are measured
    model=None,                 # zoo.Model, or a mapping of name, weights, weights_hash, revision
    device="cpu",
    dtype="float32",
    store: Path | None = None,  # None: frugal.paths.results()
) -> Record:  # fmt: skip
    """The record of what is asked, from this machine's store (`reused`) or measured now and stored at once.

    An unreadable file is named in a warning and measured anew. Raises ValueError for a kind, name, scale, parameter or
    result that is not allowed, and whatever `function` raises, in which case nothing is stored.
    """
    about = {"scale": scale, "source": source, "model": model, "device": device, "dtype": dtype}
    fixed, store = _question(kind, name, asked, **about), Path(store) if store else paths.results(scale)
    file = store / f"{name}-{fixed['key']}.json"
    record = _read(file, reused=True) if file.exists() else None
    if record is None:
        start, quantities = _now(), _quantities(function())
        context = {"versions": versions(), "commit": commit(), "run": runs.run()}
        record = Record(**fixed, **context, quantities=quantities, start=start, end=_now())
        _write(file, record)
    runs.log(store, record.key, not record.reused)
    return record


def find(kind: str, name: str, asked: Mapping, *, store: Path | None = None, **about) -> Record | None:
    """The record that `measure` would reuse, None where it would measure: to say beforehand what a run will take."""
    folder = Path(store) if store else paths.results(about["scale"])
    file = folder / f"{name}-{_question(kind, name, asked, **about)['key']}.json"
    return _read(file, reused=True) if file.exists() else None


def find_shipped(among: list[Record], kind: str, name: str, asked: Mapping, **about) -> Record | None:
    """The shipped record of a question, its time or memory from a device of the same name: what need not be shipped again.

    Versions, threads and the rest of the machine may differ, so it is no answer to `measure`.
    """
    question = _question(kind, name, asked, **about)
    fixed = [key for key in question if key not in ("key", "device")]
    parts = ("name", "dtype") if kind in OF_THIS_MACHINE else ("dtype",)

    def fits(record: Record) -> bool:
        same = all(getattr(record, key) == question[key] for key in fixed)
        return same and all(record.device[part] == question["device"][part] for part in parts)

    return next(filter(fits, among), None)


def load_all(folder: Path | None = None, series: str = "here") -> list[Record]:
    """Every readable record in a folder (None: this machine's store), oldest first; warns of the others by name."""
    folder = Path(folder) if folder else paths.results()
    found = (_read(file, series=series) for file in sorted(folder.glob("*.json")))
    return sorted((record for record in found if record), key=lambda record: (record.start, record.name, record.key))


def load_shipped() -> list[Record]:
    """The reference series in the checkout, else in the installed package (`series` "shipped"), measured elsewhere."""
    return load_all(paths.shipped(), series="shipped")


def shipped_of(name: str, model: Mapping) -> list[Record]:
    """Shipped records of one name and of the very weights a model has: `model` as in a record."""
    return [record for record in load_shipped() if record.name == name and record.model["weights_hash"] == model["weights_hash"]]


def table(records):
    """Tidy pandas.DataFrame, one row a raw value: quantity, unit, index, value, parameters asked, model, device, dates.

    A list or mapping among the parameters is written as JSON; a parameter named like a column becomes `asked_<name>`.
    """
    import pandas

    columns = ["name", "kind", "scale", "series", "quantity", "unit", "index", "value", "key", "model", "weights"]
    columns += ["device", "threads", "dtype", "start", "end", "commit"]
    rows = []
    for record in records:
        whole = {c: getattr(record, c) for c in ("name", "kind", "scale", "series", "key", "start", "end", "commit")}
        whole |= {
            "model": record.model.get("name"),
            "weights": record.model.get("weights"),
            "device": record.device.get("name"),
        }
        whole |= {c: record.device.get(c) for c in ("threads", "dtype")}
        for parameter, value in record.asked.items():
            flat = json.dumps(value) if isinstance(value, list | dict) else value
            whole[f"asked_{parameter}" if parameter in columns else parameter] = flat
        for quantity, entry in record.quantities.items():
            common = whole | {"quantity": quantity, "unit": entry["unit"]}
            rows += [common | {"index": index, "value": value} for index, value in enumerate(entry["values"])]
    parameters = dict.fromkeys(c for row in rows for c in row if c not in columns)
    return pandas.DataFrame(rows, columns=[*columns[:8], *parameters, *columns[8:]])


def source_hash(*objects) -> str:
    """Hash of the source of modules, classes and functions; an instance counts as its class, a partial as its function.

    Raises ValueError for an object without Python source, RuntimeError where its file was edited after it was imported.
    """
    texts = []
    for item in objects:
        item = inspect.unwrap(item.func if isinstance(item, functools.partial) else item)
        known = inspect.ismodule(item) or inspect.isclass(item) or inspect.isroutine(item)
        try:
            texts.append(_source(item if known else type(item)))
        except (OSError, TypeError):
            raise ValueError(f"source: got {item!r}; an object with Python source is allowed") from None
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


@functools.cache
def _source(item) -> str:
    """Read once a process: what is loaded runs, whatever becomes of its file later."""
    file = Path(inspect.getsourcefile(item) or "")
    if file.is_relative_to(paths.PACKAGE) and file.stat().st_mtime > STARTED:
        raise RuntimeError(f"{file.name} was edited after it was loaded: start again, so that a record is filed rightly")
    return inspect.getsource(item)


def _check(kind: str, name: str, scale: str) -> None:
    for parameter, got, allowed in (("kind", kind, KINDS), ("scale", scale, SCALES)):
        if got not in allowed:
            raise ValueError(f"{parameter}: got {got!r}; allowed: {', '.join(allowed)}")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name):
        raise ValueError(f"name: got {name!r}; letters, digits, '_', '.' and '-' are allowed")


def _question(kind, name, asked, *, scale, source=(), model=None, device="cpu", dtype="float32") -> dict:
    """The fields of a record that are known before it is measured, its key among them."""
    _check(kind, name, scale)
    source = source if isinstance(source, tuple | list) else (source,)
    machine = {**environment(device)["device"], "dtype": str(dtype).removeprefix("torch.")}
    fixed = {"kind": kind, "name": name, "scale": scale, "asked": _plain(asked, "asked"), "model": _describe(model)}
    fixed["source"] = source_hash(*source)
    question = fixed | {"dtype": machine["dtype"]}
    if kind in OF_THIS_MACHINE:
        question["device"] = {k: v for k, v in machine.items() if k not in ("memory", "system")}
        question["versions"] = {k: v for k, v in versions().items() if k != "frugal"}  # the source stands for it
    key = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:16]
    return _without_folders(fixed) | {"key": key, "device": machine}


def _describe(model) -> dict:
    if model is None or isinstance(model, Mapping):
        return _plain(model or {}, "model")
    return _plain({k: getattr(model, k, None) for k in ("name", "weights", "weights_hash", "revision")}, "model")


def _plain(value, where: str):
    """`value` as JSON holds it; ranges, tuples and arrays become lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, range | tuple | list):
        return [_plain(item, where) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist(), where)
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, Path):
        return str(value)
    raise ValueError(f"{where}: got {value!r}; None, booleans, finite numbers, text, lists and mappings are allowed")


def _without_folders(value):
    """Absolute paths tell of the machine: cut to their last part for the record, after the whole has been hashed."""
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    return Path(value).name if isinstance(value, str) and os.path.isabs(value) else value


def _quantities(result) -> dict:
    if not isinstance(result, Mapping) or not result:
        raise ValueError(f'function: got {result!r}; {{quantity: {{"unit": ..., "values": [...]}}}} is allowed')
    quantities = {}
    for quantity, entry in result.items():
        try:
            unit, values = str(entry["unit"]), np.asarray(entry["values"], dtype=np.float64).ravel().tolist()
        except (TypeError, KeyError, ValueError, IndexError):
            raise ValueError(
                f'function: got {quantity}={entry!r}; {{"unit": ..., "values": numbers}} is allowed'
            ) from None
        quantities[str(quantity)] = {"unit": unit, "values": values}
    return quantities


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _write(file: Path, record: Record) -> None:
    content = {key: value for key, value in asdict(record).items() if key not in ("reused", "series")}
    for entry in content["quantities"].values():  # JSON has no infinity, and PSNR does
        entry["values"] = [value if math.isfinite(value) else str(value) for value in entry["values"]]
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.{time.monotonic_ns()}")
    temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    os.replace(temporary, file)


def _read(file: Path, **marks) -> Record | None:
    """A stored record; whatever else lies there, damaged or foreign, is named in a warning and None."""
    try:
        content = json.loads(file.read_text())
        kept = {f.name: _of_type(content[f.name], f.type, f.name) for f in fields(Record) if f.name not in ("reused", "series")}
        if file.stem != f"{kept['name']}-{kept['key']}":
            raise ValueError("it holds another record")
        quantities = {quantity: _entry(quantity, entry) for quantity, entry in kept.pop("quantities").items()}
        if not quantities or not all(entry["values"] for entry in quantities.values()):
            raise ValueError("it holds no values")
        return Record(**kept, quantities=quantities, **marks)
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
        warnings.warn(f"unreadable record {file.name} ({type(error).__name__}: {error}): it is left out", stacklevel=3)
        return None


def _of_type(value, kind, where: str):
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{where} is of type {type(value).__name__}")
    return value


def _entry(quantity: str, entry: Mapping) -> dict:
    """The unit and the values of a quantity, as numbers: those that JSON has not are stored as text."""
    unit, values = _of_type(entry["unit"], str, f"unit of {quantity}"), _of_type(entry["values"], list, quantity)
    return {"unit": unit, "values": [float(v if v in NOT_FINITE else _of_type(v, int | float, quantity)) for v in values]}
