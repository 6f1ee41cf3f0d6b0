"""Goal 23: the short form of tests/fuzz.py, with fixed seeds."""

import importlib.util
import pathlib

import pytest

from .budget import pick

SPEC = importlib.util.spec_from_file_location("fuzz", pathlib.Path(__file__).parent / "fuzz.py")
fuzz = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fuzz)
COUNT = pick(default=300, ci=2_000, soak=20_000)


@pytest.mark.parametrize(("kind", "name"), fuzz.decoders())
def test_goal_23_the_corpus_and_mutations_of_it_raise_only_our_errors(kind, name):
    decoded = sum(fuzz.one(kind, name, seed) for seed in range(COUNT))
    assert decoded > 0.02 * COUNT, "the damage is too great to say anything"
    assert decoded < COUNT or name == "lines", "the damage is too small to say anything"
