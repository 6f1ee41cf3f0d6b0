"""Object names made from records: what a template may say, and that no value ever becomes more than a name."""

from datetime import UTC, date, datetime
from decimal import Decimal
from urllib.parse import quote, unquote
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnistorage import ConfigError, MemoryBackend, RecordError, RollingRecordWriter
from omnistorage.delivery import Spool, Template
from omnistorage.paths import check_new

from .conftest import contents


def name(text, record, *, seq=0, now=None, **options):
    template = Template(text, **options)
    moment = template.seconds(record, now or (lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)))
    return template.path(template.key(record, moment), seq=seq, id="ID", source="src", start=7)


def by(field):
    return {"time_of": lambda record: record[field]}


@pytest.mark.parametrize(
    ("text", "record", "options", "expected"),
    [
        ("{seq}", {}, {}, "0"),
        ("a/{seq:06d}.log", {}, {}, "a/000000.log"),
        ("{source}-{start:05d}-{id}", {}, {}, "src-00007-ID"),
        ("{a}/{b.c}/{seq}", {"a": "x", "b": {"c": 3}}, {}, "x/3/0"),
        ("{{{a}}}/{seq}", {"a": "x"}, {}, "{x}/0"),
        ("day={time:%Y-%m-%d}/{seq}", {}, {}, "day=2026-01-02/0"),
        ("{time:%H}{time:%M}/{seq}", {"t": 3600}, by("t"), "0100/0"),
        ("{time:%Y/%m}/{seq}", {"t": "2025-12-31T23:30:00Z"}, by("t"), "2025/12/0"),
        (
            "{time:%Y/%m}/{seq}",
            {"t": "2025-12-31T23:30:00Z"},
            {**by("t"), "zone": ZoneInfo("Europe/Zurich")},
            "2026/01/0",
        ),
        ("{time:%H}/{seq}", {"t": "2026-07-01T12:00"}, {**by("t"), "zone": ZoneInfo("Asia/Tokyo")}, "12/0"),
        ("{time:%Y}/{seq}", {"t": datetime(2024, 1, 1, tzinfo=UTC)}, by("t"), "2024/0"),
        ("{time:%Y%m%d%H%M%S}/{seq}", {"t": 1_700_000_000}, by("t"), "20231114221320/0"),
        ("{time:%Y%m%d%H%M%S}/{seq}", {"t": 1_700_000_000_000}, by("t"), "20231114221320/0"),
        ("{time:%Y%m%d%H%M%S}/{seq}", {"t": 1_700_000_000_000_000}, by("t"), "20231114221320/0"),
        ("{time:%Y%m%d%H%M%S}/{seq}", {"t": 1_700_000_000_000_000_000}, by("t"), "20231114221320/0"),
        ("{time:%Y}/{seq}", {"t": -1}, by("t"), "1969/0"),
        ("{a}/{seq}", {}, {"missing": "none"}, "none/0"),
        ("{a}/{seq}", {"a": None}, {"missing": "none"}, "none/0"),
        ("{a}/{seq}", {"a": ""}, {"missing": "a/b"}, "a%2Fb/0"),
        ("{a}/{seq}", {"a": True}, {}, "true/0"),
        ("{a}/{seq}", {"a": 1.5}, {}, "1.5/0"),
        ("{a}/{seq}", {"a": date(2026, 1, 2)}, {}, "2026-01-02/0"),
        ("{a}", {"a": "x"}, {"suffix": ".ndjson.gz"}, "x.ndjson.gz"),
    ],
)
def test_a_name_is_made_of_the_record(text, record, options, expected):
    assert name(text, record, **options) == expected


