"""The one glob translator: rclone's grammar, linear, with errors that name the pattern."""

import time
from functools import lru_cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnistorage.errors import ConfigError
from omnistorage.globs import compile_glob, has_magic, literal_folder


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


def test_many_stars_do_not_explode():
    started = time.process_time()
    assert not matches("/" + "*a" * 30 + "b", "a" * 1000)
    assert not matches("/" + "**a" * 30 + "b", "a" * 1000)
    assert time.process_time() - started < 20  # exponential matching would take years
