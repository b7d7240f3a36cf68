"""Token merging as attention processors, reversible, for `UNet2DModel` and `UNet2DConditionModel` alike.

Norms, residual and rescaling see every token; between them the network's own processor attends to the tokens a method
leaves it. A further method is one entry of METHODS: attend, tokens, metric, Call -> output for every token.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from typing import Self

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from .matching import Call, tome

METHODS = {"tome": tome}
LIBRARY = "tomesd"  # the original implementation, which does its own wiring
LARGEST_RATIO = 0.9
TOMESD_LARGEST_RATIO = 0.75


def merge_tokens(
    unet: UNet2DModel | UNet2DConditionModel,
    ratio: float,                                # share of tokens removed, in [0, 0.9]
    method: str = "tome",                        # a name in METHODS, or "tomesd", the original library (ratio <= 0.75)
    layers: str | int | Sequence[str] = "auto",  # "auto", the largest downsampling factor, or names of layers
    seed: int = 0,                               # of the destinations, 0 or more
) -> "Merging":  # fmt: skip
    """Merge tokens in the self-attention of `unet` at once, until `.remove()` or the end of a `with` block.

    "auto" means the highest attention resolution of a network with transformer blocks and every self-attention of the
    others. Destinations depend on seed, layer and timestep alone. Ratio 0 leaves the network untouched. Raises
    ValueError for bad arguments, for a network already merged and for a ratio above 0 that would remove nothing; where
    the size of the input is what decides, the network's call raises it.
    Source: Bolya and Hoffman, arXiv 2303.17604; cells larger than 2x2 above a ratio of 0.75 are ours.
    """
    if not isinstance(unet, UNet2DModel | UNet2DConditionModel):
        raise ValueError(f"unet: got {type(unet).__name__}, allowed are UNet2DModel and UNet2DConditionModel")
    if isinstance(ratio, bool) or not isinstance(ratio, Real) or not 0 <= ratio <= LARGEST_RATIO:
        raise ValueError(f"ratio: got {ratio!r}, allowed is a number from 0 to {LARGEST_RATIO}")
    if method not in (*METHODS, LIBRARY):
        raise ValueError(f"method: got {method!r}, allowed are {', '.join((*METHODS, LIBRARY))}")
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 2**63:
        raise ValueError(f"seed: got {seed!r}, allowed is a whole number from 0 to 2**63 - 1")
    if is_merged(unet):
        raise ValueError("unet: got a network whose tokens are merged, allowed is one without; remove() that first")
    merging = Merging(unet, float(ratio), select(unet, layers), int(seed))
    if ratio > 0:
        merging.install(patch_tomesd if method == LIBRARY else partial(set_processors, method=METHODS[method]))
    return merging


@dataclass(eq=False)
class Layer:
    """A self-attention, and what only the modules around it see."""

    name: str
    attention: Attention
    factor: int  # downsampling of the network's input at this layer
    block: BasicTransformerBlock | None = None  # the transformer block and its model, where the input is a sequence
    transformer: Transformer2DModel | None = None
    grid: tuple[int, int] | None = None
    metric: Tensor | None = None  # the block's input before its norm: what tomesd compares

    def watch(self, stack: ExitStack) -> None:
        """Note the grid and the block's input at every call, until `stack` closes."""
        if self.block is not None:
            for module, note in ((self.transformer, self._note_grid), (self.block, self._note_metric)):
                stack.callback(module.register_forward_pre_hook(note, with_kwargs=True).remove)

    def _note_grid(self, _module, args, kwargs):
        self.grid = tuple((args[0] if args else kwargs["hidden_states"]).shape[-2:])

    def _note_metric(self, _module, args, kwargs):
        self.metric = args[0] if args else kwargs["hidden_states"]

    def take_metric(self, default: Tensor) -> Tensor:
        metric, self.metric = self.metric, None
        return default if metric is None else metric


def self_attentions(unet: UNet2DModel | UNet2DConditionModel) -> Iterator[Layer]:
    """Every self-attention that merging may act on: plain ones on feature maps and the attn1 of transformer blocks."""
    lowest = len(unet.down_blocks) - 1
    parts = [(f"down_blocks.{i}", part, i) for i, part in enumerate(unet.down_blocks)]
    parts += [("mid_block", unet.mid_block, lowest)] if unet.mid_block is not None else []
    parts += [(f"up_blocks.{i}", part, lowest - i) for i, part in enumerate(unet.up_blocks)]
    for prefix, part, level in parts:
        transformers = [module for module in part.modules() if isinstance(module, Transformer2DModel)]
        owners = {block.attn1: (block, t) for t in transformers for block in t.transformer_blocks}
        others = {module for t in transformers for module in t.modules()} - set(owners)
        for name, module in part.named_modules(prefix=prefix):
            if isinstance(module, Attention) and module not in others and attends_to_itself(module):
                yield Layer(name, module, 2**level, *owners.get(module, (None, None)))


def attends_to_itself(attention: Attention) -> bool:
    return not attention.is_cross_attention and attention.added_kv_proj_dim is None


def select(unet: UNet2DModel | UNet2DConditionModel, layers: str | int | Sequence[str]) -> list[Layer]:
    """The layers that `layers` of `merge_tokens` means; raises ValueError where it means nothing."""
    found = {layer.name: layer for layer in self_attentions(unet)}
    if isinstance(layers, Integral) and not isinstance(layers, bool) and layers >= 1:
        return [layer for layer in found.values() if layer.factor <= layers]
    if layers == "auto":
        finest = min((layer.factor for layer in found.values()), default=1)
        everywhere = all(layer.block is None for layer in found.values())
        return [layer for layer in found.values() if everywhere or layer.factor == finest]
    names = layers if isinstance(layers, list | tuple) and layers else [layers]
    if unknown := [name for name in names if not isinstance(name, str) or name not in found]:
        raise ValueError(
            f"layers: got {unknown[0]!r}, allowed are 'auto', a downsampling factor from 1 on, "
            f"or a list of names among {', '.join(found) or 'none: this network has no self-attention'}"
        )
    return [found[name] for name in dict.fromkeys(names)]


