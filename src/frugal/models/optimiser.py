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
        self.rates = [rate]
        self.parts: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, betas=(0.9, 0.99), weight_decay=0.0)]
        if hidden:
            self.rates.append(matrix_rate)
            views = list(self.views.values())
            self.parts.append(torch.optim.Muon(views, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"))

    def step(self, factor: float) -> None:
        """One update at `factor` times the peak rates; clears the gradients."""
        for name, view in self.views.items():
            view.grad = self.named[name].grad.view_as(view)
        for part, rate in zip(self.parts, self.rates, strict=True):
            for group in part.param_groups:
                group["lr"] = rate * factor
            part.step()
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
            state.update({key: v[0].cpu() if key == "step" else v for key, v in found.items()})
