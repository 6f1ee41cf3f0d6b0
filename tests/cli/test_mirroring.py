"""``write`` with several ``--to``: what one of them misses is said, noted, and brought by the next run."""

import json

import pytest

from omnistorage import MemoryBackend, RollingRecordWriter, Spool

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
    assert "local-2 misses 1 objects: the next run with this --journal brings them" in done.err
    (tmp_path / "B").unlink()
    done = cli("--json", "write", "y.ndjson", *mirror, stdin=ROWS)
    assert done.code == 0, done.err
    assert "brought what earlier runs left out: 1 objects" in done.err
    for name in "ABC":
        assert objects(tmp_path / name) == ["x.ndjson", "y.ndjson"]
    assert objects(tmp_path / "J") == []


def test_too_few_is_an_error_and_publishes_nowhere(cli, tmp_path):
    done = cli("write", "x.ndjson", "--to", "A", "--to", AWAY, "--retries", "0", stdin=ROWS)
    assert done.code == 2 or done.code == 5, done.err
    done = cli("--retries", "0", "write", "x.ndjson", "--to", "A", "--to", AWAY, stdin=ROWS)
    assert done.code == 5, done.err
    assert objects(tmp_path) == []
    assert "secret_key=b" not in done.err


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
