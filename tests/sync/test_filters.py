"""rclone's grammar of filters: rules, lists, bounds, parts, markers."""

import io
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnistorage import ObjectInfo
from omnistorage.sync.filters import Filter

from .filter_world import NOW, passing, refused

# --- rules ------------------------------------------------------------------------------------------------------------


def test_a_filter_without_rules_includes_everything():
    for filter in (Filter(), Filter.parse()):
        assert filter.is_all
        assert not filter.prunes
        assert filter.includes("a/b", ObjectInfo("a/b", size=5, modified_at=NOW, metadata={}))
        assert filter.descends("a")
        assert filter.descends("")


def test_the_first_rule_that_matches_decides_and_without_one_a_file_is_included():
    filter = Filter.parse(["+ /keep/*.tmp", "- *.tmp", "+ x.tmp"])
    assert passing(filter, ["keep/a.tmp", "a.tmp", "x.tmp", "a.csv"]) == ["keep/a.tmp", "a.csv"]


def test_a_pattern_binds_to_the_end_and_starts_after_any_slash_or_at_the_root():
    assert passing(Filter.parse(["- a.csv"]), ["a.csv", "x/a.csv", "ba.csv", "a.csv/b"]) == ["ba.csv", "a.csv/b"]
    assert passing(Filter.parse(["- /a.csv"]), ["a.csv", "x/a.csv"]) == ["x/a.csv"]


def test_an_exclamation_mark_drops_the_rules_before_it():
    filter = Filter.parse(["- *.a", "!", "- *.b"], exclude="*.c")
    assert filter.rules == ("- *.b",)
    assert Filter.parse(["!"], include="*.a").rules == ("- /**",)


def test_include_implies_that_everything_else_is_excluded_and_a_plus_rule_does_not():
    assert passing(Filter.parse(include=["*.a"]), ["x.a", "x.b"]) == ["x.a"]
    assert passing(Filter.parse(["+ *.a"]), ["x.a", "x.b"]) == ["x.a", "x.b"]
    assert passing(Filter.parse(include_from=[["# nothing"]]), ["x.a"]) == []


def test_the_kinds_of_rules_are_tried_in_rclones_order():
    filter = Filter.parse(
        ["+ rules", "- r2"],
        filter_from=[["- filter_from"]],
        exclude_from=[["exclude_from"]],
        exclude=["exclude", "e2"],
        include_from=[["include_from"]],
        include=["include"],
    )
    assert filter.rules == (
        "+ include", "+ include_from", "- exclude", "- e2", "- exclude_from", "+ rules", "- r2", "- filter_from",
        "- /**",
    )  # fmt: skip


def test_white_space_at_the_end_of_a_rule_is_dropped():
    assert Filter.parse(["- a ", "!\t", "+ b\t "], exclude="c ").rules == ("+ b",)
    assert passing(Filter.parse(exclude=["a "]), ["a", "a "]) == ["a "]
    assert passing(Filter.parse(exclude=["a[ ]", " b"]), ["a", "a ", "b", " b"]) == ["a", "b"]


def test_a_folder_rule_excludes_everything_under_the_folder():
    filter = Filter.parse(["- tmp/", "- /top/"])
    paths = ["tmp", "tmp/a", "x/tmp/a/b", "xtmp/a", "top/a", "x/top/a"]
    assert passing(filter, paths) == ["tmp", "xtmp/a", "x/top/a"]
    assert not filter.descends("x/tmp")
    assert not filter.descends("x/tmp/a")
    assert not filter.descends("top")
    assert filter.descends("x/top")
    assert filter.descends("xtmp")


def test_a_folder_that_is_included_is_kept_though_none_of_its_files_is():
    filter = Filter.parse(["+ /empty/", "- *"])
    assert not filter.includes_path("empty/a")
    assert filter.descends("empty")
    assert not filter.descends("empty/x")
    assert not filter.descends("other")
    filter = Filter.parse(["+ /x/y/", "+ z/", "- *"])
    asked = ["x", "x/y", "x/y/a", "x/b", "a", "x/z", "a/z"]
    assert [folder for folder in asked if filter.descends(folder)] == ["x", "x/y", "x/z", "a/z"]


