"""Parallel sampling ends where the sequential samplers do, in fewer calls, and every image for itself."""

import diffusers
import pytest
import torch

from frugal import sample, zoo
from frugal.measure import cost
from frugal.methods import parallel
from frugal.methods.chain import chain
from frugal.methods.flow import flow
from frugal.methods.parallel import METHODS, SOLVERS, UNIT, rounds
from frugal.methods.samplers import denoise
from frugal.models.zoo import Model

every_method = pytest.mark.parametrize("method", METHODS)
every_solver = pytest.mark.parametrize("solver", SOLVERS)


@pytest.fixture(scope="module")
def tiny(small_model):
    return small_model(8)


def sequence(model, seeds, steps, solver):
    """Every state of the sequential sampler, [n, steps, ...]."""
    return torch.stack([state.sample for state in denoise(model, seeds, steps, solver)], 1)


def finish(model, seeds, steps, **options):
    found = list(rounds(model, seeds, steps, **options))
    return found[-1].samples, found


def scheduled(model, **config):
    return Model("other", "memory", model.unet, diffusers.DDPMScheduler(**({"timestep_spacing": "trailing", "clip_sample": False} | config)))


@every_method
@every_solver
@pytest.mark.parametrize(("steps", "window"), [(12, 12), (17, 5), (1, 4)])
def test_tolerance_0_leads_to_the_sequential_sample(tiny, method, solver, steps, window):
    ours, _ = finish(tiny, [3, 8], steps, method=method, solver=solver, window=window, tolerance=0)
    theirs = sequence(tiny, [3, 8], steps, solver)[:, -1]
    assert (ours - theirs).abs().max() < 1e-4 < theirs.std()


@every_solver
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("config", [{"timestep_spacing": "leading", "clip_sample": True}, {"timestep_spacing": "linspace"}])
def test_the_steps_are_those_of_diffusers_for_other_schedules_too(tiny, solver, kind, config):
    model = scheduled(tiny, prediction_type=kind, **config)
    ours = [done.samples for done in rounds(model, [4], 16, solver=solver, window=1)]
    assert len(ours) == 16
    theirs = sequence(model, [4], 16, solver)
    assert torch.allclose(torch.stack(ours, 1), theirs, atol=1e-4 * float(theirs.abs().max()), rtol=1e-4)


@every_method
@every_solver
def test_window_one_is_the_sequential_sampler_step_by_step(tiny, method, solver):
    found = list(rounds(tiny, [1, 5], 7, method=method, solver=solver, window=1))
    theirs = sequence(tiny, [1, 5], 7, solver)
    assert torch.allclose(torch.stack([done.samples for done in found], 1), theirs, atol=1e-5, rtol=1e-4)
    assert torch.allclose(sample(tiny, [1, 5], 7, "parallel", window=1, solver=solver, method=method), sample(tiny, [1, 5], 7, solver), atol=1e-5)


@every_method
@every_solver
def test_a_tolerance_saves_calls_and_bounds_the_error(tiny, method, solver):
    theirs, error, calls = sequence(tiny, [0, 1], 40, solver)[:, -1], [], []
    for tolerance in (1e-4, 3e-2):
        ours, found = finish(tiny, [0, 1], 40, method=method, solver=solver, tolerance=tolerance, unit="signal")
        calls.append(len(found))
        error.append((ours - theirs).abs().max().item())
    assert calls[1] < calls[0] < 40 and error[0] < 1e-3 < theirs.std()
    assert error[0] < error[1]


def test_looking_back_needs_fewer_rounds(tiny):
    options = {"solver": "ddim", "tolerance": 1e-4, "unit": "signal", "window": 20}
    taken = {method: len(finish(tiny, [0, 1, 2], 40, method=method, **options)[1]) for method in ("anderson", "picard")}
    assert taken["anderson"] < taken["picard"]


