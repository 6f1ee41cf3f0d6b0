"""The one glob translator: rclone's grammar, linear, with errors that name the pattern."""

import re
import subprocess
import sys
from functools import lru_cache

import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st

from omnistorage.errors import ConfigError
from omnistorage.glob_matching import FOLDERS, Automaton, plain_expression
from omnistorage.globs import _Parser, compile_glob, has_magic, literal_folder

from ..budget import pick
from ..waiting import LIMIT


def matches(pattern, key, **options):
    return compile_glob(pattern, **options).fullmatch(key) is not None


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.csv", ["a.csv", "x/y/a.csv", ".csv"], ["a.csvx", "a.csv/b", "a.csv\n"]),
        ("/*.csv", ["a.csv"], ["x/a.csv"]),
        ("/a/**", ["a/b", "a/b/c", "a/"], ["ab", "x/a/b"]),
        ("a?c", ["abc", "x/abc"], ["a/c", "ac"]),
        ("[a-c]x", ["ax", "cx"], ["dx", "/x"]),
        ("[!a]x", ["bx", "]x"], ["ax"]),
        ("a[^a]x", ["abx"], ["aax", "a/x"]),
        ("[]a]", ["]", "a"], ["b"]),
        ("[[:digit:]]z", ["5z"], ["xz", "\u0665z"]),
        ("{a,b}.txt", ["a.txt", "b.txt"], ["c.txt", "ab.txt"]),
        ("x{,y{1,2}}", ["x", "xy1", "xy2"], ["xy"]),
        ("/{a/**,b}/c", ["a/x/y/c", "b/c"], ["c", "x/c"]),
        ("{{\\d+}}.log", ["12.log"], ["x.log"]),
        (r"\*\{", ["*{"], ["x{"]),
        (r"\d\D\w\W\s\S", ["1aa. x"], ["aaa. x", "11a. x", "1a.. x", "1aaa x", "1aa..x", "1aa.  "]),
        (r"/a\D\W\Sb", ["a...b"], ["a/..b", "a./.b", "a../b", "a\u0665./b"]),
        (r"[\d_]x", ["5x", "_x"], ["dx", "\u0665x"]),
        (r"[^\d]x", ["dx"], ["5x", "/x"]),
        (r"/[\W\d]x", ["5x", ".x"], ["dx", "/x"]),
        (r"[\S]", ["a"], [" "]),
        (r"{{\d{2}}}.log", ["12.log"], ["1.log", "1}.log", "\u0661\u0662.log"]),
        ("*.{{(?i)jpe?g}}", ["a.jpg", "a.JPEG"], ["a.png"]),
        ("{{(?i)a}}b", ["Ab"], ["AB"]),
        ("{{[[:upper:][:digit:]]+}}x", ["A1x"], ["a1x", ":x"]),
        (r"{{\[[:upper:]]?}}x", ["[ux", "[u]x"], ["[Ux"]),
        (r"{{[^]\]a]}}x", ["bx"], ["]x", "ax"]),
        ("{{[[a&&b||~~]}}x", ["[x", "ax", "&x", "~x"], ["]x", "cx"]),
        ("a.b+c", ["a.b+c"], ["axb+c", "a.bbc"]),
        ("*", ["a", "x/a"], []),
    ],
)
def test_the_grammar(pattern, yes, no):
    assert [key for key in yes if not matches(pattern, key)] == []
    assert [key for key in no if matches(pattern, key)] == []


def test_rs_7_1_12_a_pattern_binds_to_the_very_end():
    assert not matches("*.csv", "a.csv\n")
    assert not matches("[a\\]b]x", "a]x")
    assert matches("[a\\]b]x", "]x")


def test_anchored_patterns_are_those_of_shells():
    assert matches("**/*.csv", "a.csv", anchored=True)
    assert matches("**/*.csv", "x/y/a.csv", anchored=True)
    assert not matches("*.csv", "x/a.csv", anchored=True)
    assert matches("x/**/y", "x/y", anchored=True)
    assert matches("x/**/y", "x/1/2/y", anchored=True)
    assert not matches("x/**y", "xy", anchored=True)


def test_case_can_be_ignored():
    assert matches("*.CSV", "a.csv", ignore_case=True)
    assert not matches("*.CSV", "a.csv")
    assert matches("\u00fc[\u00c4-\u00d6].A", "\u00dc\u00e4.a", ignore_case=True)


@pytest.mark.parametrize(
    "pattern",
    [
        "***",
        "a***b",
        "[a",
        "[",
        "{a",
        "{a,{b}",
        "a}",
        "[z-a]",
        "a\\",
        "]",
        "{{a",
        "{{(}}",
        "[[:nope:]]",
        "[a-",
        "{{[[:nope:]]}}",
        "{{[[:^digit:]]}}",
        "{{(?i)(}}",
    ],
)
def test_go_w10_a_bad_pattern_is_an_error_that_names_it(pattern):
    with pytest.raises(ConfigError) as caught:
        compile_glob(pattern)
    assert repr(pattern) in str(caught.value)


def test_the_literal_folder_of_a_pattern():
    assert literal_folder("logs/2026/*/a.csv") == "logs/2026"
    assert literal_folder("/logs/2*") == "logs"
    assert literal_folder("*.csv") == ""
    assert literal_folder("a/b/c.txt") == "a/b"
    assert has_magic("a*")
    assert not has_magic("a.b/c-d")