def test_case_counts_unless_it_is_ignored():
    paths = ["A.CSV", "a.csv", "\u00dcB.txt"]
    assert passing(Filter.parse(["- *.csv", "- \u00fcb.TXT"]), paths) == ["A.CSV", "\u00dcB.txt"]
    assert passing(Filter.parse(["- *.csv", "- \u00fcb.TXT"], ignore_case=True), paths) == []
    assert not Filter.parse(["- /TMP/"], ignore_case=True).descends("tmp")
    assert Filter.parse(["+ /A/x", "- *"], ignore_case=True).descends("a")


@pytest.mark.parametrize(
    "rule",
    [
        "+*.x", "-*.x", "*.x", "--min-size 10", "min-size 10", "", "+", "-", " - a", "!a", "# comment", "- ***",
        "- [a", "- a]", "- {a", "- a}", "- [z-a]", "- {{(}}", "- {{a", "+ a\\", "- ***/", "- [[:nope:]]",
        "- {{[[:nope:]]}}",
        "- " + "{a," * 5000 + "}" * 5000,
    ],
)  # fmt: skip
def test_go_w10_a_bad_rule_is_an_error_that_names_it(rule):
    assert repr(rule) in refused(["- *.y", rule])


@pytest.mark.parametrize("option", ["include", "exclude", "metadata_include", "metadata_exclude"])
def test_go_w10_a_bad_pattern_in_a_list_is_an_error_that_names_it(option):
    assert "'[a'" in refused(**{option: ["x", "[a"]})


def test_go_w10_two_stars_cross_folders_and_braces_are_alternatives():
    assert passing(Filter.parse(["- /a/**.{x,y}"]), ["a/b/c.x", "a/c.y", "a/c.z", "b/c.x"]) == ["a/c.z", "b/c.x"]


