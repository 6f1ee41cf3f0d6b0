"""What only a process of its own can show: signals, pipes, terminals, a kill."""

from __future__ import annotations

import gzip
import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path
from termios import FIONREAD
from typing import Any

import pytest

import omnistorage
from omnistorage.records import RecordWriter

from ..budget import pick
from ..waiting import LIMIT

Popen = Callable[..., "subprocess.Popen[bytes]"]
Command = Callable[..., Any]
LINE = b'{"a":1}\n'


def wait_for(stream: Any, text: bytes) -> bytes:
    """Read ``stream`` until ``text`` has come."""
    seen = b""
    while text not in seen:
        block = os.read(stream.fileno() if hasattr(stream, "fileno") else stream, 65536)
        assert block, seen
        seen += block
    return seen


def feed(process: subprocess.Popen[bytes], data: bytes) -> None:
    """Write ``data`` and wait until the process has taken it out of the pipe and waits for more."""
    assert process.stdin is not None
    process.stdin.write(data)
    process.stdin.flush()
    poll = select.poll()
    left = bytearray(4)
    while True:
        ioctl(process.stdin.fileno(), FIONREAD, left)
        if not int.from_bytes(left, "little"):
            break
        poll.poll(2)
    state = Path(f"/proc/{process.pid}/wchan")
    stat = Path(f"/proc/{process.pid}/stat")
    if state.exists():  # asleep again: what was read went through
        while stat.read_text().rpartition(")")[2].split()[0] != "S":
            poll.poll(2)


def ended(process: subprocess.Popen[bytes]) -> bytes:
    """What it said until it ended by itself, its standard input still open."""
    try:
        process.wait(LIMIT)
    finally:
        process.kill()
        err = process.communicate()[1]
    return err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("name", ["a.ndjson.zst", pytest.param("a.log.gz", marks=pytest.mark.ci_only)])
def test_pain_3_the_first_signal_publishes_the_whole_records_that_were_read(
    popen: Popen, box: Path, number: signal.Signals, code: int, name: str
) -> None:
    process = popen("write", name)
    feed(process, LINE * 1000 + b'{"torn":')
    process.send_signal(number)
    err = ended(process)
    assert process.returncode == code, err
    assert b"the whole records read from standard input so far are published" in err
    assert os.listdir(box) == [name]
    with omnistorage.open(box / name, "rt") as file:
        assert file.read() == LINE.decode() * 1000


def test_pain_3_a_signal_in_a_long_stream_loses_no_record_that_was_read(popen: Popen, box: Path) -> None:
    process = popen("write", "a.ndjson")
    rows = b"".join(b'{"id":%d,"pad":"%s"}\n' % (i, b"x" * 100) for i in range(30_000))
    feed(process, rows + b'{"torn":')
    process.send_signal(signal.SIGINT)
    err = ended(process)
    assert process.returncode == 130, err
    assert (box / "a.ndjson").read_bytes() == rows


def test_pain_3_the_end_of_a_torn_input_beside_the_signal_changes_nothing(popen: Popen, box: Path) -> None:
    process = popen("write", "a.ndjson")
    feed(process, LINE + b'{"torn":')
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LIMIT)  # closes its input at once
    assert process.returncode == 130
    assert (box / "a.ndjson").read_bytes() == LINE


COPY, CONVERT = ("cp", "-", "a.bin"), ("convert", "-", "a.ndjson.gz", "--from-format", "ndjson")


@pytest.mark.parametrize("argv", [pytest.param(COPY, marks=pytest.mark.ci_only), CONVERT])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_every_other_verb_aborts_on_the_first_signal(
    popen: Popen, box: Path, argv: tuple[str, ...], number: signal.Signals, code: int
) -> None:
    process = popen(*argv)
    feed(process, LINE * 100_000)
    process.send_signal(number)
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == code
    assert err.startswith(b"omnistorage: interrupted")
    assert len(err.splitlines()) == 1
    assert os.listdir(box) == []


