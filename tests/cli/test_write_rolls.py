"""write with templates and rolls: many objects, each published whole, none replaced."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from omnistorage.cli.options.param_types import DURATION, SIZE
from omnistorage.cli.records.rolling import partitioned
from omnistorage.delivery import RollingRecordWriter

from ..waiting import LIMIT, until

Cli = Callable[..., Any]
Popen = Callable[..., "subprocess.Popen[bytes]"]
LINE = b'{"a":1}\n'
ROWS = [
    b'{"svc":"a", "ts":"2024-01-01T00:00:00Z", "n": 12345678901234567890123}',
    b'{"svc":"b","ts":"2024-01-02T00:00:00Z","n":1,"n":2}',
    b'{"svc":"a","ts":"2024-01-01T05:00:00Z"}',
]
INPUT = b"".join(row + b"\n" for row in ROWS)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_template_puts_records_where_their_fields_and_times_say_byte_by_byte(cli: Cli, box: Path) -> None:
    answer = cli("write", "{svc}/{time:%Y/%m/%d}/{seq:03d}.ndjson", "--to", "out", "--time-field", "ts", stdin=INPUT)
    assert answer.code == 0
    assert files(box / "out") == {
        "a/2024/01/01/000.ndjson": ROWS[0] + b"\n" + ROWS[2] + b"\n",
        "b/2024/01/02/000.ndjson": ROWS[1] + b"\n",
    }
    assert "2 objects, 3 records" in answer.err


def test_partitions_are_hive_folders_in_front_of_the_name(cli: Cli, box: Path) -> None:
    template = "logs/{time:%Y/%m}/{seq}.ndjson.gz"
    assert partitioned(template, ("svc", "a.b")) == "logs/{time:%Y/%m}/svc={svc}/a.b={a.b}/{seq}.ndjson.gz"
    assert partitioned("{time:%Y/%m}-{seq}.log", ("x",)) == "x={x}/{time:%Y/%m}-{seq}.log"
    cli("write", "l/{seq}.ndjson.gz", "--to", "out", "--partition", "svc", "--zone", "Europe/Zurich", stdin=INPUT)
    assert sorted(files(box / "out")) == ["l/svc=a/0.ndjson.gz", "l/svc=b/0.ndjson.gz"]
    assert gzip.decompress((box / "out/l/svc=b/0.ndjson.gz").read_bytes()) == ROWS[1] + b"\n"


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        (["--roll-records", "4"], [4, 4, 2]),
        (["--roll-raw-bytes", "16"], [2, 2, 2, 2, 2]),
        (["--roll-bytes", "24B"], [3, 3, 3, 1]),
        (["--roll-bytes", "none"], [10]),
    ],
)
def test_objects_are_rolled_when_they_are_full(cli: Cli, box: Path, options: list[str], sizes: list[int]) -> None:
    assert cli("write", "{seq:02d}.ndjson", "--to", "out", *options, stdin=LINE * 10).code == 0
    assert [body.count(b"\n") for body in files(box / "out").values()] == sizes


def test_a_second_run_goes_on_behind_the_first_and_replaces_nothing(cli: Cli, box: Path) -> None:
    for number in (b"1\n", b"2\n"):
        cli("write", "{seq}.ndjson", stdin=number)
    assert files(box) == {"0.ndjson": b"1\n", "1.ndjson": b"2\n"}


def test_a_plain_path_with_a_roll_option_is_told_what_is_missing(cli: Cli, box: Path) -> None:
    answer = cli("write", "a.ndjson", "--roll-records", "1", stdin=LINE)
    assert (answer.code, os.listdir(box)) == (7, [])
    assert "{seq}" in answer.err
    assert cli("write", "{seq}.ndjson", "--late", "prefix", stdin=LINE).code == 2
    assert cli("write", "{sveq:04d}.ndjson", stdin=LINE).code == 7
    assert cli("write", "{seq}", stdin=LINE).code == 7
    assert "--format" in cli("write", "{seq}", stdin=LINE).err


def test_a_replay_with_deterministic_names_writes_nothing_twice(cli: Cli, box: Path) -> None:
    options = ["--names", "deterministic", "--source", "web1", "--roll-records", "2"]
    cli("write", "{source}-{start:04d}.ndjson", *options, stdin=b"1\n2\n3\n4\n")
    before = files(box)
    assert list(before) == ["web1-0000.ndjson", "web1-0002.ndjson"]
    answer = cli("write", "{source}-{start:04d}.ndjson", *options, stdin=b"1\n2\n3\n4\n5\n")
    assert files(box) == {**before, "web1-0004.ndjson": b"5\n"}
    assert "4 published by an earlier run" in answer.err
    cli("write", "{source}-{start:04d}.ndjson", *options, "--start-sequence", "6", stdin=b"7\n")
    assert (box / "web1-0006.ndjson").read_bytes() == b"7\n"


def test_events_of_json_tell_each_object_and_the_manifest_says_the_same(cli: Cli, box: Path) -> None:
    answer = cli("write", "{seq}.ndjson", "--to", "out", "--manifest", "m/log.ndjson", "--roll-records", "2", "--json",
                 stdin=LINE * 3)  # fmt: skip
    events = [json.loads(line) for line in answer.lines]
    commits = sorted((e for e in events if e["event"] == "commit"), key=lambda e: e["first"])
    assert [(e["path"], e["records"], e["bytes"], e["first"], e["last"]) for e in commits] == [
        ("0.ndjson", 2, 16, 0, 1),
        ("1.ndjson", 1, 8, 2, 2),
    ]
    assert commits[0]["sha256"] == hashlib.sha256(LINE * 2).hexdigest()
    assert [e["event"] for e in events[-2:]] == ["write", "summary"]
    assert (events[-2]["objects"], events[-2]["records"], events[-2]["size"]) == (2, 3, 24)
    lines = [json.loads(line) for line in (box / "out/m/log.ndjson").read_bytes().splitlines()]
    assert sorted(one["sha256"] for one in lines) == sorted(e["sha256"] for e in commits)


def test_late_records_go_below_late_and_missing_fields_get_the_stand_in(cli: Cli, box: Path) -> None:
    rows = b'{"t":1000000}\n{"t":1}\n{"t":1000000,"s":"x"}\n'
    options = ["--time-field", "t", "--late-after", "1h", "--late", "prefix", "--missing", "none"]
    assert cli("write", "{s}/{seq}.ndjson", "--to", "out", *options, stdin=rows).code == 0
    assert sorted(files(box / "out")) == ["late/none/0.ndjson", "none/0.ndjson", "x/0.ndjson"]


def test_a_record_that_cannot_be_named_is_a_bad_record_and_its_letter_is_its_own_text(cli: Cli, box: Path) -> None:
    rows = ROWS[0] + b'\n[1]\n{"other": 1}\nxx\n'
    answer = cli("write", "{svc}/{seq}.ndjson", "--to", "out", stdin=rows)
    assert answer.code == 6
    assert "fields" in answer.err
    answer = cli("write", "{svc}/{seq}.ndjson", "--to", "two", "--dead-letter", "bad.ndjson", stdin=rows)
    assert answer.code == 0
    assert sorted(json.loads(line)["raw"] for line in (box / "bad.ndjson").read_bytes().splitlines()) == [
        "[1]",
        "xx",
        '{"other": 1}',
    ]
    assert files(box / "two") == {"a/0.ndjson": ROWS[0] + b"\n"}
    assert "3 bad records put into bad.ndjson" in answer.err


def test_what_was_published_before_an_error_stays_and_is_said(cli: Cli, box: Path) -> None:
    answer = cli("write", "{seq}.ndjson", "--to", "out", "--roll-records", "1000", stdin=LINE * 70_000 + b"xx\n")
    assert answer.code == 6
    assert "published before the error stay" in answer.err
    assert set(files(box / "out").values()) == {LINE * 1000}


def test_dead_letters_of_objects_that_stay_stay_too(cli: Cli, box: Path) -> None:
    torn = b"xx\n" + LINE * 70_000 + b'{"torn":'
    options = ["--dead-letter", "bad.log", "--roll-records", "1000"]
    assert cli("write", "{seq}.ndjson", "--to", "out", *options, stdin=torn).code == 6
    assert files(box / "out")
    assert (box / "bad.log").read_bytes() == b"xx\n"
    assert cli("write", "{seq}.ndjson", "--to", "none", "--dead-letter", "no.log", stdin=b'xx\n{"torn":').code == 6
    assert not (box / "no.log").exists()


def test_a_replay_of_records_with_fields_writes_nothing_twice(cli: Cli, box: Path) -> None:
    args = ["write", "{svc}/{start}.ndjson", "--to", "out", "--names", "deterministic"]
    for _ in range(2):
        assert cli(*args, stdin=INPUT).code == 0
    assert sorted(files(box / "out")) == ["a/0.ndjson", "b/1.ndjson"]


def test_csv_and_length_prefixed_are_rolled_by_field_too(cli: Cli, box: Path) -> None:
    (box / "in.csv").write_bytes(b"svc,n\na,1\nb,2\na,3\n")
    assert cli("write", "{svc}-{seq}.csv", "--to", "c", "--from", "in.csv").code == 0
    assert files(box / "c") == {"a-0.csv": b"svc,n\na,1\na,3\n", "b-0.csv": b"svc,n\nb,2\n"}
    assert cli("write", "{svc}-{seq}.lp", "--to", "l", "--from", "in.csv").code == 0
    assert files(box / "l")["b-0.lp"] == b"\0\0\0\x13" + b'{"svc":"b","n":"2"}'


def test_a_configured_backend_with_a_path_and_braces_in_it_is_a_target(cli: Cli, box: Path) -> None:
    (box / "c.toml").write_text(f'[backends.d]\ntype="local"\noptions={{root="{box}/root"}}\n')
    args = ["--config", "c.toml", "write", "{svc}/{seq}.ndjson", "--to", "d:in/{x}", "--manifest", "m.ndjson", "--json"]
    answer = cli(*args, stdin=INPUT)
    assert answer.code == 0
    assert sorted(files(box / "root")) == ["in/{x}/a/0.ndjson", "in/{x}/b/0.ndjson", "in/{x}/m.ndjson"]
    assert {json.loads(line).get("path") for line in answer.lines[:2]} == {"a/0.ndjson", "b/0.ndjson"}
    found = cli("--config", "c.toml", "read", "d:in/{x}", "--manifest", "d:in/{x}/m.ndjson")
    assert sorted(found.out.splitlines()) == sorted(ROWS)
    late = ["--time-field", "ts", "--late-after", "5m", "--late", "prefix"]
    assert cli(*args, *late, stdin=INPUT).code == 0
    new = sorted(set(files(box / "root")) - {"in/{x}/a/0.ndjson", "in/{x}/b/0.ndjson", "in/{x}/m.ndjson"})
    assert new == ["in/{x}/a/1.ndjson", "in/{x}/b/1.ndjson", "in/{x}/late/a/0.ndjson"]


def test_sizes_and_durations_read_as_people_write_them() -> None:
    sizes = {"128MiB": 128 << 20, "10k": 10240, "1.5 GiB": 3 << 29, "500": 500, "7B": 7, "none": 0}
    assert {text: SIZE.convert(text, None, None) for text in sizes} == sizes
    durations = {"5m": 300.0, "1h30m": 5400.0, "90": 90.0, "500ms": 0.5, "2d": 172800.0, "1.5s": 1.5}
    assert {text: DURATION.convert(text, None, None) for text in durations} == durations


@pytest.mark.parametrize("option", ["--roll-bytes=x", "--roll-bytes=0", "--roll-age=5 parsecs", "--roll-age=0s",
                                    "--roll-age=1m30", "--zone=Mars/Base", "--max-open=0", "--names=odd"])  # fmt: skip
def test_values_that_cannot_be_are_usage_errors(cli: Cli, option: str) -> None:
    assert cli("write", "{seq}.ndjson", option, stdin=LINE).code == 2


# -- signals, time and kills, in a process of its own -----------------------------------------------------------------


def wait_for_files(folder: Path, count: int) -> None:
    until(lambda: sum(1 for p in folder.rglob("*.ndjson")) >= count)


def test_time_publishes_although_no_record_comes(popen: Popen, box: Path) -> None:
    process = popen("write", "{seq}.ndjson", "--to", "out", "--roll-idle", "50ms")
    assert process.stdin is not None
    for number in (1, 2):
        process.stdin.write(LINE)
        process.stdin.flush()
        wait_for_files(box / "out", number)
    assert process.poll() is None
    process.communicate(timeout=LIMIT)
    assert process.returncode == 0
    assert set(files(box / "out").values()) == {LINE}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("template", ["{seq:04d}.ndjson", "{a}-{seq:04d}.ndjson"])
def test_the_first_signal_publishes_every_whole_record_that_was_read(
    popen: Popen, box: Path, number: signal.Signals, code: int, template: str
) -> None:
    process = popen("write", template, "--to", "out", "--roll-records", "300")
    assert process.stdin is not None
    process.stdin.write(LINE * 1000)
    process.stdin.flush()
    wait_for_files(box / "out", 3)
    process.stdin.write(b'{"torn":')
    process.stdin.flush()
    process.send_signal(number)
    try:
        process.wait(LIMIT)
    finally:
        process.kill()
        err = process.communicate()[1]
    assert process.returncode == code, err
    assert b"the whole records read from standard input so far are published" in err
    assert [body.count(LINE) for body in files(box / "out").values()] == [300, 300, 300, 100]


def test_the_second_signal_discards_what_is_not_published(cli: Cli, box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    close = RollingRecordWriter.close

    def slow(writer: RollingRecordWriter) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)  # the first one goes on to publish
        os.kill(os.getpid(), signal.SIGINT)
        return close(writer)

    monkeypatch.setattr(RollingRecordWriter, "close", slow)
    answer = cli("write", "{seq}.ndjson", "--to", "out", "--roll-records", "2", stdin=LINE * 3)
    assert answer.code == 143
    assert re.search("not published by this run: [13] record", answer.err)
    assert set(files(box / "out").values()) <= {LINE * 2}


def test_kill_9_leaves_whole_objects_only(popen: Popen, box: Path) -> None:
    process = popen("write", "{seq:05d}.ndjson", "--to", "out", "--roll-records", "1000")
    assert process.stdin is not None
    feeder = threading.Thread(target=_feed, args=(process.stdin, LINE * 500_000))
    feeder.start()
    wait_for_files(box / "out", 5)
    process.kill()
    process.wait(LIMIT)
    feeder.join()
    assert {body for name, body in files(box / "out").items() if name.endswith(".ndjson")} == {LINE * 1000}
    process.communicate()


def _feed(pipe: Any, data: bytes) -> None:
    try:
        pipe.write(data)
    except OSError:
        pass
