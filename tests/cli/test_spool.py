"""``write --spool`` and ``spool``: records outlive a store that is away, and the command that read them."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from omnistorage import LocalBackend, MemoryBackend
from omnistorage.cli.options.spool import Spooling
from omnistorage.delivery import RollingRecordWriter, Spool

from ..delivery.test_spool_faults import NoGrowth
from ..waiting import LIMIT, until

Cli = Callable[..., Any]
LINE = b'{"svc":"a","n": 12345678901234567890123}\n'
ROLL = ("--roll-records", "2")


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def away(folder: Path) -> Path:
    """A store that cannot be had until ``folder`` is no file any more."""
    folder.write_bytes(b"")
    return folder


def fill(folder: Path, count: int = 5) -> None:
    """A spool as a killed command leaves it."""
    writer = RollingRecordWriter(MemoryBackend(), "{seq}.ndjson", spool=Spool(folder))
    writer.write_many({"svc": "a", "n": n} for n in range(count))
    writer.abort()


def test_records_go_through_the_spool_byte_by_byte(cli: Cli, box: Path) -> None:
    answer = cli("write", "{svc}/{seq}.ndjson", "--to", "out", "--spool", "s", *ROLL, "--json", stdin=LINE * 5)
    assert answer.code == 0
    assert files(box / "out") == {"a/0.ndjson": LINE * 2, "a/1.ndjson": LINE * 2, "a/2.ndjson": LINE}
    (told,) = [event for event in map(json.loads, answer.lines) if event["event"] == "write"]
    assert (told["records"], told["spooled"], told["retried"], told["dropped"], told["damaged"]) == (5, 0, 0, 0, 0)
    assert "s" in os.listdir(box)


@pytest.mark.parametrize(
    ("template", "given", "written"),
    [
        ("{seq}.csv", b'{"a":1.50,"b":null}\n{"a":2,"b":"x"}\n', b"a,b\n1.50,\n2,x\n"),
        ("{a}/{seq}.log", b'{"a":1}\n{"a":1}\n', b'{"a":1}\n{"a":1}\n'),
        ("{seq}.ndjson", b'{"a" : 1}\n', b'{"a" : 1}\n'),
    ],
)
def test_what_is_written_is_what_it_would_be_without_a_spool(
    cli: Cli, box: Path, template: str, given: bytes, written: bytes
) -> None:
    for name, options in (("bare", ()), ("spooled", ("--spool", "s"))):
        answer = cli(
            "write", template, "--to", name, "--from-format", "ndjson", "--roll-age", "1h", *options, stdin=given
        )
        assert answer.code == 0, answer.err
    assert list(files(box / "bare").values()) == [written]
    assert files(box / "spooled") == files(box / "bare")


def test_the_folder_says_how_to_deliver_for_the_owner_alone_and_without_a_secret(cli: Cli, box: Path) -> None:
    before = os.umask(0)
    try:
        options = ("--zone", "Europe/Zurich", "--compression", "zstd:9", "--spool-fsync", "record", "--roll-age", "1h")
        cli("write", "{time:%Y}/{seq}.ndjson.zst", "--to", "out", "--spool", "s", *options, stdin=LINE)
    finally:
        os.umask(before)
    note = box / "s" / "delivery.json"
    assert stat.S_IMODE(note.stat().st_mode) == 0o600
    assert stat.S_IMODE((box / "s").stat().st_mode) == 0o700
    known = json.loads(note.read_text())
    assert known["to"] == str(box / "out")
    assert (known["template"], known["zone"]) == ("{time:%Y}/{seq}.ndjson.zst", "Europe/Zurich")
    assert (known["compression"]["level"], known["spool"], known["options"]) == (
        9,
        {"fsync": "record"},
        {"roll_age": 3600.0},
    )


def test_a_place_with_a_secret_in_it_is_not_noted(cli: Cli, box: Path) -> None:
    url = "failing://user:hunter2@busy/x"
    cli("write", "{seq}.ndjson", "--to", url, "--spool", "s", "--retries", "0", stdin=b"")
    note = (box / "s" / "delivery.json").read_text()
    assert "hunter2" not in note
    assert json.loads(note)["to"] is None
    answer = cli("spool", "drain", "s")
    assert (answer.code, "give --to URL" in answer.err) == (7, True)
    assert cli("spool", "drain", "s", "--to", "out").code == 0


def test_what_an_earlier_run_left_is_delivered_by_the_next_or_by_drain(
    cli: Cli, box: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(box / "s")
    told, opened, write = threading.Event(), Spooling.opened, LocalBackend.open_writer
    monkeypatch.setattr(Spooling, "opened", lambda *given: (opened(*given), told.set()))
    monkeypatch.setattr(LocalBackend, "open_writer", lambda *given: (told.wait(LIMIT), write(*given))[1])
    answer = cli("write", "{seq}.ndjson", "--to", "out", "--spool", "s", *ROLL, stdin=LINE)
    assert "5 records of an earlier run" in answer.err
    assert [len(body.splitlines()) for body in files(box / "out").values()] == [2, 2, 2]
    fill(box / "s", 3)
    assert cli("spool", "status", "s").lines[0] == "records: 3"
    answer = cli("spool", "drain", "s")
    assert (answer.code, "3 records" in answer.err) == (0, True)
    assert cli("spool", "status", "s").lines[0] == "records: 0"
    assert len(files(box / "out")) == 5
    assert cli("spool", "drain", "s").code == 0, "nothing to do is fine"


def test_drain_keeps_fields_partitions_and_formats(cli: Cli, box: Path) -> None:
    options = ("--partition", "svc", "--source", "me", "--format", "ndjson", "--compression", "gzip:1")
    assert cli("write", "l/{seq}", "--to", "out", "--spool", "s", *options, stdin=LINE).code == 0
    fill(box / "s", 1)
    assert cli("spool", "drain", "s").code == 0
    assert sorted(files(box / "out")) == ["l/svc=a/0.ndjson.gz", "l/svc=a/1.ndjson.gz"]


def test_a_store_that_refuses_keeps_the_records_in_the_spool(cli: Cli, box: Path) -> None:
    assert cli("write", "{seq}.ndjson", "--to", "out", "--spool", "s", stdin=b"").code == 0
    fill(box / "s")
    answer = cli("spool", "drain", "s", "--to", "failing://denied/x")
    assert (answer.code, "no key, no entry" in answer.err) == (7, True)
    answer = cli("spool", "drain", "s", "--to", "failing://busy/x")
    assert (answer.code, "ask again" in answer.err) == (5, True)
    assert cli("spool", "status", "s").lines[0] == "records: 5"
    assert cli("spool", "drain", "s").code == 0
    assert len(files(box / "out")) == 1


def test_status_tells_what_waits_since_when_and_where_it_goes(cli: Cli, box: Path) -> None:
    fill(box / "s")
    answer = cli("spool", "status", "s")
    assert answer.code == 0
    assert answer.lines[0] == "records: 5"
    assert answer.lines[2].startswith("oldest:  20")
    assert answer.lines[3] == "writer:  none"
    with RollingRecordWriter(MemoryBackend(), "{seq}.ndjson", spool=Spool(box / "s")):
        assert "writer:  running" in cli("spool", "status", "s").lines
        answer = cli("spool", "drain", "s")
        assert answer.code == 3, "nothing says how"
    cli("write", "{seq}.ndjson", "--to", "out", "--spool", "s", stdin=b"")
    (found,) = map(json.loads, cli("spool", "status", "s", "--json").lines[:1])
    assert (found["records"], found["damage"], found["running"], found["oldest"]) == (0, [], False, None)
    assert (found["to"], found["template"]) == (str(box / "out"), "{seq}.ndjson")


def test_status_tells_damage_by_its_exit_code(cli: Cli, box: Path) -> None:
    fill(box / "s", 300)
    (segment,) = (box / "s").glob("*.seg")
    data = bytearray(segment.read_bytes())
    data[30] ^= 1
    segment.write_bytes(data)
    answer = cli("spool", "status", "s")
    assert (answer.code, "lost is entry 0" in answer.err) == (6, True)
    assert answer.lines[0] == "records: 299"


def test_drain_goes_on_without_what_is_damaged_if_told_to(cli: Cli, box: Path) -> None:
    assert cli("write", "{seq}.ndjson", "--to", "out", "--spool", "s", stdin=b"").code == 0
    fill(box / "s", 300)
    (segment,) = (box / "s").glob("*.seg")
    data = bytearray(segment.read_bytes())
    data[30] ^= 1
    segment.write_bytes(data)
    answer = cli("spool", "drain", "s")
    assert (answer.code, "'omnistorage spool drain DIR --on-damage skip'" in answer.err) == (6, True)
    assert files(box / "out") == {}
    answer = cli("spool", "drain", "s", "--on-damage", "skip")
    assert (answer.code, "1 damaged" in answer.err) == (0, True)
    assert [len(body.splitlines()) for body in files(box / "out").values()] == [299]
    assert cli("spool", "status", "s", "--on-damage", "skip").code == 2


def test_a_run_of_another_format_is_refused_and_changes_nothing(cli: Cli, box: Path) -> None:
    assert cli("write", "{seq}.ndjson", "--to", "out", "--spool", "s", stdin=b"").code == 0
    fill(box / "s", 2)
    before = files(box / "s")
    answer = cli("write", "o{seq}.log", "--to", "other", "--spool", "s", stdin=b"x\n")
    assert (answer.code, "another format, ndjson" in answer.err, "delivered first" in answer.err) == (7, True, False)
    assert {name: body for name, body in files(box / "s").items() if name != "lock"} == {
        name: body for name, body in before.items() if name != "lock"
    }
    assert cli("spool", "drain", "s").code == 0
    assert files(box / "out") == {"0.ndjson": b'{"svc":"a","n":0}\n{"svc":"a","n":1}\n'}


@pytest.mark.parametrize("fsync", ["interval", "record"])
def test_what_a_full_disk_did_not_take_is_told(
    cli: Cli, box: Path, monkeypatch: pytest.MonkeyPatch, fsync: Any
) -> None:
    disk = NoGrowth(error=None)
    monkeypatch.setattr(
        "omnistorage.cli.options.spool.Spool", partial(Spool, _os=disk, close_timeout=0.01, fsync=fsync)
    )
    away(box / "out")
    fill(box / "s", 1)
    disk.full = True
    answer = cli("write", "{seq}.ndjson", "--to", "out/x", "--spool", "s", "--when-full", "raise", stdin=LINE * 3)
    assert answer.code == 1
    assert "1 record in the spool s, which the next run delivers" in answer.err
    assert "the last 3 records read, from 1 on, not in it" in answer.err
    assert ("its disk took no more" in answer.err) is (fsync == "interval")
    assert "error: s: No space left on device" in answer.err, "and not out/x/s"
    assert cli("spool", "status", "s").lines[0] == "records: 1"


def test_where_the_store_is_away_the_wait_at_the_end_is_told(
    cli: Cli, box: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omnistorage.cli.options.spool.Spool", partial(Spool, close_timeout=0.1))
    away(box / "out")
    fill(box / "s")
    ends = RollingRecordWriter.write_many

    def failing(writer: RollingRecordWriter, records: Any) -> int:
        until(lambda: writer.progress.last_error is not None)
        return ends(writer, records)

    monkeypatch.setattr(RollingRecordWriter, "write_many", failing)
    answer = cli("write", "{seq}.ndjson", "--to", "out/x", "--spool", "s", "--roll-records", "1", stdin=LINE)
    assert "s: 6 records to be delivered, for 0.1 s at most (" in answer.err
    assert answer.code == 6


def test_a_spool_does_not_lie_where_it_is_delivered_to(cli: Cli, box: Path) -> None:
    (box / "link").symlink_to("s")
    for to in ("s", f"file://{box}/s/", "link"):
        answer = cli("write", "{seq}.ndjson", "--to", to, "--spool", "s", stdin=LINE)
        assert (answer.code, "a folder of its own" in answer.err) == (7, True)
    assert [path.name for path in box.iterdir()] == ["link"]


def test_where_no_spool_is_there_is_nothing_to_say(cli: Cli, box: Path) -> None:
    (box / "other").mkdir()
    (box / "other" / "delivery.json").write_text("{}")
    for action in ("status", "drain"):
        answer = cli("spool", action, "none")
        assert (answer.code, "none: there is no such folder" in answer.err) == (3, True)
        answer = cli("spool", action, "other/delivery.json")
        assert (answer.code, "a spool is a folder" in answer.err) == (3, True)
    assert [cli("spool", action, "other").code for action in ("status", "drain")] == [4, 6]
    assert cli("spool", "status", "s", "--to", "x").code == 2
    assert cli("spool", "look", "s").code == 2


def test_options_about_a_spool_need_one(cli: Cli, box: Path) -> None:
    for option in (("--spool-max-bytes", "1MiB"), ("--spool-fsync", "record"), ("--when-full", "raise")):
        answer = cli("write", "{seq}.ndjson", *option, stdin=LINE)
        assert (answer.code, "--spool DIR" in answer.err, option[0] in answer.err) == (2, True, True)
    assert list(box.iterdir()) == []


def test_two_commands_do_not_share_a_spool(cli: Cli, box: Path) -> None:
    with RollingRecordWriter(MemoryBackend(), "{seq}.ndjson", spool=Spool(box / "s")):
        answer = cli("write", "{seq}.ndjson", "--to", "out", "--spool", "s", stdin=LINE)
    assert (answer.code, "end that one first" in answer.err and "credentials" not in answer.err) == (7, True)


def test_bad_records_of_the_template_are_told_at_the_end(cli: Cli, box: Path) -> None:
    given = LINE + b'{"n":1}\n'
    options = ("--to", "out", "--spool", "s")
    answer = cli("write", "{svc}/{seq}.ndjson", *options, "--on-error", "skip", stdin=given)
    assert (answer.code, "1 bad record left out" in answer.err) == (0, True)
    answer = cli("write", "{svc}/{seq}.ndjson", *options, "--dead-letter", "dead.ndjson", stdin=given)
    assert answer.code == 0
    assert json.loads((box / "dead.ndjson").read_text())["raw"] == '{"n":1}'
    answer = cli("write", "{svc}/{seq}.ndjson", *options, stdin=given)
    assert (answer.code, "needs the field 'svc'" in answer.err) == (6, True)
    assert len(files(box / "out")) == 3


def test_the_live_line_shows_what_waits() -> None:
    from omnistorage.cli.options.spool import SpoolMeter

    class Writer:
        progress = (
            RollingRecordWriter(MemoryBackend(), "{seq}.log")
            .close()
            ._replace(spooled=1234, spooled_bytes=2048, retried=2, dropped=3, last_error="away")
        )

    line = str(SpoolMeter(Writer())._line())  # type: ignore[arg-type]
    assert "1,234 spooled (2.0 KiB)" in line
    assert "2 retries: away" in line
    assert "3 dropped" in line