HOSTILE = [
    "..", ".", "../..", "a/b", "/", "/etc/passwd", "..\\..", "a\\b", "\0", "a\0b", "\n", "a\r\nb", "\x1b[31m", "\x7f",
    "\x85", "\u2028", "\ud800", "%2F", "%2e%2e", "%", "a%", "...", " ", "..%2f", "\uff0e\uff0e", "\u2215", "a" * 200,
    "\u00e9" * 100, "con", "aux.txt", "~", "$HOME", "*", "?", "a:b", '"', "|", "<>", "&", ";", "`id`", "{seq}", "{0}",
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("text", ["{a}", "{a}/x", "x/{a}", "x/{a}/y", ".{a}", "{a}.", "{a}{a}", "p={a}/{b}"])
def test_goal_40_a_value_never_leaves_its_place_in_the_name(text, value):
    path = name(text + "/{seq}", {"a": value, "b": value})
    assert check_new(path) == path
    assert path.count("/") == text.count("/") + 1
    assert ".." not in path.split("/")


def test_a_value_too_long_for_a_name_is_a_bad_record():
    with pytest.raises(RecordError, match="too long for a name"):
        name("{a}/{seq}", {"a": "x" * 201})
    with pytest.raises(RecordError, match="too long for a name"):
        name("{a}/{seq}", {"a": "\x01" * 70})


@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=40))
def test_different_values_have_different_names(one, two):
    assert (name("{a}/{seq}", {"a": one}) == name("{a}/{seq}", {"a": two})) == (one == two)


def test_values_of_different_types_that_are_equal_in_python_stay_apart():
    assert len({name("{a}/{seq}", {"a": value}) for value in (1, True, 1.0)}) == 3


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("", {}, "text of a name"),
        ("a/{}/b", {}, "without a name"),
        ("{a!r}", {}, "no conversion"),
        ("{seq:{a}}", {}, "nested"),
        ("{seq", {}, "template"),
        ("{time}", {}, "says how"),
        ("{time:%4Q}", {}, "%4Q is no directive"),
        ("{time:%Y/%Q}", {}, "%Q is no directive"),
        ("{time:%Y%}", {}, "% is no directive"),
        ("{id:x}", {}, "takes no format"),
        ("{tme:%Y}", {}, "did you mean 'time'"),
        ("{seqno:06d}", {}, "did you mean 'seq'"),
        ("{a[b]}", {}, "with dots"),
        ("/{seq}", {}, "no valid name"),
        ("a//{seq}", {}, "no valid name"),
        ("../{seq}", {}, "no valid name"),
        ("a/./{seq}", {}, "no valid name"),
        ("a\0{seq}", {}, "no valid name"),
        ("{seq:zz}", {}, "nknown format|nvalid format"),
        ("{seq:0999999999d}.x", {}, "too wide"),
        ("{seq:>99999999999}.x", {}, "too wide"),
        ("{start:0201d}", {}, "too wide"),
        ("{seq:" + "9" * 5000 + "}", {}, "too wide"),
        ("{time:%999999999Y}{seq}", {}, "too wide"),
    ],
)
def test_a_template_that_makes_no_names_is_refused_at_once(text, options, says):
    with pytest.raises(ConfigError, match=says):
        Template(text, **options)


def test_a_number_may_be_as_wide_as_a_name_allows():
    made = Template("{seq:0200d}-{time:v2026/%Y}")
    assert made.path(("v2026/2026",), seq=7, id="i", source="s", start=0) == "7".zfill(200) + "-v2026/2026"


@pytest.mark.parametrize(
    "record", [{}, {"a": None}, {"a": ""}, {"a": []}, {"a": {}}, {"a": Decimal(1)}, b"{}", [1], "x", 3]
)
def test_a_record_that_cannot_be_named_is_a_bad_record(record):
    with pytest.raises(RecordError):
        name("{a}/{seq}", record)


@pytest.mark.parametrize("value", [None, "soon", "", [], True, float("nan"), float("inf"), 10**400, {}])
def test_a_time_that_is_none_is_a_bad_record(value):
    with pytest.raises(RecordError):
        name("{time:%Y}/{seq}", {"t": value}, **by("t"))
    with pytest.raises(RecordError):
        name("{time:%Y}/{seq}", {}, **by("t"))


