"""Speculative sampling is exact: in law on a mixture whose score is known, to the last digit where nothing is drafted."""

import math
from types import SimpleNamespace

import diffusers
import pytest
import torch
from scipy.stats import ks_2samp
from torch import nn

from frugal import sample, zoo
from frugal.measure import cost
from frugal.methods import drafts
from frugal.methods.chain import chain, predictor
from frugal.methods.samplers import denoise
from frugal.methods.speculative import DRAFTS, ROWS, VERIFIERS, speculate
from frugal.methods.verification import judge, swept
from frugal.models.recipes import schedule
from frugal.models.zoo import Model

LEVEL = 0.001
CENTRES, SHARES, SPREAD = torch.tensor([-0.8, 0.1, 0.7]), torch.tensor([0.5, 0.2, 0.3]), 0.15


class MixtureDenoiser(nn.Module):
    """The best prediction for images whose pixels all lie about one of CENTRES, with their own spread: in closed form."""

    def __init__(self, scheduler, size=3, channels=1, error=0.0, shares=SHARES):
        super().__init__()
        self.config = SimpleNamespace(sample_size=size, in_channels=channels)
        self.alpha_bar, self.kind, self.error = scheduler.alphas_cumprod, scheduler.config.prediction_type, error
        self.shares = shares

    def forward(self, x, t):
        alpha_bar = self.alpha_bar[t].reshape(-1, 1, 1, 1)
        a, b = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        variance = a**2 * SPREAD**2 + b**2
        away = x[:, None] - a[:, None] * CENTRES.reshape(3, 1, 1, 1)
        logs = self.shares.log() - away.square().sum((2, 3, 4)) / (2 * variance.reshape(-1, 1))
        weights = logs.softmax(1)[..., None, None, None]
        means = CENTRES.reshape(3, 1, 1, 1) + (a * SPREAD**2 / variance)[:, None] * away
        clean = (weights * means).sum(1) + self.error
        noise = (x - a * clean) / b
        return SimpleNamespace(sample=a * noise - b * clean if self.kind == "v_prediction" else noise)


def mixture(name="mixture", scheduler=None, **options):
    scheduler = scheduler or schedule(1.0)
    return Model(name, "memory", MixtureDenoiser(scheduler, **options), scheduler)


def finish(model, seeds, steps, **options):
    """The last states, and every round."""
    rounds = list(speculate(model, seeds, steps, **options))
    return rounds[-1].samples, rounds


@pytest.fixture(scope="module")
def tiny(small_model):
    return small_model(8)


STATISTICS = {
    "a pixel": lambda x: x[:, 0, 0, 0],
    "the mean": lambda x: x.mean((1, 2, 3)),
    "a difference": lambda x: x[:, 0, 0, 0] - x[:, 0, 1, 1],
    "the deviation": lambda x: x.std((1, 2, 3)),
}


def smallest_p(samples, others):
    return min(ks_2samp(f(samples).numpy(), f(others).numpy()).pvalue for f in STATISTICS.values())


@pytest.fixture(scope="module")
def sequential():
    """1,000 images by the sequential sampler, seeds of their own."""
    for state in denoise(mixture(), range(10_000, 11_000), 20, "ddim", eta=0.7):
        pass
    return state.sample


@pytest.mark.parametrize(
    ("verify", "draft"),
    [("replay", kind) for kind in (*DRAFTS, "network")] + [(v, kind) for v in ("reflection", "block") for kind in ("clean", "network")],
)
def test_a_whole_chain_follows_the_sequential_sampler(verify, draft, sequential):
    model = mixture()
    kind = mixture("off", error=0.3) if draft == "network" else draft
    samples, rounds = finish(model, range(1000), 20, draft=kind, verify=verify, window=6, churn=0.7)
    assert smallest_p(samples, sequential) > LEVEL
    kept = torch.cat([r.committed == r.rows for r in rounds]).float().mean()
    assert 0.05 < kept < 0.95  # both kinds of window happen, so both are tested


