"""Muon and AdamW as one optimiser."""

import torch
from torch import nn

from frugal.models.optimiser import Optimiser


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_in, self.hidden = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3)


def gradients(network):
    torch.manual_seed(1)
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    return {name: parameter.grad.clone() for name, parameter in network.named_parameters()}


def test_hidden_kernels_move_by_an_orthogonal_matrix_and_the_rest_by_adamw():
    network = Small()
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimiser = Optimiser(network, rate=0.1, matrix_rate=0.2)
    found = gradients(network)
    optimiser.step(0.5)
    moved = {name: (before[name] - parameter).detach() for name, parameter in network.named_parameters()}
    assert all(parameter.grad is None for parameter in network.parameters())
    for name in ("conv_in.weight", "conv_in.bias", "hidden.bias"):  # AdamW's first step: the rate, by the gradient's sign
        assert torch.allclose(moved[name], 0.05 * found[name].sign(), atol=1e-4), name
    spectrum = torch.linalg.svdvals(moved["hidden.weight"].flatten(1))
    assert spectrum.min() > 0.4 * spectrum.max()  # five Newton-Schulz steps leave them between about 0.7 and 1.2
    assert moved["hidden.weight"].square().mean().sqrt() <= 0.05  # RMS about a fifth of the rate, as AdamW's


def test_without_a_matrix_rate_it_is_adamw():
    torch.manual_seed(0)
    network, plain = Small(), Small()
    plain.load_state_dict(network.state_dict())
    optimiser = Optimiser(network, rate=0.01)
    adamw = torch.optim.AdamW(plain.parameters(), lr=0.005, betas=(0.9, 0.99), weight_decay=0.0)
    for _ in range(3):
        gradients(network), gradients(plain)
        optimiser.step(0.5), adamw.step()
    for a, b in zip(network.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_update_told_by_a_tensor_is_the_one_told_by_a_number():
    torch.manual_seed(0)
    told, captured = Small(), Small()
    captured.load_state_dict(told.state_dict())
    numbers, tensors = Optimiser(told, rate=0.01, matrix_rate=0.02), Optimiser(captured, rate=0.01, matrix_rate=0.02)
    for factor in (1.0, 0.5, 0.1):
        gradients(told), gradients(captured)
        numbers.step(factor), tensors.step(torch.tensor(factor))
    pairs = zip(told.parameters(), captured.parameters(), strict=True)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in pairs)
    assert all(parameter.grad is None for parameter in captured.parameters())
