"""Fan-out under random failures: what is reported as done is held by as many as needed, and repair converges."""

import os
from collections import Counter

import pytest

from .simulation import FAULTS, OPS, World

SEEDS = 1000 * int(os.environ.get("OMNISTORAGE_SCALE", "1"))
PARTS = 10


@pytest.mark.parametrize("part", range(PARTS))
def test_goal_34_what_is_reported_is_held_and_repair_converges(part):
    fired, did = Counter(), Counter()
    for seed in range(part * SEEDS // PARTS, (part + 1) * SEEDS // PARTS):
        world = World(seed).live()
        fired += world.fired
        did += world.did
    assert did["rest"] == SEEDS // PARTS
    for kind in FAULTS:
        assert fired[kind] >= 10, (kind, fired)
    for op in (*OPS, "partly", "settled", "brought", "moved"):
        assert did[op] >= {"partly": 3, "brought": 1, "moved": 1}.get(op, 10), (op, did)


def test_goal_33_a_seed_replays_byte_for_byte():
    for seed in range(40):
        assert World(seed).live().log == World(seed).live().log, seed