def oracle(pattern, key):
    @lru_cache(None)
    def go(i, j):
        if i == len(pattern):
            return j == len(key)
        if pattern.startswith("**", i):
            return any(go(i + 2, k) for k in range(j, len(key) + 1))
        if pattern[i] == "*":
            stop = key.find("/", j)
            return any(go(i + 1, k) for k in range(j, (len(key) if stop < 0 else stop) + 1))
        if j == len(key):
            return False
        return (key[j] != "/" if pattern[i] == "?" else pattern[i] == key[j]) and go(i + 1, j + 1)

    return go(0, 0)


@given(
    st.lists(st.sampled_from(["a", "b", "/", "*", "**", "?"]), max_size=8)
    .map("".join)
    .filter(lambda p: "***" not in p),
    st.text("ab/", max_size=9),
)
def test_stars_agree_with_a_matcher_that_tries_everything(pattern, key):
    assert matches("/" + pattern, key) == oracle(pattern, key)


PATTERNS = st.recursive(
    st.lists(st.sampled_from(["a", "b", "/", "*", "**", "?", "[ab]", "**/"]), max_size=5).map("".join),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda b: f"{{{','.join(b)}}}"),
    ),
    max_leaves=8,
)


@settings(max_examples=pick(default=200, ci=3_000, soak=100_000))
@given(PATTERNS, st.text("ab/", max_size=9), st.booleans())
def test_both_ways_to_match_agree_with_a_plain_regular_expression(pattern, key, anchored):
    try:
        found = matches(pattern, key, anchored=anchored)
    except ConfigError:
        reject()
    assume("{{" not in pattern)
    items = ([] if anchored or pattern.startswith("/") else [FOLDERS]) + _Parser(pattern, anchored).items()
    assert found == (re.fullmatch(plain_expression(items), key) is not None)
    assert found == bool(Automaton(items, 0).fullmatch(key))


HOSTILE = [
    ("{,}" * 60 + "b", "a"),
    ("{a*,*a}" * 12 + "b", "a" * 40),
    ("*{a,b}*{a,b}*{a,b}*{a,b}*{a,b}*c", "ab" * 60),
    ("{a,{a,{a,}}}" * 15 + "b", "a" * 30),
    ("**/" * 12 + "x", "a/" * 400),
    ("*x**y" * 6 + "z", "xy" * 400),
    ("*{x,y}" * 8 + "z", "xy" * 400),
    ("*a" * 30 + "b", "a" * 1000),
    ("**a" * 30 + "b", "a" * 1000),
    ("**a*b" * 10, "a" * 1000),
    (("{" + ",".join(["a"] * 60) + "}*") * 20 + "b", "a" * 1000),
    ("*" + "{a,aa,aaa}" * 12 + "b", "a" * 1000),
    ("a/*/**/" * 20 + "b", "a/" * 400),
    ("**/" + "a*/" * 20 + "b", "a/" * 400),
    ("*{a*b,c*d}" * 10, "abcd" * 200 + "x"),
]
"""Patterns and keys that backtracking would not finish with, however they are matched."""

MATCHING = """
import sys
from omnistorage.globs import compile_glob
pattern, key = sys.argv[1:]
for text in (pattern, "/" + pattern):
    for anchored in (False, True):
        glob = compile_glob(text, anchored=anchored)
        assert not glob.fullmatch(key), "a match"
"""


@pytest.mark.parametrize(("pattern", "key"), HOSTILE)
def test_hostile_patterns_end(pattern, key):
    """In a process of its own: ``re`` lets go of no lock before it ends."""
    subprocess.run([sys.executable, "-c", MATCHING, pattern, key], check=True, timeout=LIMIT)


@pytest.mark.parametrize(("pattern", "key"), HOSTILE)
def test_an_automaton_takes_one_step_for_each_character(pattern, key, monkeypatch):
    steps = []
    step = Automaton._step
    monkeypatch.setattr(Automaton, "_step", lambda self, now, char: steps.append(char) or step(self, now, char))
    items = _Parser(pattern, True).items()
    automaton = Automaton(items, re.DOTALL)
    assert not automaton.fullmatch(key)
    assert len(steps) <= len(key)
    assert len(automaton._after) <= 2 * len(pattern) + 1


@pytest.mark.parametrize(
    "pattern", ["a" * 4097, "{a," * 33 + "}" * 33, "{a," * 2000, "{{" + "(" * 2000 + ")" * 2000 + "}}"]
)
def test_a_pattern_has_a_bounded_length_and_depth(pattern):
    with pytest.raises(ConfigError):
        compile_glob(pattern)


@pytest.mark.parametrize(
    ("pattern", "anchored"),
    [
        ("*.csv", False),
        ("*.{csv,json,parquet}", False),
        ("/logs/2026-??/*.gz", False),
        ("dir/**", False),
        ("/a/{b,c}/**", False),
        ("{2025,2026}-*.{csv,json}", False),
        ("[a-z]*_[0-9].log", False),
        ("**/*.csv", True),
        ("logs/**/part-*.json", True),
        ("a/**/b/**/c*.txt", True),
        ("*a*b*c", True),
    ],
)
def test_what_people_write_is_matched_by_a_regular_expression(pattern, anchored):
    assert isinstance(compile_glob(pattern, anchored=anchored), re.Pattern)
