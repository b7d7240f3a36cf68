"""What a sample costs: seconds, peak memory, FLOPs and calls of the network, each counted from outside the method."""

import contextlib
import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .memory import Memory, peak_memory
from .quality import Estimate, _at_least, median_interval

__all__ = [
    "Calls", "Memory", "Timing", "attention_layers", "attention_share", "count_calls", "detectable", "flops",
    "interleaved", "layer_calls", "layer_seconds", "module_flops", "paired_interval", "peak_memory", "seconds",
    "summary", "synchronise", "turn",
]  # fmt: skip


@dataclass(frozen=True)
class Timing:
    """Seconds of repeated runs: mean (as the thesis has it), median, quartiles, number and the raw values."""

    mean: float
    median: float
    q1: float
    q3: float
    n: int
    values: tuple[float, ...]


@dataclass
class Calls:
    """Forward passes of a network, and the images in them: guidance doubles the rows, not the calls."""

    calls: int = 0
    rows: int = 0


def turn(names: Iterable[str], k: int) -> list[str]:
    """The order of round k: each round of odd number is the one before it backwards, and each pair begins with another name.

    So, over two rounds, every name runs before every other as often as after it, and over all pairs in every place.
    """
    names = list(names)
    shift = k // 2 % len(names)
    order = names[shift:] + names[:shift]
    return order[::-1] if k % 2 else order


def interleaved(
    functions: Mapping[str, Callable[[], object]],
    rounds: int = 7,                                 # >= 1
    warmup: int = 1,                                 # >= 0 runs of each beforehand, not counted
    device=None,                                     # None: whichever accelerator is in use
    contexts: Mapping[str, Callable] | None = None,  # {name: () -> context manager} around each run, off the clock
) -> dict[str, list[float]]:  # fmt: skip
    """Seconds of each function in `rounds` rounds, run in turn so that drift and noise fall on all alike.

    Their order is that of `turn`, so that none profits from its place.
    Raises ValueError for no function, rounds below 1, warmup below 0 or a context without a function.
    """
    contexts = contexts or {}
    if not functions or not set(contexts) <= set(functions):
        got = f"{sorted(functions)} with contexts for {sorted(contexts)}"
        raise ValueError(f"functions: got {got}; one or more are allowed, and contexts of the same names")
    _at_least("rounds", rounds, 1)
    _at_least("warmup", warmup, 0)

    def clock(name: str) -> float:
        with contexts.get(name, contextlib.nullcontext)():
            synchronise(device)
            start = time.perf_counter()
            functions[name]()
            synchronise(device)
            return time.perf_counter() - start

    for name in [*functions] * warmup:
        clock(name)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    with _no_collection():
        for k in range(rounds):
            for name in turn(functions, k):
                seconds[name].append(clock(name))
    return seconds


def seconds(function: Callable[[], object], rounds: int = 7, warmup: int = 1, device=None) -> Timing:
    """Seconds of one function: see `interleaved`."""
    return summary(interleaved({"function": function}, rounds, warmup, device)["function"])


def summary(values) -> Timing:
    """Mean, median and quartiles of measured seconds; raises ValueError for none, or any that is not finite."""
    values = np.asarray(values, dtype=np.float64).ravel()
    if not values.size or not np.isfinite(values).all():
        raise ValueError(f"values: got {values.tolist()}; one or more finite numbers are allowed")
    q1, median, q3 = (float(q) for q in np.quantile(values, [0.25, 0.5, 0.75]))
    return Timing(float(values.mean()), median, q1, q3, values.size, tuple(values.tolist()))


def synchronise(device=None) -> None:
    """Wait until the accelerator is done (None: the one in use, if any)."""
    kind = None if device is None else torch.device(device).type
    if kind == "cuda" or (kind is None and torch.cuda.is_initialized()):
        torch.cuda.synchronize(device)
    elif kind == "mps" or (kind is None and torch.backends.mps.is_available()):
        torch.mps.synchronize()


def paired_interval(baseline, changed, level: float = 0.95) -> Estimate:
    """Median relative change of `changed` from `baseline`, round by round (-0.1: a tenth less): see quality.median_interval.

    Raises ValueError unless both hold one positive number a round.
    """
    return median_interval(_relative_changes(baseline, changed), level)


def detectable(baseline, again, statistic=np.median, level: float = 0.95, power: float = 0.8, seed: int = 0) -> float:
    """The smallest relative change that as many rounds as these would find: at `level`, with probability `power`.

    (t[(1 + level) / 2, n - 1] + t[power, n - 1]) SE, Student's quantiles (Bloom 1995): SE is the bootstrap standard
    error of `statistic` over the n relative differences of the baseline with itself, measured `again` in the same
    rounds. Raises ValueError for fewer than three of them.
    """
    from scipy.stats import bootstrap, t

    differences = _relative_changes(baseline, again)
    if len(differences) < 3:
        raise ValueError(f"baseline: got {len(differences)} differences of the baseline with itself; three are needed")
    for name, value in (("level", level), ("power", power)):
        if not 0 < value < 1:
            raise ValueError(f"{name}: got {value!r}; a number between 0 and 1, both excluded, is allowed")
    error = bootstrap((differences,), statistic, method="percentile", rng=seed).standard_error
    return float((t.ppf((1 + level) / 2, len(differences) - 1) + t.ppf(power, len(differences) - 1)) * error)


