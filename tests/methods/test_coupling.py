"""Couplings of Gaussians: marginals exact, acceptance the most there can be."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm

from frugal.methods.coupling import block_verify, direction, residual_sample
from frugal.methods.speculative import reflection_couple

N, D, STD, LEVEL = 20_000, 6, 0.7, 0.001


def means(delta, n=N):
    """Draft and target means of shape [n, 2, 3] that lie delta * STD apart along a fixed oblique direction."""
    towards = torch.tensor([2.0, -1.0, 0.5, 1.0, 0.0, -0.5])
    draft = torch.linspace(-1, 1, D).expand(n, D)
    target = draft + delta * STD * towards / towards.norm()
    return draft.reshape(n, 2, 3), target.reshape(n, 2, 3), (towards / towards.norm()).reshape(2, 3)


def draws(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uniforms(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def couple(delta, temperature=1.0, seed=0):
    draft, target, towards = means(delta)
    noise = draws(seed, N, 2, 3)
    sample, accepted = reflection_couple(draft, target, STD, noise, uniforms(seed + 1, N), temperature)
    return draft, target, towards, noise, sample, accepted


@pytest.mark.parametrize("delta", [0.0, 0.1, 1.0, 3.0])
def test_every_projection_of_the_sample_follows_the_target(delta):
    _, target, towards, _, sample, _ = couple(delta)
    centred = (sample - target) / STD
    across = torch.tensor([1.0, 2.0, 0, 0, 0, 0]).reshape(2, 3) / 5**0.5  # orthogonal to the direction between the means
    assert (across * towards).sum().abs() < 1e-6
    for axis in (towards, across, torch.full((2, 3), D**-0.5)):
        assert kstest((centred * axis).sum((1, 2)).numpy(), "norm").pvalue > LEVEL


@pytest.mark.parametrize("delta", [0.1, 0.5, 1.0, 2.0, 3.0])
def test_acceptance_is_one_less_the_total_variation(delta):
    accepted = couple(delta)[-1].double()
    expected = 2 * norm.cdf(-delta / 2)
    assert abs(accepted.mean().item() - expected) < 3 * (expected * (1 - expected) / N) ** 0.5


def test_what_is_accepted_is_the_draft_to_the_last_bit():
    draft, _, _, noise, sample, accepted = couple(1.0)
    kept = draft + torch.tensor(STD) * noise
    assert torch.equal(sample[accepted], kept[accepted])
    assert (sample[~accepted] != kept[~accepted]).flatten(1).any(1).all()
    assert 0 < accepted.sum() < N


def test_equal_means_accept_everything():
    assert couple(0.0)[-1].all()


def test_zero_as_the_uniform_number_does_not_accept_the_impossible():
    draft, target, towards = means(8.0, 1)
    noise = -8.0 * towards[None]  # a ratio of densities of exp(-96)
    _, accepted = reflection_couple(draft, target, STD, noise, torch.zeros(1))
    assert not accepted.any()


def test_a_temperature_above_one_keeps_more_and_changes_the_law():
    _, target, towards, _, sample, accepted = couple(1.0, temperature=3.0)
    assert accepted.float().mean() > couple(1.0)[-1].float().mean() + 0.1
    assert kstest((((sample - target) / STD) * towards).sum((1, 2)).numpy(), "norm").pvalue < LEVEL


def test_half_precision_is_compared_in_single():
    draft, target, _ = means(1.0)
    noise = draws(0, N, 2, 3).bfloat16()
    sample, accepted = reflection_couple(draft.bfloat16(), target.bfloat16(), STD, noise, uniforms(1, N))
    assert sample.dtype == torch.float32
    assert abs(accepted.float().mean().item() - 2 * norm.cdf(-0.5)) < 0.02


def test_each_row_has_its_own_std():
    draft, target, _ = means(1.0)
    std = torch.where(torch.arange(N) % 2 == 0, STD, 4 * STD)
    _, accepted = reflection_couple(draft, target, std, draws(0, N, 2, 3), uniforms(1, N))
    for which, delta in ((0, 1.0), (1, 0.25)):
        expected = 2 * norm.cdf(-delta / 2)
        assert abs(accepted[which::2].double().mean().item() - expected) < 3 * (expected * (1 - expected) / (N / 2)) ** 0.5


def test_single_numbers_are_coupled_as_vectors_of_one():
    draft, target, noise, uniform = draws(0, N), draws(1, N), draws(2, N), uniforms(3, N)
    sample, accepted = reflection_couple(draft, target, STD, noise, uniform)
    same, also = reflection_couple(draft[:, None], target[:, None], STD, noise[:, None], uniform)
    assert torch.equal(sample, same[:, 0]) and torch.equal(accepted, also) and 0 < accepted.sum() < N
    assert kstest(((sample - target) / STD).numpy(), "norm").pvalue > LEVEL


@pytest.mark.parametrize("std", [1e-3, 1e-20, 1e-42])
def test_means_however_far_apart_leave_the_target_alone(std):
    draft, target, towards = means(1.0)
    std, noise, uniform = torch.full((N,), std), draws(0, N, 2, 3), uniforms(1, N)
    sample, accepted = reflection_couple(draft, target, std, noise, uniform)
    assert not accepted.any() and (sample - target).abs().max() <= 10 * std[0]
    _, delta = direction(draft, target, std)
    ratio = delta * ((towards * noise).sum((1, 2)) - delta / 2)
    accepted, weight = block_verify(ratio[:, None], delta[:, None], uniform[:, None], torch.ones(N, dtype=torch.long))
    assert not accepted.any()
    left = residual_sample(draft, target, std, noise, uniform, weight)
    assert (left - target).abs().max() <= 10 * std[0]


def test_the_residual_of_means_far_apart_is_the_target():
    draft, target, towards = means(1e3 / STD)
    left = residual_sample(draft, target, torch.ones(N), draws(0, N, 2, 3), uniforms(1, N), torch.zeros(N, dtype=torch.float64))
    assert kstest(((left - target) * towards).sum((1, 2)).numpy(), "norm").pvalue > LEVEL


def test_a_temperature_beyond_all_numbers_keeps_every_draft():
    assert couple(3.0, temperature=1e200)[-1].all()


@pytest.mark.parametrize(("temperature", "kept"), [(1.0, np.exp(-2)), (2.0, np.exp(-1 / 2)), (4.0, np.exp(-1 / 8))])
def test_the_square_of_the_temperature_divides_the_log_ratio_of_densities(temperature, kept):
    noise, std = torch.full((1000,), -1.5), 0.5  # means one std apart: log N(x; 1) - log N(x; 0) = x - 1/2 = -2
    uniform = torch.arange(1000) / 1000
    _, accepted = reflection_couple(torch.zeros(1000), torch.full((1000,), std), std, noise, uniform, temperature)
    assert accepted.double().mean().item() == pytest.approx(kept, abs=2e-3)


@pytest.mark.parametrize(("delta", "weight"), [(0.3, 1.0), (1.0, 1.0), (1.0, 0.6), (3.0, 0.05), (6.0, 1e-3)])
def test_the_residual_has_the_density_left_over(delta, weight):
    draft, target, towards = means(delta)
    log_weight = torch.full((N,), float(np.log(weight)))
    sample = residual_sample(draft, target, torch.full((N,), STD), draws(3, N, 2, 3), uniforms(4, N), log_weight)
    along = (((sample - draft) / STD) * towards).sum((1, 2)).numpy()
    grid = np.linspace(-9, 16, 200_001)
    density = np.maximum(0, weight * norm.pdf(grid - delta) - norm.pdf(grid))
    known = np.cumsum(density) / density.sum()
    assert kstest(along, lambda x: np.interp(x, grid, known)).pvalue > LEVEL
    across = (((sample - draft) / STD) * torch.tensor([1.0, 2.0, 0, 0, 0, 0]).reshape(2, 3) / 5**0.5).sum((1, 2))
    assert kstest(across.numpy(), "norm").pvalue > LEVEL


def slopes(state, target):
    """The mean of the next state of a chain on the line: the draft's is a bad guess where the state is large."""
    return torch.sin(2 * state) + 0.8 * state if target else 0.5 * state + 0.3


