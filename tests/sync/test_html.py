"""The HTML page of a check, a dry run or a run."""

import io
import json
import re
import shlex
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnistorage import LocalBackend, NotFound
from omnistorage.errors import SyncError
from omnistorage.sync import Filter, check, copy, copy_file, move, sync
from omnistorage.sync.html.report import ROWS, STILL, HtmlReport, human
from omnistorage.wrappers import ReadOnly

from .html_page import HOSTILE, Parsed, Sealed, both, page_of, parsed
from .stores import HalfListed, Locked, fill, held, memory

# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_is_one_file_that_names_no_other_resource():
    page = page_of([("+", "a", 1, "why"), ("*", "b", None, "")], totals={"x": 1}, command=["omnistorage", "sync"])
    page.encode("utf-8")
    for outside in ("http:", "https:", "//", "src=", "href=", "url(", "@import", "<link", "<iframe", "fetch(", "data:"):
        assert outside not in page, outside
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    for part in ("default-src 'none'", "style-src 'unsafe-inline'", "script-src 'unsafe-inline'", "form-action 'none'"):
        assert part in policy


def test_hostile_names_stay_text():
    harmless = Parsed(page_of([("*", "x", 1, "x")] * len(HOSTILE)))
    page = page_of([("*", name, 1, name) for name in HOSTILE])
    found = Parsed(page)
    assert found.tags == harmless.tags
    assert found.tags.count("script") == 2
    assert found.paths == [row[1] for row in found.still] == [row[3] for row in found.still]
    assert found.paths[:6] == list(HOSTILE[:6])
    assert found.paths[9:] == list(HOSTILE[9:])


def test_what_does_not_print_is_shown_as_its_escape():
    found = Parsed(page_of([("*", name, None, "") for name in HOSTILE[6:9]]))
    assert found.paths == [
        "line\\nfeed\\r\\ttab\\x00nul\\u2028separator\\u2029",
        "right\\u202etfel\\u2066isolate",
        "\\udcff lone surrogate",
    ]


@given(st.text(st.characters(codec=None), max_size=30), st.text(max_size=30), st.none() | st.integers(0, 2**63))
def test_any_text_comes_back_as_one_row_of_the_same_page(path, why, size):
    page = page_of([("!", path, size, why)], title=why, source=path, destination=path, command=["x", path])
    found = Parsed(page)
    assert found.tags == Parsed(page_of([("!", "x", size, "x")], command=["x", "x"])).tags
    assert len(found.data["rows"]) == 1
    assert found.data["rows"][0][1] == found.still[0][1]
    assert found.paths[0].isprintable()


def test_it_says_what_was_compared_and_when():
    found = Parsed(page_of([], title="omnistorage check", source="s3://bucket/a & b/", destination="file:///srv/"))
    assert "s3://bucket/a & b/file:///srv/" in found.texts["path"]
    page = page_of([])
    assert '<time datetime="2026-03-04T05:06:07Z">2026-03-04 05:06:07 UTC</time>' in page
    assert "as it went" in found.texts["verdict "]


def test_totals_are_tiles():
    found = Parsed(page_of([], totals={"same": 1234567, "moved": "1.5 GiB", "<b>": 0}))
    assert found.totals == {"same": "1,234,567", "moved": "1.5 GiB", "<b>": "0"}


def test_without_javascript_the_first_thousand_rows_are_there_and_the_rest_is_said():
    found = Parsed(page_of([("+", f"{n}", n, "") for n in range(STILL + 1)]))
    assert len(found.still) == STILL
    assert found.still[2] == ["+only at source", "2", "2 B", ""]
    assert "first 1,000 of 1,001 rows" in found.texts["still"]
    assert len(found.paths) == STILL + 1


def test_what_matters_comes_before_what_is_the_same():
    found = Parsed(page_of([("=", "a", 1, ""), ("*", "b", 1, ""), ("=", "c", 1, ""), ("!", "d", 1, "")]))
    assert found.paths == ["b", "d", "a", "c"]
    assert [(kind["kind"], kind["count"]) for kind in found.data["kinds"]] == [("!", 1), ("*", 1), ("=", 2)]


