"""Which folders a filter looks into, and the filter as a value."""

import pickle
import re
import subprocess
import sys
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnistorage import ObjectInfo
from omnistorage.sync.filters import Filter

from .filter_world import NOW, passing

# --- folders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "yes", "no"),
    [
        (["+ /a/b/*.csv", "- *"], ["", "a", "a/b"], ["b", "a/c", "a/b/c", "ab"]),
        (["+ /a/*/c.csv", "- **"], ["a", "a/x"], ["b", "a/x/y"]),
        (["+ /a/**.csv", "- /**"], ["a", "a/x", "a/x/y"], ["b"]),
        (["+ /a**/x", "- *"], ["a", "ab", "ab/c", "a/b/c"], ["b"]),
        (["+ /{a/x,b/*/y,c}/*.csv", "- *"], ["a", "a/x", "b", "b/1", "b/1/y", "c"], ["d", "a/y", "b/1/z", "c/d"]),
        (["+ /{a,b}/*.csv", "- *"], ["a", "b"], ["c", "a/b", "{a,b}"]),
        (["+ /logs/{{\\d+/x}}.txt", "- *"], ["logs", "logs/1", "logs/x/y"], ["log", "x"]),
        (["+ /{a*,b/}**.csv", "- *"], ["a", "ax", "ax/y", "b", "b/c"], ["c", "ca"]),
        (["+ *.csv", "- *"], ["", "a", "a/b"], []),
        (["- /tmp/", "+ *.csv", "- *"], ["a"], ["tmp", "tmp/a"]),
        (["- cache/**", "- [ab]?/**"], ["", "x", "a"], ["cache", "x/cache/y", "ax", "x/b1"]),
        (["- {x/tmp,cache,[}]/**}/**"], ["x", "tmp"], ["x/tmp", "y/cache", "}/z"]),
        (["- /t/**/*"], ["t", "x"], ["t/a", "t/a/b"]),
        (["- {{tmp\\d+}}/"], ["tmp"], ["tmp1", "x/tmp22/y"]),
        (["- {{tmp(?!1)}}/", "- {{a$}}**", "- {{b\\b}}**", "- {{c?+}}cd**"], ["tmp", "a", "b", "cd"], []),
        (["- *"], [], ["", "a", "a/b"]),
        (["+ /a", "- *"], [""], ["a", "x"]),
        (["+ /a,b/x", "- *"], ["", "a,b"], ["a", "b"]),
        (["+ /[]{,]x/y", "- *"], ["]x", "{x"], ["ax", "x"]),
        (["+ x/", "- *"], ["", "x", "y/x"], ["a"]),
        (["- **"], [], ["", "a"]),
        (["- /*"], ["a"], []),
        (["- *.*", "- a/*"], ["a", "a/b"], []),
        (["+ **", "- *"], ["a"], []),
        (["+ /\\a\\/b", "- *"], ["a"], ["b", "a/b"]),
        (["- {/a,b}/c/"], ["a", "a/c", "b"], ["b/c", "x//a/c", "x/b/c/d"]),
    ],
)
def test_folders_that_hold_nothing_to_include_are_passed_over(rules, yes, no):
    filter = Filter.parse(rules)
    assert [folder for folder in yes if not filter.descends(folder)] == []
    assert [folder for folder in no if filter.descends(folder)] == []
    assert filter.prunes == bool(no)


def test_a_pattern_with_too_many_choices_is_not_taken_apart():
    choices = "{" + ",".join(f"{n}/x" for n in range(40)) + "}"
    filter = Filter.parse([f"+ /a/{choices}/{choices}/z", "- *"])
    assert filter.includes_path("a/3/x/5/x/z")
    for folder in ("a/3/x", "a/3/x/5", "a/3/x/5/x", "a/3/x/nothing"):
        assert filter.descends(folder)
    assert not filter.descends("b")
    assert Filter.parse([f"- /a/{choices}/{choices}/"]).descends("a/3/x")


SEGMENTS = st.sampled_from(["a", "b", "ab", "c.x", "A", "}", ","])
PATHS = st.lists(SEGMENTS, min_size=1, max_size=4).map("/".join)
PIECES = st.sampled_from(
    ["a", "b", "ab", "c.x", "*", "**", "?", "/", "/", "\\/", "\\}", "[ab]", "[!a]", "[}]", "{a,b}", "{a/,b}", "{a*,b/}",
     "{a/b,**}",
     "{,a/{b,*/}}", "{*,b}", "{{a+}}", "{{a|b/}}", "{{[^/]*}}", "{a,{{b}} }", "A", ","]
)  # fmt: skip
RULES = st.lists(
    st.tuples(st.sampled_from("+-"), st.booleans(), st.lists(PIECES, min_size=1, max_size=5), st.booleans()).map(
        lambda t: f"{t[0]} {'/' * t[1]}{re.sub('[*]{3,}', '**', ''.join(t[2]))}{'/' * t[3]}"
    ),
    max_size=4,
).flatmap(lambda rules: st.sampled_from([rules, [*rules, "- *"], [*rules, "- **"]]))