def block_chain(steps, seed):
    """The first `steps` states of a chain judged in one block, what follows an accepted prefix drawn from the target."""
    state, path, p, q = torch.zeros(N, 1), [], [], []
    noise, unit_std = draws(seed, N, steps, 1), torch.ones(N)
    for i in range(steps):
        p.append(slopes(state, False))
        q.append(slopes(state, True))
        path.append(state := p[-1] + noise[:, i])
    found = [direction(a, b, unit_std) for a, b in zip(p, q, strict=True)]
    deltas = torch.stack([delta for _, delta in found], 1)
    ratios = torch.stack([d * ((u * noise[:, i]).sum(1) - d / 2) for i, (u, d) in enumerate(found)], 1)
    accepted, weight = block_verify(ratios, deltas, uniforms(seed + 1, N, steps), torch.full((N,), steps))
    fresh, uniform, out = draws(seed + 2, N, steps, 1), uniforms(seed + 3, N), []
    for i in range(steps):
        before = out[-1] if i else torch.zeros(N, 1)
        left = residual_sample(p[i], q[i], unit_std, fresh[:, i], uniform, weight)
        onward = slopes(before, True) + fresh[:, i]
        out.append(torch.where((i < accepted)[:, None], path[i], torch.where((i == accepted)[:, None], left, onward)))
    return torch.cat(out, 1), accepted, deltas


