"""Random runs of sync, copy, move and check beside rclone: the same trees come out, or a row of the guide says why not.

A seed decides a case, which a failure shows with the smallest case that fails in the same way. To look at one again:
``differing(world, case_of(SEED, PLACES))``.
"""

import re
from collections import Counter
from pathlib import Path
from pprint import pformat

import pytest

from omnistorage.sync.execution.transfer import Hands
from omnistorage.sync.filters import Filter, rules
from omnistorage.sync.planning.comparison import EQUAL, Comparison
from omnistorage.sync.planning.finalize import Ending

from ..budget import pick
from .fuzz_cases import case_of
from .fuzz_differences import differences
from .fuzz_rows import ROWS, explained
from .fuzz_runs import World
from .rclone_daemon import Daemon

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "sync.md"
BLOCKS = 5
LOCAL = pick(default=20, ci=425, soak=8_500)
BUCKETS = pick(default=5, ci=75, soak=1_500)
PAIRS = (("local", "s3"), ("s3", "local"), ("s3", "s3"))


@pytest.fixture
def world(tmp_path):
    daemon = Daemon()
    yield World(tmp_path, daemon)
    daemon.close()


def differing(world, case, rows=None):
    """The differences that no row explains. ``rows`` counts the cases that a row explains."""
    ours, theirs = world.outcomes(case)
    found = {one: explained(case, one) for one in differences(ours, theirs)}
    if rows is not None:
        rows.update({name for name in found.values() if name})
    return [one for one, name in found.items() if name is None]


def smallest(world, case):
    """The case without the parts that it fails without, at the same place."""
    where = differing(world, case)[0].where
    for smaller in case.smaller():
        if any(one.where == where for one in differing(world, smaller)):
            return smallest(world, smaller)
    return case


def run(world, seeds, places):
    """Compare the cases of the seeds. Returns how many each row explains."""
    rows = Counter()
    for seed in seeds:
        case = case_of(seed, places)
        if differing(world, case, rows):
            case = smallest(world, case)
            found = differing(world, case)
            pytest.fail(f"seed {seed} of {places}\n{pformat(case)}\n{pformat(found)}\n{world.said}", pytrace=False)
    return rows


@pytest.mark.parametrize("block", range(BLOCKS))
def test_folders_end_as_with_rclone(world, block):
    rows = run(world, range(block, LOCAL, BLOCKS), ("local", "local"))
    assert sum(rows.values()) <= max(10, LOCAL / BLOCKS / 3), f"too much is explained away: {rows}"


@pytest.mark.parametrize("pair", PAIRS, ids="-to-".join)
def test_buckets_end_as_with_rclone(world, pair):
    seeds = range(PAIRS.index(pair), BUCKETS, len(PAIRS))
    rows = run(world, seeds, pair)
    assert sum(rows.values()) <= max(10, len(seeds) / 2), f"too much is explained away: {rows}"


def test_each_row_is_in_the_guide():
    table = GUIDE.read_text().partition("## Differences from rclone")[2].partition("\n## ")[0]
    assert set(ROWS) <= set(re.findall(r"^\| ([^|]+?) \|", table, re.MULTILINE))


def _sizes_do_not_count(patch):
    quick = Comparison.quick
    patch.setattr(Comparison, "quick", lambda self, a, b: quick(self, a, b._replace(size=a.size)))


def _times_do_not_count(patch):
    patch.setattr(Comparison, "_by_time", lambda self, a, b: EQUAL)


def _anchors_do_not_count(patch):
    compiled = rules.compile_rule

    def loose(text, ignore_case=False):
        return compiled(text.replace(" /", " ", 1), ignore_case)

    patch.setattr("omnistorage.sync.filters.filter.compile_rule", loose)


def _a_deletion_is_forgotten(patch):
    deletes = Ending._deletes
    patch.setattr(Ending, "_deletes", lambda self, failed: iter([*deletes(self, failed)][1:]))


def _excluded_files_are_deleted(patch):
    patch.setattr(Filter, "_includes_info", lambda self, info: True)


def _a_backup_is_forgotten(patch):
    patch.setattr(Hands, "_keep_old", lambda self, action, seen: None)


def _a_moved_source_stays(patch):
    patch.setattr(Hands, "_remove_source", lambda self, source, copy, found=False: None)


@pytest.mark.ci_only
@pytest.mark.parametrize(
    "plant",
    [
        _sizes_do_not_count,
        _times_do_not_count,
        _anchors_do_not_count,
        _a_deletion_is_forgotten,
        _excluded_files_are_deleted,
        _a_backup_is_forgotten,
        _a_moved_source_stays,
    ],
)
def test_a_planted_defect_is_noticed(world, monkeypatch, plant):
    plant(monkeypatch)
    assert any(differing(world, case_of(seed)) for seed in range(300))