def walk(paths, filter):
    """The files of a tree, without looking into the folders that need not be."""
    found = []
    for path in paths:
        parts = path.split("/")
        if all(filter.descends("/".join(parts[:n])) for n in range(len(parts))):
            found.append(path)
    return passing(filter, found)


@given(st.lists(PATHS, max_size=12), RULES, st.booleans(), st.sampled_from([None, 1, 2, 3]))
def test_walking_without_the_folders_passed_over_finds_every_file_that_is_included(paths, rules, ignore_case, depth):
    filter = Filter.parse(rules, ignore_case=ignore_case, max_depth=depth)
    assert walk(paths, filter) == passing(filter, paths)
    if not filter.prunes:
        assert all(filter.descends(path) for path in paths)
    if filter.is_all:
        assert passing(filter, paths) == paths


@given(st.lists(PATHS, max_size=8), st.lists(PATHS, max_size=4))
def test_walking_to_listed_files_finds_those_that_are_there(paths, listed):
    filter = Filter.parse(files_from=[listed])
    assert walk(paths, filter) == passing(filter, paths) == [path for path in paths if path in listed]


# --- the filter as a value --------------------------------------------------------------------------------------------

WORDS = [
    {}, {"rules": ["- a"]}, {"rules": ["+ a"]}, {"rules": ["- a", "- b"]}, {"rules": ["- b", "- a"]}, {"min_size": 1},
    {"max_size": 1}, {"min_age": 1}, {"max_age": 1}, {"max_age": "2026-01-01T00:00:00Z"}, {"max_depth": 1},
    {"ignore_case": True}, {"hash_filter": "1/3"}, {"hash_filter": "2/3"}, {"metadata_exclude": "a"},
    {"metadata_include": "a"}, {"exclude_if_present": "a"}, {"files_from": [["a"]]}, {"files_from": [["b"]]},
    {"files_from": [[]]},
]  # fmt: skip


def test_a_fingerprint_tells_filters_apart_and_equals_have_the_same():
    filters = [Filter.parse(**words) for words in WORDS]
    assert len({filter.fingerprint() for filter in filters}) == len(WORDS)
    assert len(set(filters)) == len(WORDS)
    for words, filter in zip(WORDS, filters, strict=True):
        assert Filter.parse(**words) == filter
        assert Filter.parse(**words).fingerprint() == filter.fingerprint()


def test_a_fingerprint_is_the_same_in_another_process_and_on_another_day():
    words = {"exclude": ["*.tmp"], "max_age": "2d", "max_size": "1M"}
    filter = Filter.parse(**words, now=NOW)
    assert filter.fingerprint() == Filter.parse(**words, now=NOW + timedelta(days=9)).fingerprint()
    assert filter == Filter.parse(**words)
    names = [f"{n}.csv" for n in range(20)]
    code = (
        "from omnistorage.sync.filters import Filter; "
        f"print(Filter.parse(**{words!r}).fingerprint(), Filter.parse(files_from=[{names!r}]).fingerprint())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [filter.fingerprint(), Filter.parse(files_from=[names]).fingerprint()]
    assert Filter.parse(files_from=[["b", "a"]]).fingerprint() == Filter.parse(files_from=[["a", "b"]]).fingerprint()
    assert Filter.parse(["- *.a"]).fingerprint() == "119c8c2d07d66218fefadcbcbffa10dccaa9da54a4c079fc95b094acf0011ec6"


def test_a_filter_pickles_with_the_moment_that_ages_count_from():
    filter = Filter.parse(["- a/"], max_age="1h", now=NOW)
    filter.descends("a")
    again = pickle.loads(pickle.dumps(filter))
    assert again == filter
    assert again.now == NOW
    assert not again.descends("a")
    assert again.includes("b", ObjectInfo("b", modified_at=NOW - timedelta(hours=1)))


def test_a_filter_prints_its_rules_in_the_order_they_are_tried():
    assert str(Filter.parse(["- b"], include="a")) == "+ a\n- b\n- /**"
    words = {"max_depth": 2, "min_size": "1k", "hash_filter": "1/2", "exclude_if_present": "x", "ignore_case": True}
    printed = str(Filter.parse(**words, metadata_exclude="a=b"))
    expected = "metadata - a=b\nexclude_if_present x\nmin_size 1024\nmax_depth 2\nhash_filter 1/2\nignore_case"
    assert printed == expected
    assert "2 paths" in str(Filter.parse(files_from=[["a", "b"]]))
    assert "- b" in repr(Filter.parse(["- b"]))


def test_a_filter_is_all_only_if_it_includes_everything():
    assert Filter.parse(["+ a", "+ /b/"]).is_all
    assert Filter.parse(["+ **", "- a"]).is_all
    assert Filter.parse(hash_filter="1/1").is_all
    assert Filter.parse(["- a", "!"]).is_all
    for words in WORDS[1:]:
        assert Filter.parse(**words).is_all == (words == {"rules": ["+ a"]} or words == {"ignore_case": True})
