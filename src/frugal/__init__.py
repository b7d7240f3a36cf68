"""Name a diffusion model, choose a method that makes it cheaper, measure what it saves and what it costs.

from frugal import zoo, sample, merge_tokens, predict_speedup
from frugal.models import faces
from frugal.measure import cost, judge, quality
"""

from importlib import import_module

__version__ = "0.1.0"
_PUBLIC = {  # name: where it lives; loaded when first used, so that `import frugal` and the command line are quick
    "zoo": "frugal.models.zoo",
    "sample": "frugal.methods.samplers:sample",
    "denoise": "frugal.methods.samplers:denoise",
    "merge_tokens": "frugal.methods.merging:merge_tokens",
    "predict_speedup": "frugal.measure.predict:predict_speedup",
}
__all__ = ["__version__", "denoise", "merge_tokens", "predict_speedup", "sample", "zoo"]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'frugal' has no attribute {name!r}")
    module, _, member = _PUBLIC[name].partition(":")
    found = import_module(module)
    return getattr(found, member) if member else found


def __dir__() -> list[str]:
    return sorted(__all__)
