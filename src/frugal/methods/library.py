"""The original library, tomesd, behind the same interface: it does its own wiring."""

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .layers import Layer, self_attentions
from .matching import Call
from .reductions import METHODS, Attend

if TYPE_CHECKING:
    from .merging import Merging

LIBRARY = "tomesd"
TOMESD_LARGEST_RATIO = 0.75


def patch_tomesd(merging: "Merging", stack: ExitStack) -> None:
    """Let the original library patch the network, until `stack` closes; refused where it would do less than asked."""
    import tomesd

    if merging.ratio > TOMESD_LARGEST_RATIO:
        raise ValueError(
            f"ratio: got {merging.ratio}, allowed with method 'tomesd' is up to {TOMESD_LARGEST_RATIO}: its 2x2 cells "
            "cap larger ratios there without saying so; method 'tome' takes larger cells"
        )
    factor = max(layer.factor for layer in merging.layers)
    reach = [layer for layer in self_attentions(merging.unet) if layer.block is not None and layer.factor <= factor]
    if not reach:
        raise ValueError(
            f"method: got 'tomesd', which patches transformer blocks and would change nothing in this "
            f"{type(merging.unet).__name__}; allowed is {', '.join(METHODS)}"
        )
    if {layer.name for layer in merging.layers} != {layer.name for layer in reach}:
        raise ValueError("layers: got a choice that tomesd cannot make, allowed is 'auto' or a downsampling factor")
    stack.callback(unpatch_tomesd, merging.unet)
    tomesd.apply_patch(merging.unet, ratio=merging.ratio, max_downsample=factor)
    device = next(merging.unet.parameters()).device
    # Its own default is a fork of the global generator's state.
    merging.unet._tome_info["args"]["generator"] = torch.Generator(device).manual_seed(merging.seed)
    for layer in merging.layers:
        layer.watch(stack)
        stack.callback(layer.block.register_forward_pre_hook(partial(check_grid, layer)).remove)
        count = partial(count_tokens, merging, layer)
        stack.callback(layer.attention.register_forward_pre_hook(count, with_kwargs=True).remove)


def check_grid(layer: Layer, _module, _args) -> None:
    if min(layer.grid) < 2:
        height, width = layer.grid
        raise ValueError(f"{layer.name}: got {height}x{width} tokens, allowed with method 'tomesd' are 2x2 or more, one of its cells")


def count_tokens(merging: "Merging", layer: Layer, _module, args, kwargs) -> None:
    tokens = args[0] if args else kwargs["hidden_states"]
    merging.observe(layer.name, layer.take_metric(tokens).shape[1], tokens.shape[1])


def unpatch_tomesd(unet: nn.Module) -> None:
    import tomesd

    tomesd.remove_patch(unet)
    for module in unet.modules():
        module.__dict__.pop("_tome_info", None)  # which remove_patch leaves behind


def published(generator: torch.Generator):
    """tomesd's own merge and unmerge as a method of ours, for a layer by itself: attend, tokens, metric, Call -> output."""
    from tomesd.merge import bipartite_soft_matching_random2d

    def method(attend: Attend, tokens: Tensor, metric: Tensor, call: Call) -> Tensor:
        height, width = call.grid
        merge, unmerge = bipartite_soft_matching_random2d(metric, width, height, 2, 2, call.removed, False, generator)
        return unmerge(attend(merge(tokens)))

    return method
