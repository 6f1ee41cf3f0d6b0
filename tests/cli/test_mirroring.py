"""``write`` with several ``--to``: what one of them misses is said, noted, and brought by the next run."""

import json
import re

import pytest

from omnistorage import MemoryBackend, RollingRecordWriter, Spool, StorageError
from omnistorage.cli.core.app import App
from omnistorage.cli.options.mirror import Mirror

ROWS = b"".join(b'{"n": %d}\n' % number for number in range(100))
AWAY = "s3://bucket/x?endpoint_url=http://127.0.0.1:9&access_key=a&secret_key=b"


def objects(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_one_object_to_several(cli, tmp_path):
    done = cli("write", "x.ndjson.zst", "--to", "A", "--to", "B", stdin=ROWS)
    assert done.code == 0, done.err
    assert "wrote {A, B}/x.ndjson.zst: 100 records" in done.err
    assert (tmp_path / "A/x.ndjson.zst").read_bytes() == (tmp_path / "B/x.ndjson.zst").read_bytes()


def test_rolled_objects_to_several(cli, tmp_path):
    done = cli("write", "p/{seq}.ndjson", "--to", "A", "--to", "B", "--roll-records", "30", stdin=ROWS)
    assert done.code == 0, done.err
    for name in ("A", "B"):
        assert objects(tmp_path / name) == [f"p/{number}.ndjson" for number in range(4)]
        assert b"".join((tmp_path / name / f"p/{n}.ndjson").read_bytes() for n in range(4)) == ROWS


def test_who_misses_something_is_named_and_gets_it_with_the_next_run(cli, tmp_path):
    (tmp_path / "B").write_bytes(b"in the way")
    mirror = ("--to", "A", "--to", "B", "--to", "C", "--mode", "quorum", "--journal", "J")
    done = cli("write", "x.ndjson", *mirror, stdin=ROWS)
    assert done.code == 0, done.err
    why = "a file stands where a folder is needed"
    assert f"warning: B misses 1 object ({why}): the next run with this --journal brings it\n" in done.err
    again = cli("--json", "write", "z.ndjson", *mirror, stdin=ROWS)
    told = next(row for row in map(json.loads, again.lines) if row["event"] == "missed")
    why = told.pop("why")
    assert str(tmp_path / "B") in why, "the others hold objects by now, so the disk of B may be the one that is missing"
    assert f"warning: B misses 2 objects ({why}): the next run with this --journal brings them\n" in again.err
    assert told == {"event": "missed", "target": "local-2", "to": "B", "objects": 2}
    (tmp_path / "B").unlink()
    (tmp_path / "B").mkdir()
    done = cli("--json", "write", "y.ndjson", *mirror, stdin=ROWS)
    assert done.code == 0, done.err
    assert "brought what earlier runs left out: 2 objects" in done.err
    for name in "ABC":
        assert objects(tmp_path / name) == ["x.ndjson", "y.ndjson", "z.ndjson"]
    assert objects(tmp_path / "J") == []


def test_too_few_is_an_error_and_publishes_nowhere(cli, tmp_path):
    done = cli("write", "x.ndjson", "--to", "A", "--to", AWAY, "--retries", "0", stdin=ROWS)
    assert done.code == 2 or done.code == 5, done.err
    done = cli("--retries", "0", "write", "x.ndjson", "--to", "A", "--to", AWAY, stdin=ROWS)
    assert done.code == 5, done.err
    assert objects(tmp_path) == []
    assert "secret_key=b" not in done.err


def test_what_cannot_be_brought_says_why(cli, tmp_path):
    (tmp_path / "B/x.ndjson").mkdir(parents=True)
    mirror = ("--to", "A", "--to", "B", "--mode", "best_effort", "--journal", "J")
    for name in ("x.ndjson", "y.ndjson"):
        done = cli("write", name, *mirror, stdin=ROWS)
        assert done.code == 0, done.err
        assert "warning: B misses 1 object (a folder has this name): the next run" in done.err, name
    assert (tmp_path / "B/y.ndjson").exists()


@pytest.mark.parametrize("template", ["x.ndjson", "{id}.ndjson"])
def test_the_place_that_failed_is_named_as_it_was_typed(cli, tmp_path, template):
    (tmp_path / "file").write_bytes(b"in the way")
    done = cli("write", template, "--to", "A", "--to", "file/B", stdin=ROWS)
    assert done.code == 6, done.err
    assert re.search(
        r"^omnistorage: error: file/B/\w+\.ndjson: a file stands where a folder is needed$", done.err, re.MULTILINE
    )
    done = cli("write", template, "--to", "A", "--to", "./A/", stdin=ROWS)
    assert "error: target A and target ./A/ are the same place" in done.err


def test_of_several_that_failed_each_is_named_with_what_it_says(cli, tmp_path):
    (tmp_path / "A").mkdir()
    places = ("--to", "A", "--to", "failing://odd/x", "--to", "failing://busy/x")
    done = cli("write", "x.ndjson", *places, "--mode", "quorum", "--journal", "J", stdin=ROWS)  # one alone ends nothing
    assert done.code == 1, done.err
    assert (
        "error: {A, failing://odd/x, failing://busy/x}/x.ndjson: 2 of 3 were needed: "
        "failing://odd/x: something else; failing://busy/x: ask again\n"
    ) in done.err
    # Who is slow is not waited for, and may be about to remove what nobody sees.
    assert [path for path in objects(tmp_path) if "/.omnistorage-" not in path] == []


def test_an_input_that_fails_is_no_fault_of_the_places(cli, tmp_path):
    done = cli("write", "x.ndjson", "--from", "none.ndjson", "--to", "A", "--to", "B")
    assert done.code == 4, done.err
    assert "error: none.ndjson: no such object or folder" in done.err
    error = StorageError("away", path="x")
    error.shown = "mirror:x"
    error.add_note("in target 'local'")  # of another mirror, which is read from
    with pytest.raises(StorageError), Mirror(App(), ["A", "B"], {}):
        raise error
    assert (error.shown, error.args) == ("mirror:x", ("away",))


@pytest.mark.parametrize("template", ["x.ndjson", "{id}.ndjson"])
def test_a_journal_that_cannot_be_used_is_named(cli, tmp_path, template):
    (tmp_path / "file").write_bytes(b"in the way")
    mirror = ("--to", "A", "--to", "B", "--mode", "best_effort", "--journal", "file/J")
    done = cli("write", template, *mirror, stdin=ROWS)
    assert done.code == 6, done.err
    assert f": the repair journal file://{tmp_path}/file/J/ cannot be used: a file stands where" in done.err
    assert ".json:" not in done.err, "the path of an entry is no path below --to"


def test_what_the_journal_says_of_another_place_is_not_said_of_this_one(cli, tmp_path):
    (tmp_path / "B").write_bytes(b"in the way")
    mirror = ("--mode", "best_effort", "--journal", "J")
    assert cli("write", "x.ndjson", "--to", "A", "--to", "B", *mirror, stdin=ROWS).code == 0
    done = cli("write", "y.ndjson", "--to", "A", "--to", "C", *mirror, stdin=ROWS)
    assert f"warning: file://{tmp_path}/B/ misses 1 object" in done.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--mode", "quorum"), "--journal PLACE"),
        (("--quorum", "1"), "--mode quorum"),
        (("--mode", "quorum", "--quorum", "3", "--journal", "J"), "a quorum of 3 among 2 targets cannot be"),
    ],
)
def test_options_that_do_not_fit_together(cli, tmp_path, options, says):
    done = cli("write", "x.ndjson", "--to", "A", "--to", "B", *options, stdin=ROWS)
    assert done.code in (2, 7), done.err
    assert says in done.err
    assert objects(tmp_path) == []


def test_a_spool_remembers_all_of_them(cli, tmp_path):
    options = ("--spool", "S", "--roll-records", "10", "--mode", "quorum", "--journal", "J")
    done = cli("write", "{id}.ndjson", "--to", "A", "--to", "B", *options, stdin=ROWS)
    assert done.code == 0, done.err
    assert objects(tmp_path / "A") == objects(tmp_path / "B")
    assert len(objects(tmp_path / "A")) == 10
    noted = json.loads((tmp_path / "S/delivery.json").read_text())
    assert noted["to"] == [str(tmp_path / "A"), str(tmp_path / "B")]
    assert noted["mirror"] == {"mode": "quorum", "journal": str(tmp_path / "J")}
    with RollingRecordWriter(MemoryBackend(), "{id}.ndjson", spool=Spool(tmp_path / "S")) as writer:
        writer.write(b'{"n": 1}')
        writer.flush()
        writer.abort()
    assert cli("spool", "drain", "S").code == 0
    assert objects(tmp_path / "A") == objects(tmp_path / "B")
    assert len(objects(tmp_path / "A")) == 11