def test_blocks_leave_no_trace_in_the_noise_that_follows():
    """Where most blocks are cut short, noise that had a part in the judgement would show if it were used again."""
    for state in denoise(mixture(), range(10_000, 12_500), 12, "ddim", eta=1.0):
        pass
    off = mixture("off", error=0.8)
    samples, _ = finish(mixture(), range(2500), 12, draft=off, verify="block", window=12, churn=1.0)
    assert smallest_p(samples, state.sample) > LEVEL


def test_the_same_test_finds_an_approximate_chain(sequential):
    samples, _ = finish(mixture(), range(1000), 20, draft=mixture("off", error=0.3), window=6, churn=0.7, temperature=4.0, verify="reflection")
    assert smallest_p(samples, sequential) < LEVEL


@pytest.mark.parametrize("churn", [0.3, 1.0])
@pytest.mark.parametrize("verify", VERIFIERS)
def test_window_one_is_the_sequential_sampler(tiny, churn, verify):
    ours = sample(tiny, [3, 8], steps=7, sampler="speculative", window=1, churn=churn, verify=verify)
    theirs = sample(tiny, [3, 8], steps=7, sampler="ddim", eta=churn)
    assert torch.allclose(ours, theirs, atol=1e-5)
    if churn == 1:
        assert torch.allclose(ours, sample(tiny, [3, 8], steps=7, sampler="ddpm"), atol=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_clipped_chain_at_full_churn_is_ddpm(tiny, kind):
    scheduler = diffusers.DDPMScheduler(prediction_type=kind, clip_sample=True, timestep_spacing="trailing")
    model = Model("clipped", "memory", tiny.unet, scheduler)
    ours = sample(model, [4], steps=6, sampler="speculative", window=1, churn=1.0)
    assert torch.allclose(ours, sample(model, [4], steps=6, sampler="ddpm"), atol=1e-5)


@pytest.mark.parametrize("verify", VERIFIERS)
@pytest.mark.parametrize(("steps", "window"), [(25, 10), (20, 5), (7, 3)])
def test_the_target_as_its_own_draft_is_always_accepted(verify, steps, window):
    model = mixture()
    _, rounds = finish(model, range(5), steps, draft=model, window=window, verify=verify)
    assert len(rounds) == math.ceil(steps / window)
    assert all(torch.equal(r.committed, r.rows) and len(r.images) == 5 for r in rounds)


def test_a_draft_that_is_the_target_changes_no_image():
    model = mixture()
    ours, _ = finish(model, range(5), 20, draft=model, window=5, churn=0.6)
    for state in denoise(model, range(5), 20, "ddim", eta=0.6):
        pass
    assert torch.allclose(ours, state.sample, atol=1e-5)


@pytest.mark.parametrize("verify", VERIFIERS)
def test_an_image_depends_on_its_seed_alone(verify):
    options = {"steps": 15, "sampler": "speculative", "window": 6, "verify": verify}
    together = sample(mixture(), [7, 2, 5], **options)
    reordered = sample(mixture(), [5, 7, 2], batch_size=2, **options)
    assert torch.allclose(together, reordered[[1, 2, 0]], atol=1e-6)
    assert torch.allclose(together[1:2], sample(mixture(), [2], **options), atol=1e-6)
    assert (together[0] - together[1]).abs().max() > 0.01


def test_rounds_tell_what_the_hook_counts():
    model = mixture(size=8)
    draft = mixture("off", size=8, error=0.1)
    with cost.count_calls(model.unet) as calls, cost.count_calls(draft.unet) as drafts:
        _, rounds = finish(model, range(6), 30, window=30, draft=draft, churn=1.0)
    assert calls.calls == len(rounds) < 30 and calls.rows == sum(int(r.rows.sum()) for r in rounds)
    assert drafts.calls > calls.calls
    taken, asked = torch.zeros(6, dtype=torch.long), torch.zeros(6, dtype=torch.long)
    for r in rounds:
        assert torch.equal(r.first, taken[r.images]) and bool((1 <= r.committed).all() and (r.committed <= r.rows).all())
        assert (r.distances.isfinite().sum(1) == r.rows - 1).all()
        taken[r.images] += r.committed
        asked[r.images] += r.rows
        assert (asked <= ROWS * taken).all()  # at every moment, not only in the end
    assert (taken == 30).all()


def test_images_advance_at_their_own_pace():
    _, rounds = finish(mixture(size=8), range(8), 30, draft="clean", window=10, churn=1.0)
    assert any(len(set(r.first.tolist())) > 1 for r in rounds) and len(rounds[-1].images) < 8


def calls_each(model, count, **options):
    calls = torch.zeros(count)
    for r in speculate(model, range(count), 50, window=10, **options):
        calls[r.images] += 1
    return calls.mean().item()


def test_better_drafts_need_fewer_calls():
    model = mixture(size=12)
    plain = {kind: calls_each(model, 24, churn=1.0, draft=kind, verify="reflection") for kind in DRAFTS}
    assert plain["tweedie"] < plain["clean"] < plain["velocity"] < 50
    assert calls_each(model, 24, churn=1.0, draft="velocity", verify="replay") < plain["velocity"] - 2


def test_a_temperature_above_one_needs_fewer_calls():
    model = mixture(size=12)
    assert calls_each(model, 24, draft="clean", temperature=2.0) < calls_each(model, 24, draft="clean")


def test_above_temperature_one_replay_keeps_to_the_path_of_the_sequential_chain(tiny):
    truth = sample(tiny, range(4), 30, "ddim", eta=0.5)
    options = {"steps": 30, "sampler": "speculative", "window": 8, "churn": 0.5, "temperature": 2.0}
    apart = {verify: (sample(tiny, range(4), verify=verify, **options) - truth).square().mean() for verify in ("replay", "reflection")}
    assert apart["replay"] < apart["reflection"] / 10


def test_the_known_difference_mends_a_smaller_network():
    model, draft = mixture(size=8), mixture("off", size=8, error=0.3)
    mended = calls_each(model, 8, draft=draft)
    assert mended < calls_each(model, 8, draft=draft, verify="reflection") - 2
    assert mended < calls_each(model, 8, draft="clean")


def test_the_gain_of_gaussian_data_is_found(monkeypatch):
    seen, plain = {}, drafts.Tweedie.begin

    def begin(self, window):
        plain(self, window)
        seen[int(window.first[0])] = self.gain.mean().item()

    monkeypatch.setattr(drafts.Tweedie, "begin", begin)
    finish(mixture(size=16, shares=torch.tensor([1e-30, 1.0, 1e-30])), [0], 100, window=5, verify="reflection")
    a = chain(mixture(), 100, 0.5).signal.double()
    known = a * SPREAD**2 / (a**2 * SPREAD**2 + 1 - a**2)  # sqrt(a) Var(x_0 | x) / (1 - a) of one normal distribution
    steps = [step for step in seen if 30 < step < 90]
    assert len(steps) > 10
    for step in steps:  # it grows from step to step, and sums that fade lag behind
        assert 0.9 * known[step - 12] < seen[step] < 1.1 * known[step]


@pytest.fixture
def judged():
    """Judges a first window of a mixture's chain, of six steps drafted with some noise, by Tweedie's draft."""
    model = mixture()
    target = chain(model, 12, 0.8)
    predict, start = predictor(model, None, None, target, 1), torch.randn(1, 1, 3, 3, generator=torch.Generator().manual_seed(0))

    def make(noise, ahead=None, states=start):
        ahead = drafts.Window.empty(1, 6, model.latent_shape, model.device) if ahead is None else ahead
        return target, ahead, judge(target, predict, drafts.Tweedie(target), ahead, states, noise, torch.tensor([6]))

    return make


def test_a_draft_does_not_depend_on_noise_that_is_still_to_be_used(judged):
    noise, others, taken = *torch.randn(2, 1, 6, 1, 3, 3, generator=torch.Generator().manual_seed(1)), torch.tensor([3])

    def following(noise):
        target, ahead, _ = judged(noise)
        drafts.probe_gain(ahead, target, taken, torch.tensor([6]))
        ahead.advance(taken, replay=False)
        return judged(others, ahead, torch.ones(1, 1, 3, 3))[2].draft_means

    behind, before = (torch.where((torch.arange(6) < 3)[:, None, None, None], *pair) for pair in ((noise, others), (others, noise)))
    assert torch.equal(following(noise), following(behind))
    assert not torch.allclose(following(noise), following(before), atol=1e-3)  # what has been used is learned from


def test_a_sweep_takes_the_target_s_own_steps_with_the_clean_samples_that_it_predicted(judged):
    noise = torch.randn(1, 6, 1, 3, 3, generator=torch.Generator().manual_seed(1))
    target, ahead, found = judged(noise)
    state, means = ahead.states[:, 1], []
    for k in range(6):
        means.append(target.clean_weight[k] * ahead.cleans[:, k + 1] + target.state_weight[k] * state)
        state = means[-1] + target.std[k] * noise[:, k]
    assert torch.allclose(swept(found), torch.stack(means, 1), atol=1e-5)
    assert not torch.allclose(swept(found), found.target_means, atol=1e-2)


def test_text_and_guidance_reach_every_row(text_pipeline):
    model = zoo.load(text_pipeline)
    options = {"steps": 4, "prompts": ["a face", "a red hat"], "guidance": 3.0}
    sequential = sample(model, [0, 1], sampler="ddim", eta=0.5, **options)
    assert torch.allclose(sample(model, [0, 1], sampler="speculative", window=1, **options), sequential, atol=1e-4)
    itself = sample(model, [0, 1], sampler="speculative", window=4, draft=model, **options)
    assert torch.allclose(itself, sequential, atol=1e-3)
    bare = sample(model, [0], steps=3, sampler="speculative", window=1)
    assert torch.allclose(bare, sample(model, [0], steps=3, sampler="ddim", eta=0.5), atol=1e-4)


def test_the_caller_keeps_its_gradient_mode_and_generator(tiny):
    before = torch.get_rng_state()
    for r in speculate(tiny, [0], 5):
        assert torch.is_grad_enabled() and not r.samples.requires_grad
    assert torch.equal(torch.get_rng_state(), before)


LEARNED = diffusers.DDPMScheduler(variance_type="learned_range", clip_sample=False)
BAD = [
    ({"window": 0}, "window=0 is not a whole number from 1"), ({"window": 2.5}, "window=2.5"),
    ({"churn": 0}, "churn=0: allowed is 1e-06 to 1"), ({"churn": 1e-7}, "churn=1e-07"), ({"churn": 1.5}, "churn=1.5"), ({"churn": "x"}, "churn='x'"),
    ({"temperature": 0.9}, "temperature=0.9: allowed is 1"), ({"temperature": "hot"}, "temperature='hot'"),
    ({"verify": "hope"}, "verify='hope' is not one of replay, reflection, block"), ({"steps": 0}, "steps=0"),
    ({"steps": 1001}, "steps=1001"), ({"draft": "crystal ball"}, "draft='crystal ball': allowed are velocity, clean, tweedie"),
    ({"draft": mixture("big", size=4)}, r"draft: got 'big' of shape \(1, 4, 4\) without text, allowed .* \(1, 3, 3\)"),
    ({"draft": mixture("other", schedule(2.0))}, "draft: 'other' has another noise schedule than 'mixture'"),
    ({"model": mixture("learner", LEARNED)}, "model: 'learner' learns the variance .*learned_range"),
    ({"verify": "block", "temperature": 2.0}, "temperature=2.0: allowed is 1 with verify='block'"),
    ({"eta": 0.5}, "eta=0.5: allowed is 0"), ({"prompts": ["a face"]}, "unconditional"), ({"windows": 3}, "windows: allowed"),
    ({"guidance": 2.0}, "guidance=2.0"), ({"seeds": []}, "seeds is empty"), ({"model": "faces"}, "model: got str"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        sample(**{"model": mixture(), "seeds": [0], "steps": 4, "sampler": "speculative"} | change)


def test_options_of_speculation_are_refused_by_other_samplers():
    with pytest.raises(ValueError, match="churn, window: got sampler='ddim'"):
        sample(mixture(), [0], steps=4, churn=0.5, window=3)


def test_speculate_refuses_before_the_first_round():
    with pytest.raises(ValueError, match="window=0"):
        speculate(mixture(), [0], 4, window=0)
