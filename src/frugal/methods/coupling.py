"""Couplings of a draft N(m_p, std^2 I) with its target N(m_q, std^2 I): exact in the target's law, alike as often as can be.

Whole tensors are compared, never pixels: the distance delta = |m_p - m_q| / std of their means decides how often a
draft is kept, at best 2 Phi(-delta / 2) of the time, one less the total variation of the two.
"""

import math

import torch
from torch import Tensor

HALVINGS = 64  # of the bracket around a residual sample, in float64
FAR, LEAST = 12, -1e3  # standard deviations, and a logarithm, beyond which a mass is 0 in float64


def reflection_couple(
    draft_mean: Tensor,  # [n, ...], also [n]
    target_mean: Tensor,  # the same shape
    std: Tensor | float,  # of both, > 0: [n] or one for all
    noise: Tensor,  # the same shape: standard normal, what made the draft's sample draft_mean + std * noise
    uniform: Tensor,  # [n] in [0, 1)
    temperature: float = 1.0,  # 1: exact; above: more drafts are kept, and the law is no longer the target's
) -> tuple[Tensor, Tensor]:
    """(sample float32 [n, ...], accepted bool [n]): the draft's sample, or its mirror image about the midpoint of the means.

    At temperature 1 the sample is N(target_mean, std^2 I), and accepted with probability 2 Phi(-delta / 2), the most that
    any coupling reaches. Above, the log-ratio of densities is divided by its square. Raises ValueError for shapes that
    do not fit, std not above 0, uniform outside [0, 1) or temperature < 1. Source: De Bortoli et al., arXiv 2501.05370, algorithm 4.
    """
    std = _std(draft_mean, target_mean, std, noise, uniform)
    check_temperature(temperature)
    draft_mean, target_mean, noise = draft_mean.float(), target_mean.float(), noise.float()
    unit, delta = direction(draft_mean, target_mean, std)
    along = _inner(unit, noise)
    log_ratio = delta * (along - delta / 2) / temperature / temperature  # log N(sample; m_q) - log N(sample; m_p)
    accepted = torch.log1p(-uniform.to(log_ratio)) <= log_ratio  # log(1 - u): u = 0 must not accept what is impossible
    mirrored = noise - 2 * wide(along, noise) * unit
    kept = draft_mean + wide(std, noise) * noise
    return torch.where(wide(accepted, noise), kept, target_mean + wide(std, noise) * mirrored), accepted