def test_a_chain_judged_by_blocks_follows_the_target():
    chain, accepted, _ = block_chain(4, 10)
    assert set(accepted.unique().tolist()) == {0, 1, 2, 3, 4}
    plain, state = [], torch.zeros(N, 1)
    noise = draws(99, N, 4, 1)
    for i in range(4):
        plain.append(state := slopes(state, True) + noise[:, i])
    plain = torch.cat(plain, 1)
    for values in (lambda x: x[:, 0], lambda x: x[:, 1], lambda x: x[:, 3], lambda x: x[:, 1] - x[:, 0], lambda x: x[:, 3] - x[:, 2]):
        assert kstest(values(chain).numpy(), values(plain).numpy()).pvalue > LEVEL


def test_blocks_keep_more_than_single_steps_do():
    _, accepted, deltas = block_chain(4, 20)
    single = torch.special.ndtr(-deltas.double() / 2) * 2  # chance of each step alone, given the drafted states before it
    block, alone = accepted.double().mean(), single.cumprod(1).sum(1).mean()
    assert block > alone + 3 * accepted.double().std() / N**0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_mean": torch.zeros(4, 2)}, r"target_mean: got shape \(4, 2\)"),
        ({"noise": torch.zeros(3, 3)}, r"noise: got shape \(3, 3\)"),
        ({"uniform": torch.zeros(4)}, r"uniform: got shape \(4,\)"),
        ({"uniform": torch.ones(3)}, r"uniform: allowed are numbers in \[0, 1\)"),
        ({"uniform": torch.full((3,), torch.nan)}, "uniform: allowed"),
        ({"draft_mean": torch.tensor(1.0)}, "draft_mean: got a single number"),
        ({"std": 0.0}, "std: got 0.0, allowed is one finite number above 0"),
        ({"std": float("inf")}, "std: got inf"),
        ({"std": torch.ones(2)}, "std: got"),
        ({"temperature": 0.5}, "temperature=0.5: allowed is 1"),
        ({"temperature": float("nan")}, "temperature=nan"),
    ],
)
def test_bad_input_is_named(change, message):
    good = {"draft_mean": torch.zeros(3, 2), "target_mean": torch.ones(3, 2), "std": 1.0, "noise": torch.zeros(3, 2)}
    with pytest.raises(ValueError, match=message):
        reflection_couple(**good | {"uniform": torch.full((3,), 0.5)} | change)
