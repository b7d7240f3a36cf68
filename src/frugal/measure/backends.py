"""How attention is computed: the backends of torch's scaled_dot_product_attention by name."""

from contextlib import AbstractContextManager, nullcontext

from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = {  # one that a device lacks is an error, never replaced by another
    "fused": [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION],
    "math": [SDPBackend.MATH],
}


def attending(backend: str | None) -> AbstractContextManager:
    """A context in which attention uses a backend alone; None leaves torch its choice."""
    return nullcontext() if backend is None else sdpa_kernel(BACKENDS[backend])