@pytest.mark.parametrize("option", ["include_from", "exclude_from", "filter_from"])
def test_go_w10_a_bad_line_of_a_file_is_named_with_file_and_line(option, tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("# first\n\n- a\n+ [b\n")
    said = refused(**{option: path})
    assert f"{path}, line 4" in said
    assert "[b" in said


def test_many_stars_end():
    key = "a" * 1000
    for pattern in ("/*a*a*a*a*b", "**a**a**a**b", "*a*a*a*a*b", "/" + "**a" * 30 + "b", "/x/" + "*a" * 30 + "b/c"):
        filter = Filter.parse([f"+ {pattern}", "- *"])
        assert not filter.includes_path(key)
        filter.descends(key)
        filter.descends("x/" + key)
        assert not Filter.parse([f"- {pattern}/"]).includes_path(key + "b/c") or pattern.startswith("/x")


# --- lists in files ---------------------------------------------------------------------------------------------------


def test_lists_skip_comments_and_blank_lines_and_take_crlf_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "rules.txt"
    path.write_bytes("\ufeff- \u00fc\r\n# c\r\n\r\n   ; d\r\n  + b  \r\n".encode())
    expected = ("- \u00fc", "+ b")
    assert Filter.parse(filter_from=path).rules == expected
    assert Filter.parse(filter_from=str(path)).rules == expected
    assert Filter.parse(filter_from=[path]).rules == expected
    with path.open(encoding="utf-8") as file:
        assert Filter.parse(filter_from=file).rules == expected
    with path.open("rb") as file:
        assert Filter.parse(filter_from=[file]).rules == expected
    assert Filter.parse(filter_from=io.StringIO(path.read_text("utf-8"))).rules == expected
    assert Filter.parse(filter_from=[path.read_text("utf-8").splitlines(keepends=True)]).rules == expected


def test_several_lists_are_read_in_their_order(tmp_path):
    (tmp_path / "1").write_text("a\n")
    (tmp_path / "2").write_text("b")
    assert Filter.parse(exclude_from=[tmp_path / "2", tmp_path / "1"]).rules == ("- b", "- a")


def test_only_a_line_feed_ends_a_line(tmp_path):
    path = tmp_path / "list"
    path.write_bytes("a\u2028b\x0bc\rd\n".encode())
    assert Filter.parse(files_from_raw=path).files == {"a\u2028b\x0bc\rd"}


@pytest.mark.parametrize("option", ["include_from", "exclude_from", "filter_from", "files_from", "files_from_raw"])
def test_a_list_that_cannot_be_read_is_an_error_that_names_it(option, tmp_path):
    missing = str(tmp_path / "missing")
    assert repr(missing) in refused(**{option: missing})
    assert repr("a\0b") in refused(**{option: "a\0b"})


def test_names_that_are_no_utf_8_can_be_listed(tmp_path):
    path = tmp_path / "list"
    path.write_bytes(b"a\xff\n")
    filter = Filter.parse(files_from=path)
    assert filter.includes_path("a\udcff")
    assert len(filter.fingerprint()) == 64


def test_files_from_is_the_exact_set_and_the_folders_that_lead_to_it():
    filter = Filter.parse(files_from=[["# no", " a/b/c ", "/d*", "", "; no"]])
    assert passing(filter, ["a/b/c", "d*", "a/b/c/d", "dx", "a/b", "# no", "x"]) == ["a/b/c", "d*"]
    assert [folder for folder in ("", "a", "a/b", "a/b/c", "x", "a/x") if filter.descends(folder)] == ["", "a", "a/b"]
    assert filter.prunes
    assert not filter.is_all
    assert filter.includes("d*", ObjectInfo("d*", size=1))


def test_files_from_raw_takes_lines_as_they_are():
    filter = Filter.parse(files_from_raw=io.StringIO("# a\n b \r\n\n/c\n"))
    assert filter.files == {"# a", " b ", "c"}


def test_files_from_raw_is_separated_by_nul_where_it_holds_one(tmp_path):
    path = tmp_path / "list"
    path.write_bytes(b"a\nb\0c\r\0/d\0")
    assert Filter.parse(files_from_raw=path).files == {"a\nb", "c\r", "d"}
    assert Filter.parse(files_from=[["x"]], files_from_raw=path).files == {"a\nb", "c\r", "d", "x"}


def test_an_empty_files_from_includes_nothing():
    filter = Filter.parse(files_from=[[]])
    assert not filter.includes_path("a")
    assert not filter.descends("")


@pytest.mark.parametrize(
    "other",
    [
        {"rules": ["- a"]}, {"include": "a"}, {"exclude": "a"}, {"exclude_from": [["a"]]}, {"filter_from": [["- a"]]},
        {"include_from": [["a"]]}, {"exclude_if_present": "a"}, {"min_size": 1}, {"max_size": 1}, {"min_age": 1},
        {"max_age": 1}, {"max_depth": 1}, {"hash_filter": "1/2"}, {"metadata_include": "a"}, {"metadata_exclude": "a"},
        {"metadata_filter": ["- a"]}, {"ignore_case": True},
    ],
)  # fmt: skip
def test_files_from_goes_with_no_other_filter(other):
    assert "files_from" in refused(files_from=[["a"]], **other)
    assert "files_from" in refused(files_from_raw=[[]], **other)


# --- size, age, metadata ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (7, 7), (0, 0), ("100", 102400), ("10b", 10), ("10B", 10), ("1k", 1024), ("1Ki", 1024), ("1KiB", 1024),
        ("10M", 10 << 20), ("1.5G", 3 << 29), ("1t", 1 << 40), ("1P", 1 << 50), ("1E", 1 << 60), (".5k", 512), ("0", 0),
        ("off", None), ("OFF", None), (None, None),
    ],
)  # fmt: skip
def test_sizes_are_rclones(text, size):
    assert Filter.parse(min_size=text).min_size == size
    assert Filter.parse(max_size=text).max_size == size


@pytest.mark.parametrize("text", ["", "k", "1KB", "1 k", "-1", -1, True, "1x", "1kk", "1.2.3", 1.5, "\u0661k"])
def test_what_is_no_size_is_an_error_that_names_it(text):
    said = refused(min_size=text)
    assert repr(text) in said
    assert "min_size" in said