def direction(draft_mean: Tensor, target_mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """From draft to target: the unit vector [n, ...] (0 where they agree) and the distance in units of std [n], float32."""
    apart = (target_mean - draft_mean).float()
    length = _flat(apart).norm(dim=1)
    return apart / wide(length.clamp(min=1e-30), apart), length / std.float()


def block_verify(
    log_ratios: Tensor,  # [n, L]: log of target's over draft's density at each drafted sample
    deltas: Tensor,  # [n, L]: distance of the means of each step, given the drafts before it
    uniforms: Tensor,  # [n, L] in [0, 1)
    lengths: Tensor,  # [n], 0 .. L: how many of the steps were drafted
) -> tuple[Tensor, Tensor]:
    """(accepted int [n], log_weight float64 [n]): how many drafted steps to keep, and the weight of what replaces the next.

    All of a window is judged together: a step too likely under the target makes up for an unlikely one after it, so that
    on average at least as many are kept as one by one. What replaces step `accepted` is drawn by residual_sample with
    log_weight. Source: Sun et al., arXiv 2403.10444, algorithm 2; for Gaussians Soen et al., arXiv 2606.13426.
    """
    count, window = log_ratios.shape
    log_p = torch.zeros(count, dtype=torch.float64, device=log_ratios.device)
    accepted, log_weight = torch.zeros_like(lengths), log_p.clone()
    for i in range(window):
        log_p = (log_p + log_ratios[:, i].double()).clamp(max=0)
        following = deltas[:, i + 1] if i + 1 < window else torch.zeros_like(deltas[:, i])
        keep = _keep(log_p, following.double(), lengths == i + 1)
        taken = (uniforms[:, i].double() < keep) & (i < lengths)
        accepted = torch.where(taken, i + 1, accepted)
        log_weight = torch.where(taken, log_p, log_weight)
    return accepted, log_weight


def residual_sample(
    draft_mean: Tensor, target_mean: Tensor, std: Tensor, noise: Tensor, uniform: Tensor, log_weight: Tensor
) -> Tensor:
    """A sample of density proportional to max(0, w q - p), float32 [n, ...], log_weight = log w <= 0; `noise` is fresh.

    It differs from a standard normal only along m_q - m_p, where the inverse of its distribution function is found by
    halving; at w = 1 it is what the rejected draft of a maximal coupling is replaced by. Where p = q there is nothing left
    to replace, and q itself is drawn. Source: Soen et al., arXiv 2606.13426, proposition 3.1.
    """
    unit, delta = direction(draft_mean, target_mean, std)
    along = _residual(delta.double(), log_weight.double(), uniform.double()).float()
    normal = noise.float() + wide(along - _inner(unit, noise.float()), noise) * unit
    return target_mean.float() + wide(std.float(), noise) * normal


def check_temperature(temperature: float) -> None:
    """ValueError unless it is a finite number of at least 1."""
    number = isinstance(temperature, int | float) and not isinstance(temperature, bool)
    if not number or not 1 <= temperature < math.inf:
        raise ValueError(f"temperature={temperature!r}: allowed is 1 (exact) or more (approximate)")


def _keep(log_p: Tensor, delta: Tensor, last: Tensor) -> Tensor:
    """Probability that a block is kept up to here: S / (S + 1 - p), S the mass of max(0, p q - p_draft) one step on."""
    mass = _mass(log_p, delta)[0]
    inner = torch.where(log_p < 0, mass / (mass - torch.expm1(log_p)), 1.0)
    return torch.where(last, log_p.exp(), inner)


def _mass(log_weight: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Mass of max(0, w phi(s) - phi(s + delta)), and the s at which its support begins: s counts from m_q, so that no distance is too long."""
    start = -delta / 2 - log_weight.clamp(min=LEAST) / delta.clamp(min=1e-12)
    return _beyond(start, delta, log_weight).clamp(min=0), start


def _beyond(s: Tensor, delta: Tensor, log_weight: Tensor) -> Tensor:
    return log_weight.exp() * torch.special.ndtr(-s) - torch.special.ndtr(-s - delta)


def _residual(delta: Tensor, log_weight: Tensor, uniform: Tensor) -> Tensor:
    """Where along the unit vector, from m_q in units of std, the residual lies: its mass beyond is (1 - uniform) of all."""
    mass, start = _mass(log_weight, delta)
    low = start.clamp(min=-FAR)
    high, wanted = low.clamp(min=0) + FAR, mass * (1 - uniform)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        beyond = _beyond(middle, delta, log_weight) > wanted
        low, high = torch.where(beyond, middle, low), torch.where(beyond, high, middle)
    plain = torch.special.ndtri(uniform.clamp(1e-12, 1 - 1e-12))
    return torch.where(mass > 1e-12, low, plain)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (_flat(a) * _flat(b)).sum(1)


def _flat(values: Tensor) -> Tensor:
    return values[:, None].flatten(1)


def wide(values: Tensor, like: Tensor) -> Tensor:
    """Values [n, ...] with as many dimensions as `like`, to be multiplied with it."""
    return values.reshape(*values.shape, *[1] * (like.ndim - values.ndim))


def _std(draft_mean: Tensor, target_mean: Tensor, std: Tensor | float, noise: Tensor, uniform: Tensor) -> Tensor:
    shape = draft_mean.shape
    if not shape:
        raise ValueError("draft_mean: got a single number, allowed is a tensor [n, ...]")
    for name, value, wanted in (
        ("target_mean", target_mean, shape), ("noise", noise, shape), ("uniform", uniform, shape[:1])
    ):  # fmt: skip
        if value.shape != wanted:
            raise ValueError(f"{name}: got shape {tuple(value.shape)}, allowed is {tuple(wanted)}, as of draft_mean")
    std = torch.as_tensor(std, dtype=torch.float32, device=draft_mean.device)
    if not bool(((uniform >= 0) & (uniform < 1)).all()):
        raise ValueError("uniform: allowed are numbers in [0, 1)")
    if std.shape not in ((), shape[:1]) or not bool(((std > 0) & std.isfinite()).all()):
        raise ValueError(f"std: got {std.tolist()}, allowed is one finite number above 0, or one for each of {len(draft_mean)}")
    return std.expand(shape[:1])