def test_the_second_signal_aborts_write(cli: Command, box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    close = RecordWriter.close

    def slow(writer: RecordWriter[Any]) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        assert not writer.result  # the first one goes on to publish
        os.kill(os.getpid(), signal.SIGINT)
        return close(writer)

    monkeypatch.setattr(RecordWriter, "close", slow)
    before = signal.getsignal(signal.SIGINT)
    answer = cli("write", "a.ndjson", stdin=LINE)
    assert answer.code == 143
    assert "interrupted: nothing half-written was left" in answer.err
    assert os.listdir(box) == []
    assert signal.getsignal(signal.SIGINT) is before


def test_the_second_signal_ends_a_run_whose_output_nobody_reads(popen: Popen, box: Path) -> None:
    ours, theirs = os.pipe()
    try:
        os.set_blocking(theirs, False)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(theirs, b"x" * 65536)
        os.set_blocking(theirs, True)
        process = popen("write", "a.ndjson", "--json", stdout=theirs)
        feed(process, LINE * 10)
        process.send_signal(signal.SIGINT)
        while not (box / "a.ndjson").exists():
            select.poll().poll(2)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LIMIT)
        assert process.returncode == 130
    finally:
        os.close(ours)
        os.close(theirs)


def test_kill_9_in_the_middle_leaves_nothing_visible(popen: Popen, command: Command, box: Path) -> None:
    (box / "a.ndjson").write_bytes(b"old\n")
    process = popen("write", "a.ndjson")
    feed(process, LINE * 400_000)
    process.kill()
    process.communicate(timeout=LIMIT)
    assert (box / "a.ndjson").read_bytes() == b"old\n"
    assert command("ls").out == b"a.ndjson\n"


@pytest.mark.parametrize("verb", ["read", "cat"])
def test_a_reader_that_goes_away_is_no_error(popen: Popen, box: Path, verb: str) -> None:
    (box / "big.ndjson").write_bytes(LINE * 300_000)
    process = popen(verb, "big.ndjson")
    assert process.stdout is not None
    assert os.read(process.stdout.fileno(), len(LINE)) == LINE
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (141, b"")


def test_output_that_cannot_be_written_is_an_error(command: Command, box: Path) -> None:
    (box / "a.ndjson").write_bytes(LINE)
    with open("/dev/full", "wb") as full:
        verbs = ["read", "a.ndjson"], ["cp", "a.ndjson", "b", "--json"], ["ls"], ["stat", "a.ndjson"]
        for argv in verbs[: pick(default=2, ci=4, soak=4)]:
            answer = command(*argv, stdout=full)
            assert answer.code == 1, argv
            assert "error: cannot write to standard output: No space left" in answer.err
            assert "Traceback" not in answer.err


def test_closed_standard_streams(box: Path, command: Command) -> None:
    (box / "a.ndjson").write_bytes(LINE)

    def shell(line: str) -> Any:
        return subprocess.run(["sh", "-c", line], cwd=box, capture_output=True, timeout=LIMIT, check=False)

    run = f"{shlex.quote(sys.executable)} -m omnistorage"
    assert shell(f"{run} read a.ndjson >&-").returncode == 1
    assert shell(f"{run} write b.ndjson <&-").returncode == 1
    assert shell(f"{run} cat nope 2>&-").returncode == 4
    assert sorted(os.listdir(box)) == ["a.ndjson"]


def on_a_terminal(popen: Popen, *argv: str, data: bytes = b"", wait: bytes = b"", env: Any = None) -> tuple[int, bytes]:
    """Run with standard error on a terminal; what it showed. Input ends after ``wait`` was seen."""
    ours, theirs = pty.openpty()
    process = popen(*argv, stderr=theirs, env={"TERM": "xterm-256color", **(env or {})})
    os.close(theirs)
    shown = b""
    try:
        assert process.stdin is not None
        process.stdin.write(data)
        process.stdin.flush()
        if wait:
            shown += wait_for(ours, wait)
        process.stdin.close()
        while True:
            try:
                block = os.read(ours, 65536)
            except OSError:  # EIO: the other side is gone
                break
            if not block:
                break
            shown += block
    finally:
        os.close(ours)
        if process.stdout is not None:
            process.stdout.close()
    return process.wait(LIMIT), shown