def test_bounds_of_size_belong_to_what_is_included():
    filter = Filter.parse(min_size=10, max_size="1k")
    assert [n for n in (9, 10, 1024, 1025) if filter.includes("a", ObjectInfo("a", size=n))] == [10, 1024]


@pytest.mark.parametrize(
    ("text", "age"),
    [
        (90, timedelta(seconds=90)), (1.5, timedelta(seconds=1.5)), (timedelta(days=2), timedelta(days=2)),
        ("90", timedelta(seconds=90)), ("90s", timedelta(seconds=90)), ("15m", timedelta(minutes=15)),
        ("2h", timedelta(hours=2)), ("3d", timedelta(days=3)), ("1w", timedelta(days=7)), ("2M", timedelta(days=60)),
        ("1y", timedelta(days=365)), ("1h30m", timedelta(minutes=90)), ("1.5d", timedelta(hours=36)),
        ("250ms", timedelta(milliseconds=250)), ("7us", timedelta(microseconds=7)), ("1d12h", timedelta(hours=36)),
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00.5+02:00", datetime(2026, 1, 31, 10, 0, 0, 500000, tzinfo=UTC)),
        ("2026-01-31", datetime(2026, 1, 31).astimezone(UTC)),  # local time, as rclone has it
        ("2026-01-31 10:30:00", datetime(2026, 1, 31, 10, 30).astimezone(UTC)),
        ("off", None),
    ],
)  # fmt: skip
def test_ages_are_rclones(text, age):
    assert Filter.parse(min_age=text).min_age == age
    assert Filter.parse(max_age=text).max_age == age


@pytest.mark.parametrize(
    "text",
    ["", "1x", "d", "1d-2h", "-1h", -1, timedelta(days=-1), True, float("nan"), float("inf"), "9999999999y",
     "2026-13-01",
     "20x26-01-01", "1 d", "yesterday"],
)  # fmt: skip
def test_what_is_no_age_is_an_error_that_names_it(text):
    said = refused(max_age=text)
    assert repr(text) in said
    assert "max_age" in said


def test_bounds_of_age_belong_to_what_is_included():
    filter = Filter.parse(min_age="1h", max_age="1d", now=NOW)
    tick = timedelta(microseconds=1)
    newest, oldest = NOW - timedelta(hours=1), NOW - timedelta(days=1)
    times = [newest + tick, newest, oldest, oldest - tick]
    assert [t for t in times if filter.includes("a", ObjectInfo("a", modified_at=t))] == [newest, oldest]
    filter = Filter.parse(min_age="2026-03-01T00:00:00Z", max_age="2026-02-01T00:00:00Z")
    times = [datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)]
    assert all(filter.includes("a", ObjectInfo("a", modified_at=t)) for t in times)
    assert not any(filter.includes("a", ObjectInfo("a", modified_at=t)) for t in (times[0] + tick, times[1] - tick))


def test_ages_count_from_now_unless_told_otherwise():
    filter = Filter.parse(max_age="1h")
    assert filter.includes("a", ObjectInfo("a", modified_at=datetime.now(UTC)))
    assert not filter.includes("a", ObjectInfo("a", modified_at=datetime.now(UTC) - timedelta(hours=2)))
    assert Filter.parse(max_age="5000y").includes("a", ObjectInfo("a", modified_at=NOW))


def test_what_is_not_known_of_an_object_excludes_nothing():
    filter = Filter.parse(min_size=10, max_size=20, min_age="1h", max_age="1d", metadata_include="a=b")
    assert filter.includes("a", ObjectInfo("a"))
    assert filter.includes("a")


def test_bounds_that_nothing_could_pass_are_refused():
    assert "min_size" in refused(min_size=2, max_size=1)
    assert "min_age" in refused(min_age="2d", max_age="1d")
    for depth in (0, -1):
        assert "max_depth" in refused(max_depth=depth)


def test_max_depth_is_how_many_levels_are_looked_into():
    filter = Filter.parse(max_depth=2)
    assert passing(filter, ["a", "a/b", "a/b/c"]) == ["a", "a/b"]
    assert [folder for folder in ("", "a", "a/b", "a/b/c") if filter.descends(folder)] == ["", "a"]
    assert filter.prunes
    assert not filter.is_all
    assert Filter.parse(max_depth=1).descends("")


