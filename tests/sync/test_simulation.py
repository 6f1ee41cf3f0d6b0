"""Many small worlds, each decided by its seed (``SEEDS`` says how many); see ``simulation``."""

from collections import Counter

import pytest

from ..budget import pick
from . import simulation
from .simulation import World

SEEDS = pick(default=80, ci=1500, soak=100_000)
SHARDS = pick(default=1, ci=10, soak=10)
EACH = pick(default=8, ci=15, soak=1000)  # how often each kind of fault happens in a shard, at least


@pytest.mark.parametrize("shard", range(SHARDS))
def test_goal_33_no_seed_breaks_a_promise(shard):
    fired, trees = Counter(), 0
    for seed in range(shard, SEEDS, SHARDS):
        world = World(seed).live()
        fired += world.fired
        trees += len(world.held["src"]) + len(world.held["dst"]) >= 50
    assert {kind for kind in simulation.FAULTS if fired[kind] < EACH} == set(), fired
    assert trees > SEEDS / SHARDS / 2, "the worlds are too small"


@pytest.mark.parametrize("seed", [1, 12, 123])
def test_goal_33_a_seed_replays_call_by_call(seed):
    one, other = World(seed, chance=0.05), World(seed, chance=0.05)
    assert one.live().log == other.live().log
    assert len(one.log) > 100