_CHILD = """
import sys
from omnistorage.sync.html.report import HtmlReport
peak = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
report = HtmlReport(sys.argv[1], title="t", source="a", destination="b")
before = peak()
for n in range(300_000):
    report.row("=", f"folder/file-{n}", n, "")
report.row("*", "the one that differs", 1, "the size differs")
report.close({})
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="VmHWM is Linux's")
def test_a_page_holds_a_hundred_thousand_rows_in_bounded_memory_and_counts_the_others(tmp_path):
    page = tmp_path / "page.html"
    done = subprocess.run([sys.executable, "-c", _CHILD, str(page)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 16 << 10  # KiB
    found = parsed(page)
    assert len(found.paths) == ROWS
    assert found.paths[0] == "the one that differs"
    assert found.data["total"] == 300_001


def test_long_names_do_not_make_an_endless_page(tmp_path):
    report = HtmlReport(tmp_path / "page.html", title="t", source="a", destination="b")
    for number in range(1200):
        report.row("+="[number % 2], "\U0001f600" * 3000, 1, "")
    report.close({})
    assert (tmp_path / "page.html").stat().st_size < 50 << 20
    text = (tmp_path / "page.html").read_text("utf-8")
    data = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    assert 500 < len(data["rows"]) < 1200
    assert data["total"] == 1200


def test_secrets_are_hidden():
    secret = "s3://key:hunter2@bucket/x?session_token=hunter2"
    page = page_of(
        [("!", "path", 1, f"cannot reach {secret}")],
        source=secret,
        destination=secret,
        command=["omnistorage", "sync", secret],
    )
    assert "hunter2" not in page
    assert "Secrets are hidden here" in page
    assert "Secrets are hidden here" not in page_of([], command=["omnistorage", "sync", "a b"])


def test_the_command_is_quoted_for_a_shell():
    command = ["omnistorage", "sync", "a folder", "it's <b>", "--exclude", "*.tmp"]
    assert shlex.split(Parsed(page_of([], command=command)).texts["command"]) == command
    assert 'id="command"' not in page_of([])


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1280, "1.3 KiB"), (5 << 30, "5.0 GiB"), (3 << 60, "3072.0 PiB")],
)
def test_sizes_are_for_people(size, text):
    assert human(size) == text
    assert f'title="{size:,} bytes">{text}<' in page_of([("+", "a", size, "")])


# -- where it goes -----------------------------------------------------------------------------------------------------


def test_an_open_file_gets_the_page_and_stays_open():
    file = io.BytesIO()
    check(*both(), report=file)
    assert file.getvalue().startswith(b"<!DOCTYPE html>")
    assert file.getvalue().endswith(b"</html>\n")
    assert not file.closed


def test_a_check_that_breaks_off_leaves_the_old_page(tmp_path):
    page = tmp_path / "page.html"
    page.write_text("old")

    def stop(*row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(*both(), report=page, listeners=[stop])
    assert page.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_run_that_breaks_off_leaves_the_old_page(tmp_path):
    page = tmp_path / "page.html"
    page.write_text("old")
    with pytest.raises(NotFound):
        sync(tmp_path / "nowhere", memory(), report=page)
    assert page.read_text() == "old"
    with HtmlReport(page, title="t", source="a", destination="b") as report:
        report.row("=", "never closed")
    assert page.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_page_that_cannot_be_written_is_refused_before_anything_is_done(tmp_path):
    (tmp_path / "file").write_text("no folder")
    src, dst = both()
    before = held(dst)
    with pytest.raises(Exception, match="file"):
        sync(src, dst, report=tmp_path / "file" / "page.html")
    assert held(dst) == before


# -- what check, a dry run and a run say -------------------------------------------------------------------------------


def test_check_puts_every_object_on_the_page_with_its_size(tmp_path):
    report = check(*both(), report=tmp_path / "page.html")
    found = parsed(tmp_path / "page.html")
    assert sorted((sign, path, size) for sign, path, size, _ in found.data["rows"]) == [
        ("*", "size", 2000),
        ("+", "source", len("data of source")),
        ("-", "target", len("data of target")),
        ("=", "same", len("data of same")),
    ]
    assert found.totals == {
        "same": "0",
        "by size and time only": "1",
        "differ": "1",
        "only at the source": "1",
        "only at the destination": "1",
        "not compared": "0",
    }
    assert found.texts["verdict bad"] == f"Not in sync: {report.differences} differences."
    assert "memory://" in found.texts["path"]


def test_equal_places_are_said_to_be_in_sync_and_need_no_command(tmp_path):
    src, dst = LocalBackend(str(tmp_path / "a")), LocalBackend(str(tmp_path / "b"))
    fill(src, "x")
    fill(dst, "x")
    check(src, dst, report=tmp_path / "page.html")
    found = parsed(tmp_path / "page.html")
    assert found.texts["verdict good"] == "In sync."
    assert "command" not in found.texts


def test_what_could_not_be_compared_is_no_sync(tmp_path):
    src, dst = fill(memory(Sealed), "s", "a"), fill(memory(), "s", "a")
    report = check(src, dst, download=True, report=tmp_path / "page.html")
    found = parsed(tmp_path / "page.html")
    assert (report.errors, report.in_sync) == (1, False)
    assert found.data["rows"][0][:2] == ["!", "s"]
    assert "not yours" in found.data["rows"][0][3]
    assert found.texts["verdict bad"] == "Not in sync: 1 not compared."
    assert found.totals["not compared"] == "1"


def test_a_listing_that_broke_off_is_on_the_page(tmp_path):
    src, dst = fill(memory(HalfListed), "a", "b", "c"), memory()
    for kind, go in (("!", check), ("error", sync)):
        more = {"raise_errors": False} if go is sync else {}
        go(src, dst, report=tmp_path / "page.html", **more)
        found = parsed(tmp_path / "page.html")
        assert "the connection broke" in " ".join(why for sign, _, _, why in found.data["rows"] if sign == kind)
        assert "verdict bad" in found.texts
        assert {size for _, path, size, why in found.data["rows"] if "broke" in why and not path} == {None}


@pytest.mark.parametrize(("go", "sign"), [(check, "!"), (sync, "error")])
def test_a_folder_that_cannot_be_listed_is_on_the_page(go, sign, tmp_path):
    src, dst = fill(memory(Locked), "a", "locked/x"), fill(memory(), "a", "locked/x")
    go(src, dst, report=tmp_path / "page.html", **({} if go is check else {"raise_errors": False}))
    rows = parsed(tmp_path / "page.html").data["rows"]
    assert [(kind, size) for kind, path, size, why in rows if path == "locked" and "not yours" in why] == [(sign, None)]


def test_a_dry_run_is_the_plan_and_changes_nothing(tmp_path):
    src, dst = both()
    before = held(dst)
    report = sync(src, dst, delete=True, dry_run=True, report=tmp_path / "page.html")
    assert held(dst) == before
    found = parsed(tmp_path / "page.html")
    assert sorted((kind, path) for kind, path, *_ in found.data["rows"]) == [
        ("copy", "source"),
        ("delete", "target"),
        ("update", "size"),
    ]
    assert found.totals == {
        "to copy": "1",
        "to update": "1",
        "to delete": "1",
        "equal": "1",
        "to transfer": human(report.bytes),
    }
    assert found.texts["verdict "] == "A dry run: nothing was changed."


def test_a_run_says_what_was_done_and_what_failed(tmp_path):
    src, dst = fill(memory(Sealed), "new", "same", "source"), both()[1]
    with pytest.raises(SyncError):
        sync(src, dst, report=tmp_path / "page.html", retries=0)
    found = parsed(tmp_path / "page.html")
    rows = {path: (kind, why) for kind, path, _, why in found.data["rows"]}
    assert rows["new"][0] == "copy"
    assert rows["source"][0] == "error"
    assert rows["source"][1].startswith("copy: ")
    assert found.texts["verdict bad"] == "1 entry failed."
    assert found.totals["failed"] == "1"


@pytest.mark.parametrize("verb", [copy, move])
def test_copy_and_move_report_as_well(verb, tmp_path):
    src, dst = both()
    verb(src, dst, report=tmp_path / "page.html")
    found = parsed(tmp_path / "page.html")
    assert {"source", "size"} <= set(found.paths)
    assert found.texts["verdict good"] == "Everything was done."
    assert ("same" in found.paths) == (verb is move)


def test_one_object_is_reported_without_a_command_that_would_do_more(tmp_path):
    src, dst = LocalBackend(str(tmp_path / "a")), LocalBackend(str(tmp_path / "b"))
    fill(src, "x", "y")
    copy_file(src, "x", dst, "z", report=tmp_path / "page.html")
    found = parsed(tmp_path / "page.html")
    assert found.paths == ["x"]
    assert "command" not in found.texts


# -- the command to mend it --------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path):
    for name in ("a b", "c"):
        fill(LocalBackend(str(tmp_path / name)), *{"a b": ("same", "source"), "c": ("same", "target")}[name])
    return tmp_path / "a b", str(tmp_path / "c")


def command_of(path):
    text = parsed(path).texts.get("command")
    return None if text is None else shlex.split(text)


def test_the_command_mends_what_was_found(folders, tmp_path):
    from omnistorage.cli import main

    src, dst = folders
    report = check(src, dst, report=tmp_path / "page.html")
    assert not report.in_sync
    command = command_of(tmp_path / "page.html")
    assert command[:2] == ["omnistorage", "sync"]
    assert "--delete removes 1 object that only the destination has" in (tmp_path / "page.html").read_text()
    assert main(command[1:]) == 0
    assert check(src, dst).in_sync


def test_the_command_of_a_check_replaces_folders_only_where_it_deletes(folders, tmp_path):
    page = tmp_path / "page.html"
    check(*folders, report=page, on_type_clash="replace")
    assert command_of(page)[4:] == ["--on-type-clash=replace", "--checksum", "--delete"]
    check(*folders, report=page, on_type_clash="replace", one_way=True)
    assert command_of(page)[4:] == ["--checksum"]


def test_the_command_says_how_it_was_compared(folders, tmp_path):
    page = tmp_path / "page.html"
    check(*folders, report=page, size_only=True, one_way=True)
    assert command_of(page)[4:] == ["--size-only"]
    check(*folders, report=page, compare="aws", checkers=2)
    assert command_of(page)[4:] == ["--compare=aws", "--delete"]
    check(*folders, report=page, download=True, size_only=True, one_way=True)
    assert command_of(page)[4:] == ["--checksum=strict"]
    sync(*folders, report=page, dry_run=True, delete=True, max_delete=7)
    assert command_of(page)[4:] == ["--delete", "--max-delete=7"]


def test_a_url_stands_in_the_command_as_it_was_given_and_a_path_as_one_that_holds_anywhere(folders, tmp_path):
    url = (tmp_path / "c").as_uri()
    check(folders[0], url, report=tmp_path / "page.html", one_way=True)
    assert command_of(tmp_path / "page.html") == ["omnistorage", "sync", f"{folders[0].as_uri()}/", url, "--checksum"]


def test_there_is_no_command_where_it_would_not_say_all(folders, tmp_path):
    page = tmp_path / "page.html"
    check(*folders, report=page, filter=Filter.parse(["- *.tmp"]))
    assert command_of(page) is None
    check(*folders, report=page, compare=lambda a, b: True)
    assert command_of(page) is None
    check(folders[0], memory(), report=page)
    assert command_of(page) is None


def test_a_wrapper_is_not_passed_by_with_the_url_of_what_it_wraps(folders, tmp_path):
    backend = ReadOnly(LocalBackend(folders[1]))
    assert backend.url is not None
    check(folders[0], backend, report=tmp_path / "page.html", one_way=True)
    assert command_of(tmp_path / "page.html") is None