def is_merged(unet: nn.Module) -> bool:
    """Whether tokens of the network are merged, by this module or by tomesd itself."""
    return any(
        isinstance(getattr(module, "processor", None), MergedAttention) or type(module).__name__ == "ToMeBlock"
        for module in unet.modules()
    )


class Merging:
    """Merged tokens in one network: a context manager whose end, or `remove()`, restores the network exactly."""

    def __init__(self, unet: UNet2DModel | UNet2DConditionModel, ratio: float, layers: list[Layer], seed: int):
        self.unet, self.ratio, self.layers, self.seed = unet, ratio, layers, seed
        self.timesteps: tuple[float, ...] = (0.0,)
        self.seen: Counter[tuple[str, int, int]] = Counter()
        self.over = False
        self._undo = ExitStack()
        self._removed = 0

    def install(self, wiring) -> None:
        if not self.layers:
            raise ValueError(f"layers: no self-attention to merge among those asked for in {type(self.unet).__name__}")
        with ExitStack() as stack:
            stack.callback(self.unet.register_forward_pre_hook(self._begin, with_kwargs=True).remove)
            stack.callback(self.unet.register_forward_hook(self._end).remove)
            wiring(self, stack)
            self._undo = stack.pop_all()

    def remove(self) -> None:
        """Put the network back as it was; a second time does nothing."""
        self.over = True
        self._undo.close()

    def __enter__(self) -> Self:
        if self.over:
            raise ValueError("merging: got one that was removed before, allowed is a new one: call merge_tokens again")
        return self

    def __exit__(self, *_exception) -> None:
        self.remove()

    def report(self) -> list[dict[str, str | int]]:
        """Layer, tokens before and after, and calls, for every shape seen; empty at ratio 0, which touches no layer.

        Raises RuntimeError where the merged network has not run yet.
        """
        if self.ratio > 0 and not self.seen:
            raise RuntimeError("no report yet: call the network first, tokens are counted from the shapes it sees")
        keys = ("layer", "tokens_before", "tokens_after", "calls")
        return [dict(zip(keys, (*seen, calls), strict=True)) for seen, calls in self.seen.items()]

    def observe(self, layer: Layer, before: int, after: int) -> None:
        self.seen[layer.name, before, after] += 1
        self._removed += before - after

    def _begin(self, _unet, args, kwargs):
        timestep = args[1] if len(args) > 1 else kwargs["timestep"]
        times = torch.as_tensor(timestep).flatten().tolist()
        self.timesteps = tuple(times if len(set(times)) > 1 else times[:1])
        self._removed = 0

    def _end(self, _unet, _args, _output):
        if not self._removed:
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


class MergedAttention:
    """Attention processor: `method` chooses the tokens, `original`, the processor found there, attends to them."""

    def __init__(self, merging: Merging, layer: Layer, method, original):
        self.merging, self.layer, self.method, self.original = merging, layer, method, original

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None) -> Tensor:
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
        output = self._attend(AttentionCore(attn), tokens, self.layer.take_metric(metric), grid)
        if is_map:
            output = output.mT.reshape(hidden_states.shape)
        if attn.residual_connection:
            output = output + hidden_states
        return output / attn.rescale_output_factor

    def _attend(self, core: AttentionCore, tokens: Tensor, metric: Tensor, grid: tuple[int, int] | None) -> Tensor:
        count = tokens.shape[1]
        if grid is None or grid[0] * grid[1] != count:
            raise ValueError(
                f"{self.layer.name}: got {count} tokens whose grid is not known, allowed is a sequence of the size "
                f"that the network's last call had ({grid})"
            )

        def attend(queries: Tensor, keys: Tensor | None = None) -> Tensor:
            self.merging.observe(self.layer, count, (queries if keys is None else keys).shape[1])
            return self.original(core, queries, encoder_hidden_states=keys)

        removed = int(self.merging.ratio * count)
        call = Call(self.layer.name, grid, removed, self.merging.timesteps, self.merging.seed)
        return self.method(attend, tokens, metric, call)


def set_processors(merging: Merging, stack: ExitStack, method) -> None:
    """Wrap the processor of every layer, until `stack` closes."""
    for layer in merging.layers:
        layer.watch(stack)
        original = layer.attention.processor
        stack.callback(layer.attention.set_processor, original)
        layer.attention.set_processor(MergedAttention(merging, layer, method, original))


def patch_tomesd(merging: Merging, stack: ExitStack) -> None:
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
        count = partial(count_tokens, merging, layer)
        stack.callback(layer.attention.register_forward_pre_hook(count, with_kwargs=True).remove)


def count_tokens(merging: Merging, layer: Layer, _module, args, kwargs) -> None:
    tokens = args[0] if args else kwargs["hidden_states"]
    merging.observe(layer, layer.take_metric(tokens).shape[1], tokens.shape[1])


def unpatch_tomesd(unet: nn.Module) -> None:
    import tomesd

    tomesd.remove_patch(unet)
    for module in unet.modules():
        module.__dict__.pop("_tome_info", None)  # which remove_patch leaves behind
