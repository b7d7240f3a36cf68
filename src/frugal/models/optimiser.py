"""Muon for the kernels inside a network, AdamW for what enters and leaves it, its biases and norms."""

import torch
from torch import Tensor, nn

OUTER = ("conv_in", "conv_out", "time_embedding")  # not hidden layers: AdamW trains them


class Optimiser:
    """Momentum whose matrices are orthogonalised (Muon, Jordan et al. 2024, with the rates of AdamW, arXiv 2502.16982).

    A convolution's kernel counts as the matrix [out, in * height * width]. PyTorch's Muon takes matrices alone, so it is given
    views that share the kernels' memory. `matrix_rate` 0: AdamW for everything.
    """

    def __init__(self, network: nn.Module, rate: float, matrix_rate: float = 0.0):
        self.named = {name: p for name, p in network.named_parameters() if p.requires_grad}
        hidden = {
            name: p for name, p in self.named.items() if matrix_rate and p.ndim > 1 and not name.startswith(OUTER)
        }
        self.views = {name: p.detach().view(len(p), -1) for name, p in hidden.items()}
        rest = [p for name, p in self.named.items() if name not in hidden]
        self.on_gpu = rest[0].is_cuda
        outer = torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.99), weight_decay=0.0, capturable=self.on_gpu)
        self.rates, self.parts = [rate], [outer]
        if hidden:
            self.rates.append(matrix_rate)
            views = list(self.views.values())
            self.parts.append(torch.optim.Muon(views, lr=matrix_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"))

    def step(self, factor: float | Tensor) -> None:
        """One update at `factor` times the peak rates; clears the gradients.

        A captured step holds its numbers for good, so there `factor` is a tensor, by which an update at the peak is shortened:
        without weight decay that is the same.
        """
        captured = isinstance(factor, Tensor)
        for name, view in self.views.items():
            view.grad = self.named[name].grad.reshape(view.shape)
        weights = [parameter.detach() for parameter in self.named.values()]
        before = [weight.clone() for weight in weights] if captured else []
        for part, rate in zip(self.parts, self.rates, strict=True):
            for group in part.param_groups:
                group["lr"] = rate if captured else rate * factor
            part.step()
        if captured:
            torch._foreach_sub_(weights, before)
            torch._foreach_mul_(weights, factor)
            torch._foreach_add_(weights, before)
        for parameter in (*self.named.values(), *self.views.values()):
            parameter.grad = None

    def _states(self):
        for name, parameter in self.named.items():
            yield name, self.parts[name in self.views].state[self.views.get(name, parameter)]

    def state(self) -> dict[str, Tensor]:
        """What has been accumulated, one flat name a tensor, for a checkpoint."""
        return {
            f"{name}.{key}": value.reshape(-1).clone() if value.ndim == 0 else value.contiguous()
            for name, state in self._states()
            for key, value in state.items()
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        for name, state in self._states():
            found = {k.rpartition(".")[2]: v for k, v in tensors.items() if k.rpartition(".")[0] == name}
            state.update({key: v if key != "step" else v[0] if self.on_gpu else v[0].cpu() for key, v in found.items()})
