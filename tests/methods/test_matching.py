"""Bipartite matching: counts, partition, means and copies on any grid."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frugal.methods import matching
from frugal.methods.matching import Call, bipartite_matching, cell_size, draw_destinations, match

SIDES = st.integers(2, 20)
RATIOS = st.floats(0, 0.9)


def matched(height, width, ratio, batch=2, channels=3, dtype=torch.float32, seed=0, timesteps=(0.0,)):
    tokens = torch.randn(batch, height * width, channels, generator=torch.Generator().manual_seed(seed)).to(dtype)
    call = Call("layer", (height, width), int(ratio * height * width), timesteps, seed)
    destinations = call.destinations(tokens.device)
    return tokens, destinations, call.removed, *bipartite_matching(tokens, destinations, call.removed)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, RATIOS, st.integers(0, 99))
def test_as_many_tokens_are_removed_as_asked(height, width, ratio, seed):
    tokens, _, removed, merge, unmerge = matched(height, width, ratio, seed=seed)
    assert merge(tokens).shape == (2, height * width - int(ratio * height * width), 3)
    assert unmerge(merge(tokens)).shape == tokens.shape
    assert removed <= 0.9 * height * width


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, RATIOS, st.integers(0, 99))
def test_tokens_are_partitioned_and_averaged(height, width, ratio, seed):
    tokens, destinations, _, merge, unmerge = matched(height, width, ratio, seed=seed)
    merged, count = merge(tokens), height * width
    place = unmerge(torch.arange(merged.shape[1]).expand(2, -1)[..., None])[..., 0]  # where each token has gone
    for image in range(2):
        members = torch.bincount(place[image], minlength=merged.shape[1])
        assert members.min() >= 1 and members.sum() == count
        for kept in range(merged.shape[1]):
            group = place[image] == kept
            assert torch.allclose(merged[image, kept], tokens[image, group].mean(0), atol=1e-5)
            if members[kept] > 1:  # one destination, the others sources
                assert sum(bool(group[token]) for token in destinations[0]) == 1
        assert torch.allclose((merged[image] * members[:, None]).sum(0), tokens[image].sum(0), atol=1e-3)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, RATIOS)
def test_unmerged_tokens_return_exactly(height, width, ratio):
    tokens, destinations, _, merge, unmerge = matched(height, width, ratio)
    back = unmerge(merge(tokens))
    place = unmerge(torch.arange(merge(tokens).shape[1]).expand(2, -1)[..., None])[..., 0]
    for image in range(2):
        alone = torch.bincount(place[image])[place[image]] == 1
        assert torch.equal(back[image, alone], tokens[image, alone])
    # What attention gives a destination comes back to it and to all that were merged into it.
    output = torch.randn(merge(tokens).shape)
    assert torch.equal(merge(unmerge(output)).sub(output).abs() < 1e-5, torch.ones_like(output, dtype=torch.bool))
    assert unmerge(output)[:, destinations[0]].shape == (2, destinations.shape[1], 3)


@given(SIDES, SIDES, st.integers(0, 2**40))
def test_every_whole_cell_has_one_destination(height, width, key):
    rows, columns = min(3, height), 2
    tokens = draw_destinations((height, width), (rows, columns), (key,))
    cells = {(int(t) // width // rows, int(t) % width // columns) for t in tokens}
    assert cells == {(y, x) for y in range(height // rows) for x in range(width // columns)}
    assert len(tokens) == len(cells)


def test_the_most_similar_sources_go_first():
    tokens = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 1.0]]])
    merge, unmerge = bipartite_matching(tokens, torch.tensor([[0]]), 1)
    assert torch.allclose(unmerge(merge(tokens)), torch.tensor([[[1, 0.05], [1, 0.05], [0, 1], [1, 1]]]))


@pytest.mark.parametrize(
    "side, ratio, cell",
    [(16, 0, (2, 2)), (16, 0.75, (2, 2)), (16, 0.8, (2, 3)), (16, 0.875, (2, 4)), (16, 0.9, (3, 3))],
)
def test_the_smallest_cell_that_reaches_the_ratio(side, ratio, cell):
    assert cell_size(side, side, int(ratio * side * side)) == cell


@pytest.mark.parametrize("height, width", [(1, 1), (1, 2), (1, 9), (7, 1)])
def test_thin_grids(height, width):
    for ratio in (0, 0.3, 0.5, 0.9):
        tokens, _, removed, merge, _ = matched(height, width, ratio)
        assert merge(tokens).shape[1] == height * width - removed


def test_destinations_depend_on_the_call_alone():
    state = torch.get_rng_state()
    first = Call("a", (8, 8), 32, (10.0,), 0).destinations("cpu")
    torch.rand(3)
    assert torch.equal(first, Call("a", (8, 8), 32, (10.0,), 0).destinations("cpu"))
    for other in (("b", 10.0, 0), ("a", 9.0, 0), ("a", 10.0, 1)):
        assert not torch.equal(first, Call(other[0], (8, 8), 32, (other[1],), other[2]).destinations("cpu"))
    torch.set_rng_state(state)
    Call("a", (8, 8), 32, (10.0,), 0).destinations("cpu")
    assert torch.equal(torch.get_rng_state(), state)


def test_images_at_different_timesteps_have_their_own_destinations():
    both = Call("a", (8, 8), 32, (10.0, 20.0), 0).destinations("cpu")
    alone = [Call("a", (8, 8), 32, (time,), 0).destinations("cpu") for time in (10.0, 20.0)]
    assert torch.equal(both, torch.cat(alone))
    tokens = torch.randn(2, 64, 4)
    merge, _ = bipartite_matching(tokens, both, 32)
    for image in range(2):
        single, _ = bipartite_matching(tokens[image : image + 1], alone[image], 32)
        assert torch.allclose(merge(tokens)[image], single(tokens[image : image + 1])[0])


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 2e-2), (torch.float16, 2e-3), (torch.float64, 1e-12)])
def test_means_in_other_precisions(dtype, tolerance):
    tokens, _, _, merge, unmerge = matched(9, 9, 0.9, dtype=dtype)
    place = unmerge(torch.arange(merge(tokens).shape[1]).expand(2, -1)[..., None])[0, :, 0]
    means = torch.stack([tokens[0, place == kept].double().mean(0) for kept in range(merge(tokens).shape[1])])
    assert merge(tokens).dtype == dtype
    assert (merge(tokens)[0].double() - means).abs().max() < tolerance


def test_tokens_of_zero_length_are_matched_without_nan():
    tokens = torch.zeros(1, 16, 4)
    merge, unmerge = bipartite_matching(tokens, Call("a", (4, 4), 8, (0.0,), 0).destinations("cpu"), 8)
    assert torch.equal(unmerge(merge(tokens)), tokens)


def test_gradients_pass_through():
    tokens, _, _, merge, unmerge = matched(6, 6, 0.5)
    tokens.requires_grad_()
    unmerge(merge(tokens)).sum().backward()
    assert torch.allclose(tokens.grad.sum(), torch.tensor(2 * 36 * 3.0))


def test_more_than_the_sources_is_refused():
    with pytest.raises(ValueError, match="removed: got 4"):
        cell_size(2, 2, 4)
    with pytest.raises(ValueError, match="allowed is 0 to 12, the number of sources"):
        bipartite_matching(torch.randn(1, 16, 2), Call("a", (4, 4), 12, (0.0,), 0).destinations("cpu"), 13)


# In parts


def by_hand(metric, drawn, removed, parts):
    """The place of every token of one image, pair by pair of the same part along `principal`."""
    destinations = sorted(drawn.tolist())
    sources = [t for t in range(len(metric)) if t not in destinations]
    unit = torch.nn.functional.normalize(metric, dim=-1)
    along = (unit @ matching.principal(unit[None, destinations])[0])[:, 0].tolist()
    parts = max(n for n in range(1, parts + 1) if len(sources) % n == len(destinations) % n == 0)
    part = {t: k * parts // len(ts) for ts in (sources, destinations) for k, t in enumerate(sorted(ts, key=lambda t: along[t]))}
    pairs = []
    for source in sources:
        near = [d for d in destinations if part[d] == part[source]]
        alike = [float(unit[source] @ unit[d]) for d in near]
        pairs.append((max(alike), source, near[alike.index(max(alike))]))
    pairs.sort(key=lambda pair: -pair[0])
    place = {d: k for k, d in enumerate(destinations)}
    place |= {source: place[d] for _, source, d in pairs[:removed]}
    return [(place | {source: len(destinations) + k for k, (_, source, _) in enumerate(pairs[removed:])})[t] for t in range(len(metric))]


@pytest.mark.parametrize("grid, ratio", [((8, 8), 0.5), ((8, 12), 0.75), ((6, 7), 0.3), ((9, 4), 0.6), ((12, 6), 0.9), ((5, 7), 0.5)])
@pytest.mark.parametrize("timesteps", [(0.0,), (10.0, 20.0)])
@pytest.mark.parametrize("parts", [2, 4])
def test_matching_in_parts_is_that_by_hand(grid, ratio, timesteps, parts):
    metric = torch.randn(2, grid[0] * grid[1], 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    call = Call("layer", grid, int(ratio * grid[0] * grid[1]), timesteps, 0)
    destinations = call.destinations("cpu")
    slot = match(metric, destinations, call.removed, parts)
    for image, drawn in enumerate(destinations.expand(2, -1)):
        assert slot[image].tolist() == by_hand(metric[image], drawn, call.removed, parts)


def test_the_principal_direction():
    vectors = torch.randn(2, 50, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 1, 1, 1, 1, 1]) + 5
    found = matching.principal(vectors)
    assert torch.allclose(found.norm(dim=1), torch.ones(2, 1)) and (found[:, 0].abs() > 0.95).all()
    assert torch.equal(matching.principal(torch.ones(1, 5, 3).half()), torch.zeros(1, 3, 1).half())
