"""Names a network by what the time of its step depends on: shapes and modules, and how it was set to run; not what was learned."""

import hashlib

from torch import nn

from . import cost


def fingerprint(unet: nn.Module) -> str:
    """Hash of the kinds of modules, shapes and kinds of attention processors, and of whatever is unusual of how they run."""
    parts: list[tuple] = [(name, type(module).__name__) for name, module in unet.named_modules()]
    parts += [(name, tuple(t.shape), str(t.dtype)) for name, t in unet.state_dict().items()]
    parts += [(name, type(a.processor).__name__, a.heads) for name, a in cost.attention_layers(unet)]
    return hashlib.sha256(repr(parts + _unusual(unet)).encode()).hexdigest()[:16]


def _unusual(unet: nn.Module) -> list[tuple]:
    """Settings of processors, such as slices; modules compiled in place or run in chunks; another order in memory."""
    found: list[tuple] = []
    for name, attention in cost.attention_layers(unet):
        settings = {key: value for key, value in vars(attention.processor).items() if isinstance(value, int | float | str)}
        found += [(name, sorted(settings.items()))] if settings else []
    for name, module in unet.named_modules():
        compiled, chunk = module._compiled_call_impl is not None, getattr(module, "_chunk_size", None)
        found += [(name, compiled, chunk)] if compiled or chunk else []
    return found + [(name, t.stride()) for name, t in unet.state_dict().items() if not t.is_contiguous()]


def opaque(unet: nn.Module) -> bool:
    """Whether an attention processor is not one of diffusers: what its time depends on nobody can tell from outside."""
    kinds = {type(attention.processor) for _, attention in cost.attention_layers(unet)}
    return any(kind.__module__.partition(".")[0] != "diffusers" for kind in kinds)