@every_method
def test_an_image_depends_on_its_seed_alone(tiny, method):
    options = {"steps": 15, "sampler": "parallel", "window": 6, "method": method}
    together = sample(tiny, [7, 2, 5], **options)
    reordered = sample(tiny, [5, 7, 2], batch_size=2, **options)
    assert torch.allclose(together, reordered[[1, 2, 0]], atol=1e-5)
    assert torch.allclose(together[1:2], sample(tiny, [2], **options), atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 0.01


def test_rounds_tell_what_the_hook_counts_and_images_drop_out(tiny):
    with cost.count_calls(tiny.unet) as calls:
        _, found = finish(tiny, range(6), 30, window=8, tolerance=0.05)
    assert calls.calls == len(found) < 30 and calls.rows == sum(int(r.rows.sum()) for r in found)
    taken = torch.zeros(6, dtype=torch.long)
    for r in found:
        assert torch.equal(r.first, taken[r.images]) and torch.equal(r.rows, (30 - r.first).clamp(max=8))
        assert bool((1 <= r.committed).all() and (r.committed <= r.rows).all())
        assert torch.equal(r.residuals.isfinite().sum(1), r.rows) and not r.residuals[:, 0].any()
        reached = r.states[torch.arange(len(r.images)), r.committed]
        assert torch.equal(reached, r.samples[r.images]) and r.states.shape[1] == 9
        taken[r.images] += r.committed
    assert (taken == 30).all() and all((r.first < 30).all() for r in found)


def test_a_committed_step_hardly_moved(tiny):
    for r in rounds(tiny, [0, 1], 30, window=10, tolerance=0.02, method="picard"):
        for moved, committed in zip(r.residuals, r.committed, strict=True):
            assert (moved[:committed] <= 0.02).all()
            assert committed == r.rows.max() or not moved[committed] <= 0.02  # the longest such prefix


def test_what_stands_still_behind_a_step_that_moves_is_not_committed(tiny, monkeypatch):
    monkeypatch.setattr(parallel, "_scale", lambda flow, unit: torch.where(torch.arange(len(flow)) < 4, 1e-9, 1e9))  # only the first steps move
    done = next(rounds(tiny, [0, 1], 12, window=8))
    assert (done.residuals[:, 1:4] > 1).all() and (done.residuals[:, 4:] < 1e-6).all()
    assert done.committed.tolist() == [1, 1]


@pytest.mark.parametrize("unit", ["step", "signal"])
def test_a_move_is_told_in_the_unit_of_the_state_that_moved(tiny, unit):
    """All states of the first round are copies of the noise, so the moves are known from where they went."""
    done, known = next(rounds(tiny, [0], 12, method="paradigms", unit=unit, window=8)), chain(tiny, 12, 1.0)
    moves = (done.states[0, 1:8] - done.states[0, 0]).square().flatten(1).mean(1).sqrt()
    share = tiny.scheduler.alphas_cumprod[known.times[1:8]]  # of the signal in the state's variance
    scale = known.std[:7] if unit == "step" else share + 0.05 * (1 - share)  # DDPM's step that leads to the state, or that share
    assert torch.allclose(done.residuals[0, 1:], moves / scale, rtol=1e-3)


def test_text_and_guidance_reach_every_row(text_pipeline):
    model = zoo.load(text_pipeline)
    options = {"steps": 4, "prompts": ["a face", "a red hat"], "guidance": 3.0}
    for solver in SOLVERS:
        ours = sample(model, [0, 1], sampler="parallel", solver=solver, tolerance=0, **options)
        assert torch.allclose(ours, sample(model, [0, 1], sampler=solver, **options), atol=1e-3)
    bare = sample(model, [0], steps=3, sampler="parallel", tolerance=0)
    assert torch.allclose(bare, sample(model, [0], steps=3, sampler="ddim"), atol=1e-4)


def test_the_caller_keeps_its_gradient_mode_and_generator(tiny):
    before = torch.get_rng_state()
    for r in rounds(tiny, [0], 5):
        assert torch.is_grad_enabled() and not r.samples.requires_grad and not r.states.requires_grad
    assert torch.equal(torch.get_rng_state(), before)


def test_the_first_step_and_the_last_are_ddims(tiny):
    both = {solver: flow(tiny, 20, solver) for solver in SOLVERS}
    assert not both["ddim"].slope.any() and both["dpmpp_2m"].slope[[0, -1]].tolist() == [0, 0]
    assert (both["dpmpp_2m"].slope[1:-1] > 0).all() and all((f.yardstick > 0).all() for f in both.values())
    assert both["ddim"].state_weight[-1] == 0 and both["ddim"].clean_weight[-1] == 1


BAD = [
    ({"window": 0}, "window=0 is not a whole number from 1"), ({"window": 2.5}, "window=2.5"), ({"steps": 0}, "steps=0"),
    ({"tolerance": -0.1}, "tolerance=-0.1: allowed is a number from 0"), ({"tolerance": float("nan")}, "tolerance=nan"),
    ({"tolerance": float("inf")}, "tolerance=inf"), ({"tolerance": "x"}, "tolerance='x'"), ({"tolerance": True}, "tolerance=True"),
    ({"method": "hope"}, "method='hope' is not one of anderson, picard, paradigms"), ({"solver": "heun"}, "solver='heun' is not one of ddim, dpmpp_2m"),
    ({"method": []}, r"method=\[\]"), ({"solver": None}, "solver=None"), ({"unit": "inch"}, "unit='inch' is not one of step, signal"),
    ({"eta": 0.5}, "eta=0.5: allowed is 0 with sampler='parallel', whose solvers draw no noise"), ({"windows": 3}, "windows: allowed"),
    ({"prompts": ["a face"]}, "unconditional"), ({"guidance": 2.0}, "guidance=2.0"), ({"seeds": []}, "seeds is empty"),
    ({"model": "faces"}, "model: got str"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_input_is_named(tiny, change, message):
    with pytest.raises(ValueError, match=message):
        sample(**{"model": tiny, "seeds": [0], "steps": 4, "sampler": "parallel"} | change)


def test_networks_that_learn_their_variance_are_refused(tiny):
    with pytest.raises(ValueError, match="model: 'other' learns the variance .*learned_range"):
        sample(scheduled(tiny, variance_type="learned_range"), [0], 4, "parallel")


def test_options_are_refused_by_other_samplers_and_before_the_first_round(tiny):
    with pytest.raises(ValueError, match="window: got sampler='ddim', allowed with it are options of sampler='speculative' and"):
        sample(tiny, [0], steps=4, window=3)
    with pytest.raises(ValueError, match="window=0"):
        rounds(tiny, [0], 4, window=0)
    assert set(UNIT) == set(METHODS)