def test_metadata_rules_match_key_and_value_and_one_key_is_enough():
    def passes(metadata, **options):
        return Filter.parse(**options).includes("a", ObjectInfo("a", metadata=metadata))

    assert passes({"x": "1", "owner": "me"}, metadata_include=["owner=m*"])
    assert not passes({"owner": "you"}, metadata_include=["owner=m*"])
    assert not passes({"x": "1", "owner": "me"}, metadata_exclude=["owner=me"])
    assert not passes({"owner": "me"}, metadata_filter=["+ x=*", "- owner=*"])
    assert passes({"owner": "me", "x": "1"}, metadata_filter=["+ x=*", "- owner=*"])
    assert not passes({}, metadata_include=["owner=m*"])
    assert passes({}, metadata_exclude=["owner=*"])
    assert not passes({}, metadata_exclude=["*"])
    assert passes({"owner": "me"}, metadata_filter=["- *", "!", "+ *"])


def test_go_s5_what_size_or_age_hides_the_path_alone_does_not():
    """What the engine needs so that a file that outgrows ``max_size`` does not cost its copy at the destination."""
    filter = Filter.parse(["- *.tmp"], max_size=10, max_age="1d", now=NOW)
    old, big = ObjectInfo("a", size=1, modified_at=NOW - timedelta(days=2)), ObjectInfo("a", size=11, modified_at=NOW)
    assert not filter.includes("a", old)
    assert not filter.includes("a", big)
    assert filter.includes_path("a")
    assert not filter.includes_path("a.tmp")


# --- parts ------------------------------------------------------------------------------------------------------------


@given(st.text(st.characters(codec="utf-8"), min_size=1), st.integers(1, 9))
def test_every_path_is_in_exactly_one_of_the_parts(path, parts):
    filters = [Filter.parse(hash_filter=f"{k}/{parts}") for k in range(1, parts + 1)]
    assert sum(filter.includes_path(path) for filter in filters) == 1


def test_a_part_is_rclones_and_the_same_for_names_that_some_stores_take_for_one():
    filters = [Filter.parse(hash_filter=f"{k}/4") for k in range(4)]
    found = [[n for n in range(1, 10) if filter.includes_path(f"file{n}.jpg")] for filter in filters]
    assert found == [[1, 5], [3, 6, 9], [2, 4], [7, 8]]  # as in rclone's manual
    assert Filter.parse(hash_filter="4/4") == filters[0]
    for n in range(9):
        same = f"\u00e9{n}.TXT", f"e\u0301{n}.txt", f"\u00c9{n}.txt"
        assert [len({filter.includes_path(name) for name in same}) for filter in filters] == [1, 1, 1, 1]


@pytest.mark.parametrize("text", ["@/3", "", "1", "1/0", "5/4", "a/b", "-1/2", "1/2/3", "1/\u0663", "@/0"])
def test_a_part_that_is_none_is_an_error_that_names_it(text):
    assert repr(text) in refused(hash_filter=text)


# --- markers ----------------------------------------------------------------------------------------------------------


def test_a_folder_with_a_marker_in_it_is_told_from_its_entries():
    filter = Filter.parse(exclude_if_present=[".ignore", "CVS/"])
    assert filter.marker_names == (".ignore", "CVS/")
    assert filter.has_marker([ObjectInfo("a/b"), ObjectInfo("a/.ignore")])
    assert filter.has_marker([ObjectInfo("a/CVS", kind="dir")])
    assert not filter.has_marker([ObjectInfo("a/CVS"), ObjectInfo("a/.ignore", kind="dir"), ObjectInfo("a/x.ignore")])
    assert not Filter().has_marker([ObjectInfo("a")])
    assert not filter.is_all
    assert Filter.parse(exclude_if_present="CVS").marker_names == ("CVS",)


@pytest.mark.parametrize("name", ["", "/", "a/b", "/a", "a//"])
def test_a_marker_that_is_no_name_is_an_error(name):
    assert repr(name) in refused(exclude_if_present=name)
