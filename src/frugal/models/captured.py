"""A training step as one CUDA graph: to launch a small network's thousands of kernels takes longer than they do."""

from collections.abc import Callable

import torch
from torch import Tensor

WARMING = 3  # steps in which libraries choose their kernels and optimisers make their state, before one is captured


class CapturedStep:
    """`step` (images -> loss), recorded once and replayed on other images of the same shape.

    It must launch the same kernels on the same tensors each time: what changes between steps is to be a tensor, filled before.
    """

    def __init__(self, step: Callable[[Tensor], Tensor], images: Tensor):
        self.images, beside = images.clone(), torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARMING):
                step(self.images)
        torch.cuda.current_stream().wait_stream(beside)
        self.graph, self.done = torch.cuda.CUDAGraph(), torch.cuda.Event()
        with torch.cuda.graph(self.graph):
            self.loss = step(self.images)

    def __call__(self, images: Tensor) -> Tensor:
        self.done.synchronize()  # one step ahead of the device is enough; more would outlast the time that is given
        self.images.copy_(images)
        self.graph.replay()
        self.done.record()
        return self.loss.clone()