def test_progress_is_drawn_on_a_terminal(popen: Popen, box: Path) -> None:
    code, shown = on_a_terminal(
        popen, "write", "a.ndjson", data=LINE * 1000, wait=b"1,000 records", env={"COLUMNS": "100"}
    )
    text = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", shown).decode()
    assert code == 0
    assert re.search(r"write a\.ndjson +7\.8 KiB +1,000 records +\S+ \S+/s +0:0\d", text)
    assert "wrote a.ndjson: 1,000 records" in text
    assert shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h") == 1  # the cursor comes back


def test_a_copy_of_one_object_shows_its_total(popen: Popen, box: Path) -> None:
    (box / "a").write_bytes(bytes(64 << 10))
    code, shown = on_a_terminal(popen, "cp", "a", "b", env={"COLUMNS": "100"})
    text = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", shown).decode()
    assert code == 0
    assert "64.0 KiB of 64.0 KiB, 100%" in text
    assert re.search(r"copied 1 object, 64\.0 KiB, \S+ s", text)


def test_no_color_is_honoured(popen: Popen, box: Path) -> None:
    colour = re.compile(rb"\x1b\[[0-9;]*3[0-9]m")
    _, shown = on_a_terminal(popen, "write", "a.ndjson", data=LINE, wait=b"record", env={"NO_COLOR": ""})
    assert colour.search(shown)
    _, shown = on_a_terminal(popen, "write", "a.ndjson", data=LINE, wait=b"record", env={"NO_COLOR": "1"})
    assert not colour.search(shown)


@pytest.mark.parametrize(
    ("options", "env"),
    [
        pytest.param(["--no-progress"], {}, marks=pytest.mark.ci_only),
        pytest.param(["-q"], {}, marks=pytest.mark.ci_only),
        ([], {"TERM": "dumb"}),
    ],
)
def test_nothing_is_drawn_where_it_is_not_wanted(
    popen: Popen, box: Path, options: list[str], env: dict[str, str]
) -> None:
    code, shown = on_a_terminal(popen, "write", "a.ndjson", *options, data=LINE, env=env)
    assert (code, b"\x1b" in shown) == (0, False)
    assert (b"wrote" in shown) == ("-q" not in options)


def test_nothing_is_drawn_without_a_terminal(command: Command, box: Path) -> None:
    answer = command("write", "a.ndjson", "--progress", stdin=LINE)
    assert (answer.code, answer.out) == (0, b"")
    assert "\x1b" not in answer.err


def test_a_terminal_gets_names_escaped(popen: Popen, box: Path) -> None:
    with open(os.fsencode(box) + b"/\x1b[31m\xff", "wb"):
        pass
    ours, theirs = pty.openpty()
    process = popen("ls", stdout=theirs)
    os.close(theirs)
    assert process.communicate(timeout=LIMIT)[1] == b""
    assert os.read(ours, 1000).strip() == b"\\x1b[31m\\udcff"
    os.close(ours)


def test_json_events_of_write_parse(command: Command, box: Path) -> None:
    answer = command("write", "a.ndjson.gz", "--json", stdin=LINE * 3)
    done, summary = [json.loads(line) for line in answer.lines]
    assert (done["event"], done["path"], done["records"], done["bad"]) == ("write", "a.ndjson.gz", 3, 0)
    assert (summary["event"], summary["exit_code"], summary["records"]) == ("summary", 0, 3)
    assert gzip.decompress((box / "a.ndjson.gz").read_bytes()) == LINE * 3
    assert answer.err.startswith("wrote a.ndjson.gz: 3 records")
