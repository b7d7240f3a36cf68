"""The self-attention layers of diffusers networks: which there are, and which of them are meant."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from numbers import Integral

from diffusers import UNet2DConditionModel, UNet2DModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor


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
