"""Token merging as attention processors, reversible, for `UNet2DModel` and `UNet2DConditionModel` alike.

Norms, residual and rescaling see every token; between them the network's own processor attends to the tokens that a method
of `reductions` leaves it.
"""

import inspect
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache, partial
from numbers import Integral, Real
from typing import Self

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn
from torch.nn import functional

from .layers import Layer, select, self_attentions
from .library import LIBRARY, TOMESD_LARGEST_RATIO, patch_tomesd
from .matching import Call
from .reductions import METHODS
from .reuse import Memory, Run

LARGEST_RATIO = 0.9
METHOD, REUSE = "weighted", 2  # the defaults; by quality at equal work, `frugal bench merging --quality`
LONGEST_REUSE = 10  # steps
__all__ = [
    "LIBRARY", "METHOD", "METHODS", "REUSE", "TOMESD_LARGEST_RATIO", "Layer", "Merging", "is_merged", "merge_tokens", "select", "self_attentions",
]  # fmt: skip


def merge_tokens(
    unet: UNet2DModel | UNet2DConditionModel,
    ratio: float,                                # share of tokens removed, in [0, 0.9]; for "todo" of keys and values
    method: str = METHOD,                        # a name in METHODS, or "tomesd", the original library (ratio <= 0.75)
    layers: str | int | Sequence[str] = "auto",  # "auto", the largest downsampling factor, or names of layers
    seed: int = 0,                               # of the destinations, 0 or more
    reuse: int = REUSE,                          # steps for which the choice of tokens is good, 1 (never reused) to 10
) -> "Merging":  # fmt: skip
    """Merge tokens in the self-attention of `unet` at once, until `.remove()` or the end of a `with` block.

    "auto" means the highest attention resolution of a network with transformer blocks and every self-attention of the
    others. With `reuse` of 2 or more the blocks of one transformer share a choice as well, as do the halves of guidance in
    `frugal.sample`; method "tome" with 1 is the published one. For one size and ratio, destinations depend on seed, layer and
    time step alone. In a loop of your own a changed time step begins a step, a later one an image. Calls at one time step are of
    different images, batches in turn or halves of guidance, and the n-th uses what the n-th of the step before has chosen:
    `.reset()` where these are not the same images, or where an image begins below the last one's time. Ratio 0 leaves the
    network untouched. A merged network can be saved, but not copied or pickled. Raises ValueError for bad arguments, for a
    network already merged and for a ratio above 0 that would remove nothing; where the size of the input is what decides, the
    network's call raises it, and where gradient checkpointing is on, whose second pass would choose other tokens.
    Source: Bolya and Hoffman, arXiv 2303.17604; cells larger than 2x2 above a ratio of 0.75 are ours.
    """
    if not isinstance(unet, UNet2DModel | UNet2DConditionModel):
        raise ValueError(f"unet: got {type(unet).__name__}, allowed are UNet2DModel and UNet2DConditionModel")
    if isinstance(ratio, bool) or not isinstance(ratio, Real) or not 0 <= ratio <= LARGEST_RATIO:
        raise ValueError(f"ratio: got {ratio!r}, allowed is a number from 0 to {LARGEST_RATIO}")
    if method not in (*METHODS, LIBRARY):
        raise ValueError(f"method: got {method!r}, allowed are {', '.join((*METHODS, LIBRARY))}")
    _whole("seed", seed, 0, 2**63 - 1)
    _whole("reuse", reuse, 1, LONGEST_REUSE)
    if is_merged(unet):
        raise ValueError("unet: got a network whose tokens are merged, allowed is one without; remove() that first")
    merging = Merging(unet, float(ratio), select(unet, layers), int(seed), int(reuse), method)
    if ratio > 0:
        merging.install(patch_tomesd if method == LIBRARY else partial(set_processors, method=METHODS[method]))
    return merging