BASE = 1_767_225_600  # 2026-01-01T00:00Z


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (BASE - 2e-7, "2025-12-31T23:59:59.999999"),
        (BASE * 10**9 - 1, "2025-12-31T23:59:59.999999"),
        (BASE * 10**9 - 499, "2025-12-31T23:59:59.999999"),
        (BASE * 10**9 + 123_456_999, "2026-01-01T00:00:00.123456"),
        (BASE * 10**6 + 123_457, "2026-01-01T00:00:00.123457"),
        (BASE * 10**3 - 1, "2025-12-31T23:59:59.999000"),
        (BASE * 10**3 - 2.0**-12, "2025-12-31T23:59:59.999999"),
        (BASE + 0.123457, "2026-01-01T00:00:00.123457"),
        (-1, "1969-12-31T23:59:59.000000"),
        (-1e-7, "1969-12-31T23:59:59.999999"),
    ],
)
def test_a_time_is_never_rounded_up_into_the_next_second(value, said):
    assert name("{time:%Y-%m-%dT%H:%M:%S.%f}/{seq}", {"t": value}, **by("t")) == f"{said}/0"
    assert name("{time:%Y-%m-%dT%H}/{seq}", {"t": value}, **by("t")) == f"{said[:13]}/0"


def test_the_first_time_of_a_minute_does_not_decide_for_the_others():
    store = MemoryBackend()
    times = [BASE * 10**9 - back for back in (200, 30 * 10**9, 59 * 10**9, 61 * 10**9)]
    with RollingRecordWriter(store, "{time:%Y-%m-%dT%H}/{seq}.ndjson", time_field="ts") as writer:
        writer.write_many({"ts": ts} for ts in times)
    assert [info.path for info in store.list()] == ["2025-12-31T23/0.ndjson"]


@pytest.mark.parametrize("value", ["x=y", "a?b", "a:b", "[x]", "{y}", "^", '"', "#1", "100%", "*", "a/b", "it's"])
def test_values_of_hive_partitions_are_escaped_as_hive_does(value):
    folder = name("shop={shop}/{seq}", {"shop": value}).split("/")[0]
    assert folder == f"shop={quote(value, safe='')}"
    assert unquote(folder.removeprefix("shop=")) == value


def test_hives_word_for_a_missing_value_is_refused_as_a_value():
    word = "__HIVE_DEFAULT_PARTITION__"
    with pytest.raises(RecordError):
        name("shop={shop}/{seq}", {"shop": word})
    assert name("{shop}/{seq}", {"shop": word}) == f"{word}/0"
    assert name("shop={shop}/{seq}", {}, missing=word) == f"shop={word}/0"


@pytest.mark.parametrize("settings", [{}, {"spool": True}, {"names": "deterministic"}])
def test_two_values_that_make_one_name_make_one_partition(settings, tmp_path):
    store = MemoryBackend()
    if "spool" in settings:
        settings = {"spool": Spool(tmp_path)}
    template = "{a}-{b}-{start}.ndjson" if "names" in settings else "{a}-{b}-{seq}.ndjson"
    records = [{"a": "x-y", "b": "z"}, {"a": "x", "b": "y-z"}, {"a": "x-y", "b": "z"}, {"a": "other", "b": "o"}]
    with RollingRecordWriter(store, template, roll_records=3, **settings) as writer:
        writer.write_many(records)
    assert {path: len(rows) for path, rows in contents(store).items()} == {
        "x-y-z-0.ndjson": 3, "other-o-3.ndjson" if "names" in settings else "other-o-0.ndjson": 1,
    }  # fmt: skip


@pytest.mark.parametrize("text", ["{a}{seq}", "{a}0{seq:03d}", "{seq}{a}", "{start}{a}", "x/{a}{start}"])
def test_a_value_may_not_run_into_a_number(text):
    with pytest.raises(ConfigError):
        Template(text)
    Template(text.replace("{a}", "-{a}-"))


def test_the_time_of_a_partition_follows_the_zone_through_a_change_of_offset():
    zone = ZoneInfo("Europe/Zurich")  # clocks went back at 01:00 UTC on 2025-10-26
    for hour, expected in [(0, "02"), (1, "02"), (2, "03")]:
        moment = datetime(2025, 10, 26, hour, 59, 59, tzinfo=UTC)
        assert name("{time:%H}/{seq}", {"t": moment}, **by("t"), zone=zone) == f"{expected}/0"
