"""How long a choice of tokens lasts, who says so, and what is refused; compiled networks; the methods beside tome."""

import threading

import pytest
import torch
from diffusers import PNDMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from frugal import merge_tokens, sample, zoo
from frugal.methods import matching, merging, reductions, reuse
from frugal.methods.matching import Call
from frugal.methods.reuse import Run
from frugal.methods.samplers import denoise

BLOCKS = 3  # transformers of the network, each with a choice of its own: one on the way down, two on the way up


def network(blocks):
    """With transformers of so many blocks."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), layers_per_block=1, attention_head_dim=2,
        cross_attention_dim=12, norm_num_groups=4, transformer_layers_per_block=blocks,
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def unet():
    return network(1)


def noise(batch=2, seed=1, size=8):
    return torch.randn(batch, 4, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def stacked():
    """Two blocks in a transformer, which share a choice."""
    return network(2)


@torch.no_grad()
def run(unet, timestep=7, x=None):
    x = noise() if x is None else x
    return unet(x, timestep, torch.zeros(len(x), 5, 12)).sample


@pytest.fixture
def matchings(monkeypatch):
    """One entry a matching made: the number of images that were compared."""
    made, match = [], matching.match
    monkeypatch.setattr(reductions, "match", lambda metric, *rest: made.append(len(metric)) or match(metric, *rest))
    return made


# In loops that say nothing


@pytest.mark.parametrize("reuse, made", [(1, 18), (2, 9), (3, 6), (4, 6), (10, 3)])
def test_a_choice_lasts_as_many_changes_of_the_time_step(unet, matchings, reuse, made):
    with merge_tokens(unet, 0.5, reuse=reuse) as merged:
        for timestep in range(60, 0, -10):
            run(unet, timestep)
    assert len(matchings) == made
    assert {row["calls"] for row in merged.report()} == {6} and len(merged.report()) == 3


def test_calls_at_one_time_step_are_of_different_images(unet, matchings):
    with merge_tokens(unet, 0.5, reuse=2):
        for timestep in (50, 50, 50, 40, 40):
            run(unet, timestep)
        assert len(matchings) == 3 * BLOCKS  # the second step has what the first has chosen
        run(unet, 30)
        assert len(matchings) == 4 * BLOCKS


@pytest.mark.parametrize("reuse", [1, 2, 3])
@pytest.mark.parametrize("compiled", [False, True])
def test_images_in_turn_equal_each_image_alone(stacked, matchings, reuse, compiled):
    torch._dynamo.reset()
    call = torch.compile(stacked, backend="eager", fullgraph=True) if compiled else stacked
    images, times = [noise(1, seed) for seed in (1, 2, 3)], [torch.tensor(t) for t in (50, 40, 30, 20)]
    alone = []
    for x in images:
        with merge_tokens(stacked, 0.5, reuse=reuse):
            alone.append([run(stacked, t, x) for t in times])
    made = len(matchings)
    with merge_tokens(stacked, 0.5, reuse=reuse):
        turns = [[run(call, t, x) for x in images] for t in times]
    assert all(torch.equal(turns[j][k], alone[k][j]) for j in range(len(times)) for k in range(len(images)))
    assert compiled or len(matchings) == 2 * made  # a compiler chooses as well, while it traces
    torch._dynamo.reset()


def test_halves_called_in_turn_choose_for_themselves_and_reuse_that(unet, matchings):
    with merge_tokens(unet, 0.5, reuse=2):
        for timestep in (50, 40, 30, 20):
            run(unet, timestep), run(unet, timestep)
    assert len(matchings) == 2 * 2 * BLOCKS


def test_a_time_that_the_scheduler_repeats_is_matched_once_more(unet, matchings):
    scheduler = PNDMScheduler(skip_prk_steps=True)
    scheduler.set_timesteps(4)
    with merge_tokens(unet, 0.5, reuse=2):
        for timestep in scheduler.timesteps:  # the second of them twice
            run(unet, timestep)
    assert len(scheduler.timesteps) == 5 and len(matchings) == 3 * BLOCKS


def test_choices_do_not_pile_up(unet, monkeypatch):
    monkeypatch.setattr(reuse, "MOST", 4 * BLOCKS)
    with merge_tokens(unet, 0.5, reuse=2) as merged:
        for timestep in range(30, 0, -1):
            run(unet, timestep), run(unet, timestep)
        assert len(merged.memory.own.chosen) == 2 * BLOCKS
        for _ in range(10):
            run(unet, 1)
        assert len(merged.memory.own.chosen) == 4 * BLOCKS


def test_an_image_begins_with_a_reset_or_a_later_time(unet, matchings):
    with merge_tokens(unet, 0.5, reuse=10) as merged:
        first = run(unet, 50)
        run(unet, 40, noise(seed=2))
        assert len(matchings) == BLOCKS
        merged.reset()
        assert torch.equal(run(unet, 50), first) and len(matchings) == 2 * BLOCKS
        run(unet, 60)
        assert len(matchings) == 3 * BLOCKS


def test_a_batch_of_another_size_is_matched_for_itself(unet, matchings):
    with merge_tokens(unet, 0.5, reuse=10):
        run(unet, 50)
        run(unet, 50, noise(3))
    assert matchings == [2] * BLOCKS + [3] * BLOCKS


def test_announced_halves_share_their_matching(unet, matchings):
    x = noise(2)
    with merge_tokens(unet, 0.5, reuse=2) as merged:
        merged.reset(halves=2)
        run(unet, 50, torch.cat([x, x]))
        assert matchings == [2] * BLOCKS
    with pytest.raises(ValueError, match="halves: got 3, allowed is a whole number from 1 to 2"):
        merged.reset(halves=3)


def test_destinations_depend_on_seed_layer_and_time_alone(unet, monkeypatch):
    drawn, original = [], Call.destinations
    monkeypatch.setattr(Call, "destinations", lambda call, device: drawn.append(original(call, device)) or drawn[-1])

    def times(*steps, seed=0, reuse=1):
        drawn.clear()
        with merge_tokens(unet, 0.5, seed=seed, reuse=reuse):
            for step in steps:
                torch.rand(step)
                run(unet, step)
        return list(drawn)

    alone = times(30)
    assert all(map(torch.equal, times(50, 40, 30)[-3:], alone))
    assert not any(map(torch.equal, times(30, seed=1), alone))
    assert not torch.equal(alone[0], alone[1])
    shared = times(30, reuse=2)
    assert len(shared) == BLOCKS and all(map(torch.equal, times(30, 20, reuse=2), shared))


# In the sampling loop, which says where a run and its steps begin


@pytest.mark.parametrize("sampler, calls", [("ddim", 4), ("heun", 7), ("pndm", 5)])
def test_the_loop_counts_its_steps_not_the_network_s_calls(text_pipeline, matchings, sampler, calls):
    model = zoo.load(text_pipeline)
    with merge_tokens(model.unet, 0.5, reuse=2) as merged:
        sample(model, [0], steps=4, sampler=sampler)
    assert len(matchings) == 2 * BLOCKS
    assert {row["calls"] for row in merged.report()} == {calls}


def test_loops_that_take_turns_are_not_mixed(text_pipeline):
    model = zoo.load(text_pipeline)
    with merge_tokens(model.unet, 0.5, reuse=10):
        alone = [[state.sample for state in denoise(model, [seed], steps=3)] for seed in (1, 2)]
        turns = [[first.sample, second.sample] for first, second in zip(denoise(model, [1], 3), denoise(model, [2], 3), strict=True)]
    for first, second, turn in zip(*alone, turns, strict=True):
        assert torch.equal(first, turn[0]) and torch.equal(second, turn[1])


def test_images_do_not_depend_on_their_batch(text_pipeline):
    model = zoo.load(text_pipeline)
    with merge_tokens(model.unet, 0.5, reuse=3):
        options = {"steps": 4, "prompts": "a face", "guidance": 3.0}
        together, alone = sample(model, [1, 2, 3], batch_size=3, **options), sample(model, [2], **options)
    assert torch.allclose(together[1:2], alone, atol=1e-5)


def test_the_sampler_s_halves_share_a_matching(text_pipeline, matchings):
    model = zoo.load(text_pipeline)
    with merge_tokens(model.unet, 0.5, reuse=2):
        sample(model, [0, 1], steps=1, prompts="a face", guidance=3.0)
        sample(model, [0, 1], steps=1, prompts="a face", guidance=1.0)
    assert set(matchings) == {2}


def test_a_generator_resumed_elsewhere_is_refused(text_pipeline):
    model = zoo.load(text_pipeline)
    with merge_tokens(model.unet, 0.5):
        states = denoise(model, [0], steps=4)
        next(states)
    with pytest.raises(RuntimeError, match="sampling: got another merging.*inside the `with` that it began in"):
        next(states)
    states = denoise(model, [0], steps=4)
    next(states)
    with merge_tokens(model.unet, 0.5), pytest.raises(RuntimeError, match="sampling: got another merging"):
        next(states)
    states = denoise(model, [0], steps=4)
    for _ in range(2):  # the same merging again is no other
        with merge_tokens(model.unet, 0.5):
            next(states)


def test_two_threads_in_one_network_are_refused(unet):
    inside, leave, errors = threading.Event(), threading.Event(), []

    def wait(*_):
        inside.set()
        leave.wait(10)

    with merge_tokens(unet, 0.5):
        handle = unet.conv_out.register_forward_pre_hook(wait)
        thread = threading.Thread(target=lambda: errors.append(run(unet)))
        thread.start()
        try:
            assert inside.wait(10)
            with pytest.raises(RuntimeError, match="another thread is inside the merged network"):
                run(unet)
        finally:
            leave.set()
            thread.join()
            handle.remove()
        assert len(errors) == 1 and run(unet).isfinite().all()


def test_an_error_inside_the_network_frees_it_for_other_threads(unet):
    found = []
    with merge_tokens(unet, 0.5):
        with pytest.raises(RuntimeError):
            unet(noise(), 7, torch.zeros(2, 5, 99))
        thread = threading.Thread(target=lambda: found.append(run(unet)))
        thread.start()
        thread.join()
    assert len(found) == 1


def test_a_thread_that_ended_inside_the_network_holds_nothing(unet):
    caught = []

    def interrupted():
        try:
            run(unet)
        except KeyboardInterrupt as error:  # after which torch calls no hook
            caught.append(error)

    def interrupt(*_):
        raise KeyboardInterrupt

    with merge_tokens(unet, 0.5):
        handle = unet.conv_out.register_forward_pre_hook(interrupt)
        thread = threading.Thread(target=interrupted)
        thread.start()
        thread.join()
        handle.remove()
        assert len(caught) == 1 and run(unet).isfinite().all()


def test_nested_blocks_are_refused(unet):
    with merge_tokens(unet, 0.5) as merged:
        with pytest.raises(ValueError, match="entered already"), merged:
            pass
        with pytest.raises(ValueError, match="network whose tokens are merged"):
            merge_tokens(unet, 0.5)


# Compiled networks


@pytest.mark.parametrize("method", list(merging.METHODS))
def test_compiled_without_graph_breaks(unet, method):
    torch._dynamo.reset()
    x, time, words = noise(), torch.tensor(7), torch.zeros(2, 5, 12)
    with torch.no_grad(), merge_tokens(unet, 0.5, method=method):
        explained = torch._dynamo.explain(unet)(x, time, words)
    assert explained.graph_break_count == 0 and explained.graph_count == 1


def test_a_compiled_network_refreshes_reuses_and_counts_as_the_plain_one(unet, matchings):
    torch._dynamo.reset()
    x, words = noise(), torch.zeros(2, 5, 12)
    with torch.no_grad(), merge_tokens(unet, 0.5, reuse=2) as merged:
        plain = [unet(x, torch.tensor(t), words).sample for t in (50, 40, 30)]
        expected = merged.report()
    matchings.clear()
    compiled = torch.compile(unet, backend="eager")
    with torch.no_grad(), merge_tokens(unet, 0.5, reuse=2) as merged:
        found = [compiled(x, torch.tensor(t), words).sample for t in (50, 40, 30)]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, plain, strict=True))
    assert merged.report() == expected
    torch._dynamo.reset()


@pytest.mark.parametrize("method", ["tome", "weighted"])
def test_a_second_size_is_compiled_for_itself(unet, method):
    torch._dynamo.reset()
    words = torch.zeros(2, 5, 12)
    with torch.no_grad(), merge_tokens(unet, 0.5, method=method, reuse=1):
        compiled = torch.compile(unet, backend="eager", fullgraph=True)
        for size, time in ((16, 50), (24, 40)):
            x, time = noise(size=size), torch.tensor(time)
            assert torch.allclose(compiled(x, time, words).sample, unet(x, time, words).sample, atol=1e-5)
    torch._dynamo.reset()


def test_tokens_matched_in_parts_are_compiled_as_well(unet, matchings):
    torch._dynamo.reset()
    x, time, words = noise(size=32), torch.tensor(50), torch.zeros(2, 5, 12)
    with torch.no_grad(), merge_tokens(unet, 0.5, method="weighted"):
        plain, made = unet(x, time, words).sample, len(matchings)
        found = torch.compile(unet, backend="eager", fullgraph=True)(x, time, words).sample
    assert torch.allclose(found, plain, atol=1e-5) and made == BLOCKS
    torch._dynamo.reset()


# Methods


@pytest.mark.parametrize("method", list(merging.METHODS))
@pytest.mark.parametrize("ratio", [0.3, 0.75, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_method_removes_its_share_on_odd_grids(unet, method, ratio, dtype):
    network = unet if dtype == torch.float32 else UNet2DConditionModel.from_config(unet.config).to(dtype).eval()
    x = noise(3, size=11).to(dtype)
    with torch.no_grad(), merge_tokens(network, ratio, method=method) as merged:
        output = network(x, 7, torch.zeros(3, 5, 12, dtype=dtype)).sample
    assert output.isfinite().all() and output.dtype == dtype
    assert {row["tokens_after"] for row in merged.report()} == {121 - int(ratio * 121)}


def call(side, ratio, **options):
    return Call("layer", (side, side), int(ratio * side * side), (0.0,), 0, **options)


def test_todo_keeps_the_nearest_samples_of_the_paper():
    [kept] = reductions.spread(torch.zeros(1, 64, 1), call(8, 0.75))
    assert kept.tolist() == [8 * y + x for y in range(0, 8, 2) for x in range(0, 8, 2)]
    [kept] = reductions.spread(torch.zeros(2, 64, 1), call(8, 0.5))
    assert kept.tolist() == [64 * k + 8 * y + x for k in (0, 1) for y in range(8) for x in range(y % 2, 8, 2)]


def test_todo_leaves_the_queries():
    seen = []
    tokens = torch.randn(1, 64, 4)
    reductions.todo(lambda q, k: seen.append((q, k)) or q, tokens, tokens, call(8, 0.75))
    assert torch.equal(seen[0][0], tokens) and seen[0][1].shape == (1, 16, 4)


@pytest.mark.parametrize("ratio", [0.3, 0.75])
def test_weighted_merging_of_equal_tokens_changes_nothing(ratio):
    attention = Attention(16, heads=2, dim_head=8, processor=AttnProcessor2_0())
    cells = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0)).unflatten(1, (4, 4))
    tokens = cells.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1, 2)  # four equal ones in every cell of an 8x8 grid

    def attend(queries, bias=None):
        return attention(queries, attention_mask=None if bias is None else bias[:, None])

    with torch.no_grad():
        exact = attention(tokens)
        off = {name: (merging.METHODS[name](attend, tokens, tokens, call(8, ratio)) - exact).abs().max() for name in ("weighted", "tome")}
    assert off["weighted"] < 1e-5
    if ratio < 0.75:  # there all groups are of one size, and counting once is as good
        assert off["tome"] > 1e-3


@pytest.mark.parametrize("ratio", [0.3, 0.75, 0.9])
def test_weighted_merging_of_a_large_grid_gives_halves_one_choice_and_its_logarithms(ratio):
    metric = torch.randn(3, 1024, 8, generator=torch.Generator().manual_seed(0))
    kept = 1024 - int(ratio * 1024)
    *alone, logs = reductions.groups_with_sizes(metric, call(32, ratio))
    *both, doubled = reductions.groups_with_sizes(torch.cat([metric, metric]), call(32, ratio, halves=2))
    assert torch.equal(both[0], torch.cat([alone[0], alone[0] + 3 * kept])) and torch.equal(doubled, torch.cat([logs, logs]))
    assert torch.equal(logs.exp().round().long(), torch.stack([places.bincount(minlength=kept) for places in alone[0].long().view(3, -1) - kept * torch.arange(3)[:, None]]))


def test_small_grids_are_matched_whole_by_both_kinds_of_merging():
    metric = torch.randn(2, 256, 8, generator=torch.Generator().manual_seed(0))
    whole, parts = reductions.groups_of_similar(metric, call(16, 0.5)), reductions.groups_with_sizes(metric, call(16, 0.5))
    assert len(parts) == len(whole) + 1 and all(map(torch.equal, whole, parts))


def test_pruning_copies_the_most_like_token():
    tokens = torch.randn(2, 64, 4, generator=torch.Generator().manual_seed(0))
    seen = []
    output = reductions.prune(lambda x: seen.append(x) or x, tokens, tokens, call(8, 0.6))
    kept = {tuple(row.tolist()) for row in seen[0].flatten(0, 1)}
    assert len(kept) == 2 * (64 - int(0.6 * 64)) <= len({tuple(row.tolist()) for row in tokens.flatten(0, 1)})
    alike = torch.nn.functional.cosine_similarity(output, tokens, dim=-1)
    same = (output == tokens).all(-1)
    assert same.sum() == len(kept) and (alike[~same] > 0).float().mean() > 0.9


def test_the_most_central_token_of_each_cell():
    tokens = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0]]])
    assert reductions.central(tokens, (2, 2), (2, 2)).tolist() == [[2]]


def test_runs_hold_their_own_choices():
    first, second = Run(), Run(halves=2)
    assert first.chosen is not second.chosen