def _whole(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= value <= high:
        raise ValueError(f"{name}: got {value!r}, allowed is a whole number from {low} to {high}")


def is_merged(unet: nn.Module) -> bool:
    """Whether tokens of the network are merged, by this module or by tomesd itself."""
    return any(
        isinstance(getattr(module, "processor", None), MergedAttention) or type(module).__name__ == "ToMeBlock"
        for module in unet.modules()
    )


class Merging:
    """Merged tokens in one network: a context manager whose end, or `remove()`, restores the network exactly."""

    def __init__(
        self, unet: UNet2DModel | UNet2DConditionModel, ratio: float, layers: list[Layer], seed: int,
        reuse: int = 1, method: str = METHOD,
    ):  # fmt: skip
        self.unet, self.ratio, self.layers, self.seed, self.reuse = unet, ratio, layers, seed, reuse
        settings = id(unet), ratio, tuple(layer.name for layer in layers), seed, reuse, method
        self.memory = Memory(reuse, settings, self.observe)
        self.seen: Counter[tuple[str, int, int]] = Counter()
        self.entered = self.over = False
        self._undo = ExitStack()
        self._removed = 0
        self._thread: threading.Thread | None = None  # which is inside the network

    def install(self, wiring) -> None:
        if not self.layers:
            raise ValueError(f"layers: no self-attention to merge among those asked for in {type(self.unet).__name__}")
        with ExitStack() as stack:
            stack.callback(self.unet.register_forward_pre_hook(self._begin, with_kwargs=True).remove)
            stack.callback(self.unet.register_forward_hook(self._end, always_call=True).remove)
            wiring(self, stack)
            self._undo = stack.pop_all()

    def remove(self) -> None:
        """Put the network back as it was; a second time does nothing."""
        self.over = True
        self._undo.close()

    def __enter__(self) -> Self:
        if self.over:
            raise ValueError("merging: got one that was removed before, allowed is a new one: call merge_tokens again")
        if self.entered:
            raise ValueError("merging: got one that is entered already, allowed is one `with` block")
        self.entered = True
        return self

    def __exit__(self, *_exception) -> None:
        self.remove()

    def __reduce__(self):
        """Refuses copies and pickles of the network, which would stay merged."""
        raise ValueError("unet: got a network whose tokens are merged to copy or pickle, allowed is one without; remove() that first")

    def reset(self, halves: int = 1) -> None:
        """Images begin, in a loop of your own: nothing chosen before is used again.

        `halves=2` announces batches whose halves are the same images without and with their prompts.
        """
        _whole("halves", halves, 1, 2)
        self.memory.own = Run(halves=halves)

    def report(self) -> list[dict[str, str | int]]:
        """Layer, tokens before and after, and calls, for every shape seen; empty at ratio 0, which touches no layer.

        Raises RuntimeError where the merged network has not run yet.
        """
        if self.ratio > 0 and not self.seen:
            raise RuntimeError("no report yet: call the network first, tokens are counted from the shapes it sees")
        keys = ("layer", "tokens_before", "tokens_after", "calls")
        return [dict(zip(keys, (*seen, calls), strict=True)) for seen, calls in self.seen.items()]

    def observe(self, layer: str, before: int, after: int) -> None:
        self.seen[layer, before, after] += 1
        self._removed += before - after

    def _begin(self, _unet, args, kwargs):
        if torch.is_grad_enabled() and self.unet.is_gradient_checkpointing:
            raise ValueError(
                "unet: got gradient checkpointing, allowed with merged tokens is a network without, "
                "see disable_gradient_checkpointing, or torch.no_grad()"
            )
        timestep = args[1] if len(args) > 1 else kwargs["timestep"]
        self.memory.timestep = timestep  # as it is: an operation here would be a compiled graph of its own
        if torch.compiler.is_compiling():  # the rest is for what is called, not for what is traced
            return
        here = threading.current_thread()
        if self._thread not in (None, here) and self._thread.is_alive():  # an interrupted one may have ended inside
            raise RuntimeError("unet: got a call while another thread is inside the merged network, allowed is one at a time")
        self._thread, self._removed = here, 0
        self.memory.begin(torch.as_tensor(timestep))

    def _end(self, _unet, _args, output):
        if torch.compiler.is_compiling() or self._thread is not threading.current_thread():  # refused: the call is another's
            return
        self._thread = None
        if output is None or self._removed:  # none: it raised something itself
            return
        if not is_merged(self.unet):
            raise ValueError("unet: got other attention processors or slicing after merge_tokens, allowed is to set these before it")
        sizes = sorted({before for _, before, _ in self.seen}, reverse=True)
        raise ValueError(f"ratio: got {self.ratio}, which removes none of the {sizes} tokens of the layers touched")


class AttentionCore:
    """An `Attention` without what every token must pass: norms before it, residual and rescaling after it."""

    spatial_norm = group_norm = None
    residual_connection, rescale_output_factor = False, 1.0

    def __init__(self, attention: Attention):
        self._attention = attention

    def __getattr__(self, name: str):
        return getattr(self._attention, name)

    def to_kv(self, tokens: Tensor) -> Tensor:
        """Keys and values after `fuse_qkv_projections`, which fuses those of self-attention with its queries alone."""
        fused = self._attention.to_qkv
        start = fused.out_features // 3
        return functional.linear(tokens, fused.weight[start:], None if fused.bias is None else fused.bias[start:])


class MergedAttention:
    """Attention processor: `method` chooses the tokens, `original`, the processor found there, attends to them."""

    def __init__(self, merging: Merging, layer: Layer, method, original):
        self.merging, self.layer, self.method, self.original = merging, layer, method, original

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, **options) -> Tensor:
        if encoder_hidden_states is not None or attention_mask is not None:
            raise ValueError(f"{self.layer.name}: got a mask or other keys, allowed is self-attention without a mask")
        is_map = hidden_states.ndim == 4
        grid = tuple(hidden_states.shape[-2:]) if is_map else self.layer.grid
        tokens = hidden_states if attn.spatial_norm is None else attn.spatial_norm(hidden_states, temb)
        metric = hidden_states
        if is_map:
            metric, tokens = metric.flatten(2).mT, tokens.flatten(2).mT
        if attn.group_norm is not None:
            tokens = attn.group_norm(tokens.mT).mT
        output = self._attend(AttentionCore(attn), tokens, self.layer.take_metric(metric), grid, options)
        if is_map:
            output = output.mT.reshape(hidden_states.shape)
        if attn.residual_connection:
            output = output + hidden_states
        return output / attn.rescale_output_factor

    def _attend(self, core: AttentionCore, tokens: Tensor, metric: Tensor, grid: tuple[int, int] | None, options: dict) -> Tensor:
        count = tokens.shape[1]
        if grid is None or grid[0] * grid[1] != count:
            raise ValueError(
                f"{self.layer.name}: got {count} tokens whose grid is not known, allowed is a sequence of the size "
                f"that the network's last call had ({grid})"
            )

        def attend(queries: Tensor, keys: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
            if not torch.compiler.is_compiling():  # else the choice itself is counted, where it is used
                self.merging.observe(self.layer.name, count, (queries if keys is None else keys).shape[1])
            upcast = core.upcast_attention and not isinstance(self.original, AttnProcessor2_0)  # which leaves that to its kernels
            mask = None if bias is None else bias.to(torch.float32 if upcast else queries.dtype)[:, None]
            return self.original(core, queries, encoder_hidden_states=keys, attention_mask=mask, **options)

        memory = self.merging.memory
        removed = int(self.merging.ratio * count)
        call = Call(self.layer.name, grid, removed, (), self.merging.seed, memory=memory)
        return self.method(attend, tokens, metric, call)


@cache
def in_place_of(kind: type) -> type[MergedAttention]:
    """With the signature of a kind of processors: there diffusers looks up which keyword arguments they take."""

    class Merged(MergedAttention):
        def __call__(self, *arguments, **options) -> Tensor:
            return super().__call__(*arguments, **options)

    Merged.__call__.__signature__ = inspect.signature(kind.__call__)
    return Merged


def set_processors(merging: Merging, stack: ExitStack, method) -> None:
    """Lay a processor over that of every layer, which stays registered where it is a module, until `stack` closes."""
    for layer in merging.layers:
        layer.watch(stack)
        original = layer.attention.processor
        stack.callback(layer.attention.set_processor, original)
        stack.callback(vars(layer.attention).pop, "processor", None)
        vars(layer.attention)["processor"] = in_place_of(type(original))(merging, layer, method, original)
