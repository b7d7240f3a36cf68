"""Self-attention layers of a network alone: its own modules, in its order and under its hooks, all else left out.

What merging does to a layer, whichever way it is wired, is so timed without running the network itself.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..methods.merging import Layer
from . import cost


@contextmanager
def only(unet: nn.Module, layers: Sequence[Layer], size: tuple[int, int], batch: int = 1) -> Iterator[None]:
    """Until the end, a call of `unet` runs nothing but `layers`, on random tokens of the shape they have there.

    `size`: height and width of the network's input, `batch` its rows. A transformer block keeps its first norm and its
    self-attention. Hooks on the network, transformers, blocks and layers see what they would see; outputs are dropped.
    """
    units: dict[nn.Module, list[Layer]] = {}
    for layer in layers:
        units.setdefault(layer.transformer or layer.attention, []).append(layer)
    with ExitStack() as stack:
        runs = [_run(stack, unit, inside, size, batch) for unit, inside in units.items()]
        _replace(stack, unet, "forward", lambda *_arguments, **_options: [run() for run in runs])
        yield


def _run(stack: ExitStack, unit: nn.Module, layers: list[Layer], size: tuple[int, int], batch: int) -> Callable:
    """The function that runs the layers of one transformer, or the one attention on a feature map."""
    height, width = grid(layers[0], size)
    if layers[0].transformer is None:
        feature_map = _random(layers[0].attention, batch, layers[0].attention.query_dim, height, width)
        return lambda: unit(feature_map)
    feature_map = _random(layers[0].attention, batch, unit.in_channels, height, width)
    tokens = _random(layers[0].attention, batch, height * width, layers[0].attention.query_dim)
    for layer in layers:
        _replace(stack, layer.block, "attn2", None)
        _replace(stack, layer.block.ff, "forward", lambda hidden_states, *_arguments, **_options: hidden_states)
    _replace(stack, unit, "forward", lambda *_arguments, **_options: [layer.block(tokens) for layer in layers])
    return lambda: unit(feature_map)


def grid(layer: Layer, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a layer's tokens for a network's input of that size: a stride rounds up."""
    height, width = (-(-side // layer.factor) for side in size)
    return height, width


def _random(attention: nn.Module, *shape: int) -> Tensor:
    weight = attention.to_q.weight
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(weight.device, weight.dtype)


def _replace(stack: ExitStack, module: nn.Module, name: str, value: Any) -> None:
    """Set an attribute until `stack` closes; what the module itself did not have is deleted again."""
    own = name in vars(module) or name in module._modules
    stack.callback(setattr, module, name, getattr(module, name)) if own else stack.callback(delattr, module, name)
    setattr(module, name, value)


@contextmanager
def clocked(modules: Sequence[nn.Module], into: list[float], device=None) -> Iterator[None]:
    """Append to `into`, at the end, the seconds spent inside calls of `modules`; on CUDA they are the GPU's own."""
    marks: list[list] = []
    with ExitStack() as stack:
        for module in modules:
            begun = module.register_forward_pre_hook(lambda *_: marks.append([_mark(device)]))
            ended = module.register_forward_hook(lambda *_: marks[-1].append(_mark(device)), prepend=True)
            stack.callback(begun.remove)
            stack.callback(ended.remove)
        yield
    cost.synchronise(device)
    into.append(sum(_elapsed(*pair) for pair in marks))


def _mark(device):
    """A moment: an event in CUDA's queue, so that nothing waits for the GPU, else the clock's seconds."""
    if device is not None and torch.device(device).type == "cuda":
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
    cost.synchronise(device)
    return time.perf_counter()


def _elapsed(begun, ended) -> float:
    return ended - begun if isinstance(begun, float) else begun.elapsed_time(ended) / 1000


@contextmanager
def counted_attention() -> Iterator[list]:
    """A list that grows by one at every call of torch's scaled_dot_product_attention."""
    calls: list = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function is nn.functional.scaled_dot_product_attention:
                calls.append(function)
            return function(*args, **(kwargs or {}))

    with Watch():
        yield calls