def flops(module: nn.Module, *inputs, **options) -> int:
    """FLOPs of one forward pass, a multiply-add counting 2: matrix products, convolutions and attention's two products.

    Runs where the module is; on the meta device it computes and allocates nothing, whatever the size.
    Source: torch.utils.flop_counter, with the fused attention of CPUs and Apple's GPUs added, which it counts as 0.
    """
    return _count(module, inputs, options).get_total_flops()


def attention_share(unet: nn.Module, sample_shape: tuple[int, ...], timestep: int = 1, **options) -> float:
    """Share in [0, 1] of a network's FLOPs inside its attention modules, projections included: the bound on merging.

    `sample_shape` is (n, C, H, W); `options`, such as encoder_hidden_states, go to the network. Computes nothing: the
    pass runs on the meta device and leaves the network where it is.
    """
    counts = module_flops(unet, sample_shape, timestep, **options)
    return sum(counts.get(name, 0) for name, _ in attention_layers(unet)) / counts[""]


def module_flops(unet: nn.Module, sample_shape: tuple[int, ...], timestep: int = 1, **options) -> dict[str, int]:
    """FLOPs of one pass by the name of the module they are spent in, of the whole network under "".

    Arguments as for `attention_share`; a module without FLOPs is left out. Computes nothing.
    """
    tensors = {n: t.to("meta") for n, t in (*unet.named_parameters(), *unet.named_buffers())}
    dtype = next(unet.parameters()).dtype
    sample = torch.empty(sample_shape, device="meta", dtype=dtype)

    def forward(*arguments, **keywords):
        return torch.func.functional_call(unet, tensors, arguments, keywords)

    counts = _count(forward, (sample, timestep), _on_meta(options)).get_flop_counts()
    prefix, sums = f"{type(unet).__name__}.", {name: sum(found.values()) for name, found in counts.items()}
    inside = {name.removeprefix(prefix): found for name, found in sums.items() if name.startswith(prefix)}
    return inside | {"": sums["Global"]}


def _on_meta(options):
    """Arguments of a network with the tensors among them, nested ones too, on the meta device."""
    if isinstance(options, Mapping):
        return {key: _on_meta(value) for key, value in options.items()}
    return options.to("meta") if isinstance(options, Tensor) else options


def attention_layers(unet: nn.Module) -> list[tuple[str, nn.Module]]:
    """Name and module of every attention layer of a diffusers network, self- and cross-attention."""
    from diffusers.models.attention_processor import Attention

    return [(name, module) for name, module in unet.named_modules() if isinstance(module, Attention)]


def layer_calls(unet: nn.Module, *inputs, **options) -> dict[str, Callable[[], object]]:
    """For each self-attention layer a function that runs it alone on what reaches it in one pass of the network.

    Made for `interleaved`. Raises ValueError for a network without self-attention.
    """
    layers = {name: layer for name, layer in attention_layers(unet) if not layer.is_cross_attention}
    if not layers:
        raise ValueError(f"unet: got {type(unet).__name__} without self-attention; a network with some is allowed")
    seen: dict[str, tuple] = {}

    def remember(name):
        return lambda module, arguments, keywords: seen.setdefault(name, (arguments, keywords)) and None

    handles = [layer.register_forward_pre_hook(remember(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        with torch.inference_mode():
            unet(*inputs, **options)
    finally:
        for handle in handles:
            handle.remove()

    def alone(name):
        @torch.inference_mode()
        def run():
            return layers[name](*seen[name][0], **seen[name][1])

        return run

    return {name: alone(name) for name in seen}


def layer_seconds(unet: nn.Module, *inputs, rounds: int = 7, warmup: int = 1, **options) -> dict[str, Timing]:
    """Seconds of each self-attention layer alone at its true input shape, the layers interleaved."""
    device = next(unet.parameters()).device
    measured = interleaved(layer_calls(unet, *inputs, **options), rounds, warmup, device)
    return {name: summary(values) for name, values in measured.items()}


@contextlib.contextmanager
def count_calls(unet: nn.Module) -> Iterator[Calls]:
    """Count the forward passes of a network and their rows by a hook on the network itself, whoever calls it.

    A pass without a tensor has no rows. Raises ValueError for what is no module, such as a model around its network.
    """
    if not isinstance(unet, nn.Module):
        raise ValueError(f"unet: got {type(unet).__name__}; a network (nn.Module), e.g. model.unet, is allowed")
    counted = Calls()

    def count(module, arguments, keywords):
        given = (*arguments, keywords.get("sample"), *keywords.values())
        first = next((value for value in given if isinstance(value, Tensor) and value.ndim), ())
        counted.calls, counted.rows = counted.calls + 1, counted.rows + len(first)

    handle = unet.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield counted
    finally:
        handle.remove()


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection on the clock."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _count(call: Callable, inputs: tuple, options: dict):
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    aten = torch.ops.aten
    uncounted = ("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_attention_math_for_mps")
    missing = {
        getattr(aten, name): lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)
        for name in uncounted
        if hasattr(aten, name)
    }
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=missing) as counter:
        call(*inputs, **options)
    return counter


def _relative_changes(baseline, changed) -> np.ndarray:
    baseline, changed = (np.asarray(values, dtype=np.float64).ravel() for values in (baseline, changed))
    for name, values in (("baseline", baseline), ("changed", changed)):
        if not values.size or not (np.isfinite(values) & (values > 0)).all():
            raise ValueError(f"{name}: got {values.tolist()}; one positive number a round is allowed")
    if baseline.shape != changed.shape:
        raise ValueError(f"changed: got {changed.size} rounds; {baseline.size}, as in the baseline, are allowed")
    return changed / baseline - 1
