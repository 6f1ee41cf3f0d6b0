"""check_sums: a place held against a sum file, section 8 of the engine's contract."""

import hashlib
import os
import pathlib
import re
import subprocess
import sys
import threading
import time
from io import BytesIO

import pytest

from omnistorage import MemoryBackend, NotFound, ops
from omnistorage.checksums import new_hash
from omnistorage.core import ObjectInfo
from omnistorage.errors import ConfigError
from omnistorage.sync import Filter, check_sums
from omnistorage.sync.checking.sum_file import LONGEST, SumFile, algorithm_named

from ..waiting import LIMIT
from .stores import Acting, Folding, HalfListed, Locked, failing, fill, memory, put

HASHES = {name: hashlib.new(name, b"x").hexdigest() for name in ("md5", "sha1", "sha256", "sha384", "sha512")}
A, B = hashlib.sha256(b"a").hexdigest(), hashlib.sha256(b"b").hexdigest()
NAMES = (b"plain", b"a b  c", b" blank in front", b"new\nline", b"back\\slash", b"back\\nslash", "grüße 漢".encode(),
         b"-n", b"*star", b"#hash", b"a (b) = c", b"carriage\r", b"sub/deep/x", b"no \xff utf-8")  # fmt: skip


def said_by(text, shown="sums", algorithm=None, base=""):
    """Name, algorithm and digest of each line, in the order in which they are listed."""
    text = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    infos = SumFile(lambda: BytesIO(text), shown, algorithm, base).list()
    return [(info.path, *info.hashes.items()) for info in infos]


def sums_of(tmp_path, name="SHA256SUMS", **digests):
    path = tmp_path / name
    path.write_text("".join(f"{digest}  {name}\n" for name, digest in digests.items()))
    return path


def looked_at(sums, dst, **settings):
    said = []
    report = check_sums(sums, dst, listeners=[lambda sign, path, why, error: said.append((sign, path))], **settings)
    return report, sorted(said, key=lambda line: line[1])


class Stating(MemoryBackend):
    """States SHA-256 digests, ``lies`` for some, in its listing and its ``stat``, or in the latter alone."""

    lies = ()
    lists_it = True

    def __init__(self, **options):
        super().__init__(**options)
        self.asked = []

    def _stated(self, info):
        digest = "0" * 64 if info.path in self.lies else hashlib.sha256(ops.read_bytes(self, info.path)).hexdigest()
        return info._replace(hashes={"sha256": digest})

    def _list(self, prefix, options):
        found = super()._list(prefix, options)
        return map(self._stated, found) if self.lists_it else found

    def _stat(self, path):
        self.asked.append(path)
        return self._stated(super()._stat(path))


def stating(*paths, lists_it=True, lies=(), **options):
    made = fill(memory(Stating, dirs=False, hashes=frozenset({"sha256"}), **options), *paths)
    made.lists_it, made.lies = lists_it, lies
    return made


# --- what a line says -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "path"),
    [
        (f"{A}  a", "a"),
        (f"{A} *a", "a"),
        (f"{A}   two blanks in front", " two blanks in front"),
        (f"{A.upper()}  a", "a"),
        (f"  {A}  a", "a"),
        (f"{A}  ./a", "a"),
        (f"{A}  .//./a", "a"),
        (f"{A}  .hidden", ".hidden"),
        (f"{A}  back\\slash\\n", "back\\slash\\n"),
        (f"\\{A}  back\\\\slash\\n\\r", "back\\slash\n\r"),
        (f"\\{A}  \\\\n", "\\n"),
        (f"SHA256 (a) = {A}", "a"),
        (f"SHA256 (./a b) = {A.upper()}", "a b"),
        (f"SHA256 (a) = b) = {A}", "a) = b"),
        (f"\\SHA256 (a\\nb) = {A}", "a\nb"),
        (f"SHA-256 (a) = {A}", "a"),
        (f"{A}  a\r", "a"),
        (f"\ufeff{A}  a", "a"),
        (f"{A}  no \udcff utf-8", "no \udcff utf-8"),
    ],
)
def test_each_form_of_a_line_is_understood(line, path):
    assert said_by(f"{line}\n") == [(path, ("sha256", A))]
    assert said_by(line) == [(path, ("sha256", A))], "the last newline may be missing"


def test_what_says_here_is_taken_off_in_linear_time(monkeypatch):
    monkeypatch.setattr("omnistorage.sync.checking.sum_file.LONGEST", 6 << 20)
    started = time.process_time()
    assert said_by(f"{A}  {'./' * (1 << 20)}{'.//' * (1 << 20)}a\n") == [("a", ("sha256", A))]
    assert time.process_time() - started < 5  # by the square, it takes minutes


def test_blank_lines_and_comments_say_nothing():
    assert said_by(f"# of today\n\n  \n{A}  a\n\r\n#{B}  b\n") == [("a", ("sha256", A))]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("what is this", "neither 'DIGEST  NAME' nor"),
        (f"{A} a", "neither"),
        (f"{A}", "neither"),
        (f"{A}  ", "neither"),
        (f"{A[:-1]}g  a", "neither"),
        ("SHA256 (a) = 7hH/", "neither"),
        (f"SHA257 (a) = {A}", "unknown digest 'sha257'"),
        (f"{A[:-1]}  a", "a digest of 63 digits, where sha256 has 64"),
        (f"{HASHES['md5']}  a", "a digest of 32 digits, where sha256 has 64"),
        (f"MD5 (a) = {HASHES['md5']}", "a digest of md5 where sha256 is expected"),
        (f"\\{A}  a\\tb", "a backslash in an escaped name"),
        (f"\\{A}  a\\", "a backslash in an escaped name"),
        (f"{A}  a\0{B}  b\0", "was the file written with --zero"),
        (f"{A}  ./", "the name of a folder"),
        (f"{A}  {'x' * LONGEST}", "a line of more than 65,536 bytes"),
    ],
)
def test_a_line_that_cannot_be_understood_is_named_with_its_file(bad, why, tmp_path):
    (tmp_path / "some.sums").write_bytes(f"# of today\n{A}  good\n{bad}\n".encode())
    with pytest.raises(ConfigError, match="neither" if why == "neither" else re.escape(why)) as caught:
        looked_at(tmp_path / "some.sums", fill(memory(), "good"))
    assert f"{tmp_path / 'some.sums'}, line 3: " in str(caught.value)


def test_two_digests_for_one_name_are_refused_before_anything_is_said(tmp_path):
    more = "".join(f"{A}  b{n}\n" for n in range(50))
    path = tmp_path / "sums"
    path.write_text(f"{A}  a\n{A}  z\n{more}{B}  ./z\n")
    said = []
    with pytest.raises(ConfigError, match="sums, lines 2 and 53: two digests for 'z'"):
        check_sums(path, memory(), listeners=[lambda *line: said.append(line)])
    assert said == []


def test_the_same_digest_twice_is_one_line(tmp_path):
    path = tmp_path / "sums"
    path.write_text(f"{A}  a\nSHA256 (./a) = {A.upper()}\n")
    assert looked_at(path, fill(memory(), a=b"a"))[1] == [("=", "a")]


@pytest.mark.parametrize("text", ["", "\n# nothing\n"])
def test_a_file_without_a_digest_agrees_with_nothing(text, tmp_path):
    (tmp_path / "sums").write_text(text)
    with pytest.raises(ConfigError, match="sums: it holds no digest"):
        check_sums(tmp_path / "sums", memory(), one_way=True)


def test_a_missing_sum_file_is_no_empty_one(tmp_path):
    with pytest.raises(NotFound):
        check_sums(tmp_path / "SHA256SUMS", fill(memory(), "a"), one_way=True)


def test_the_sum_file_may_lie_in_any_store(tmp_path):
    store, dst = memory(), fill(memory(), a=b"a")
    put(store, "d/SHA256SUMS", f"{A}  a\n")
    for sums in (sums_of(tmp_path, a=A), sums_of(tmp_path, a=A).as_uri()):
        assert check_sums(sums, dst).in_sync
    assert check_sums(SumFile(lambda: store.open_reader("d/SHA256SUMS"), "d/SHA256SUMS"), dst).in_sync


# --- which algorithm --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "length", "algorithm"),
    [
        ("SHA256SUMS", 64, "sha256"),
        ("dist/MD5SUMS", 32, "md5"),
        ("sha1sum.txt", 40, "sha1"),
        ("a.tar.gz.sha512", 128, "sha512"),
        ("release-sha384sums-2026", 96, "sha384"),
        ("x.crc32c", 8, "crc32c"),
        ("CRC32", 8, "crc32"),
        ("B2SUMS", 128, "blake2b"),
        ("s3://sha1.sums/b/SHA256SUMS?x=.md5", 64, "sha256"),
        ("x.md5.sha1", 40, "sha1"),
        ("sums", 32, "md5"),
        ("sums", 40, "sha1"),
        ("sums", 64, "sha256"),
        ("sums", 128, "sha512"),
        ("notsha512sum", 64, "sha256"),
    ],
)
def test_the_name_of_the_file_tells_the_algorithm_and_else_the_length(shown, length, algorithm):
    assert said_by(f"{'0' * length}  a", shown) == [("a", (algorithm, "0" * length))]


def test_the_tag_is_above_the_name_of_the_file_and_what_is_given_above_both():
    line = f"SHA512 (a) = {HASHES['sha512']}"
    assert said_by(line, "SHA256SUMS") == [("a", ("sha512", HASHES["sha512"]))]
    with pytest.raises(ConfigError, match="line 1: a digest of sha512 where blake2b is expected"):
        said_by(line, "SHA512SUMS", "blake2b")
    assert said_by(f"{HASHES['sha512']}  a", "SHA512SUMS", "BLAKE2b") == [("a", ("blake2b", HASHES["sha512"]))]


def test_what_no_length_tells_has_to_be_given():
    with pytest.raises(ConfigError, match="sums, line 1: a digest of 8 digits may be of several algorithms: say which"):
        said_by("01234567  a")
    assert said_by("01234567  a", algorithm="crc32c") == [("a", ("crc32c", "01234567"))]
    with pytest.raises(ConfigError, match="SHA256SUMS, line 1: a digest of 32 digits, where sha256 has 64"):
        said_by(f"{HASHES['md5']}  a", "SHA256SUMS")


def test_an_algorithm_nobody_knows_is_refused_before_anything_is_read():
    with pytest.raises(ConfigError, match="unknown digest 'sha257'"):
        SumFile(lambda: pytest.fail("opened"), "sums", "SHA-257")
    assert [algorithm_named(name) for name in ("SHA-256", "sha3-256", "SHA512/256")] == [
        "sha256",
        "sha3_256",
        "sha512_256",
    ]


# --- whose output is read ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes, and coreutils")
@pytest.mark.parametrize(
    "tool", [["sha256sum"], ["md5sum", "-b"], ["sha256sum", "--tag"], ["b2sum", "--tag"], ["sha1sum", "-t"]]
)
def test_what_coreutils_print_is_read_whatever_the_names(tool, tmp_path):
    folder = tmp_path / "dst"
    for name in NAMES:
        path = os.path.join(os.fsencode(folder), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        pathlib.Path(os.fsdecode(path)).write_bytes(b"data of " + name)
    with (tmp_path / "sums").open("wb") as out:
        subprocess.run([*tool, "--", *NAMES], cwd=folder, stdout=out, check=True)
    report, said = looked_at(tmp_path / "sums", folder)
    assert (report.match, report.in_sync) == (len(NAMES), True), said
    (folder / "new\nline").write_text("other")
    (folder / "back\\slash").unlink()
    report, said = looked_at(tmp_path / "sums", folder)
    assert [line for line in said if line[0] != "="] == [("+", "back\\slash"), ("*", "new\nline")]


def test_a_base_that_tools_put_before_names_is_taken_off(tmp_path):
    (tmp_path / "dst").mkdir()
    (tmp_path / "dst" / "a").write_bytes(b"a")
    sums = tmp_path / "sums"
    for there in (tmp_path / "dst", f"{tmp_path}/dst/", (tmp_path / "dst").as_uri()):
        sums.write_text(f"{A}  {str(there).rstrip('/')}/a\n")
        assert looked_at(sums, there)[1] == [("=", "a")]
    assert said_by(f"{A}  dst/a\n{A}  b", base="dst") == [("b", ("sha256", A)), ("dst/a", ("sha256", A))]
    for base in ("dst", "./dst", "dst/"):
        assert said_by(f"{A}  dst/a\n{A}  ./dst/b", base=base) == [("a", ("sha256", A)), ("b", ("sha256", A))]
    assert said_by(f"{A}  /dst2/a", base="/dst") == [("/dst2/a", ("sha256", A))]


# --- the signs --------------------------------------------------------------------------------------------------------


def test_every_object_gets_one_sign_and_nothing_is_changed(tmp_path):
    dst = fill(memory(), **{"same": b"a", "d/same": b"b", "other": b"b", "d/extra": b"a"})
    watched = Acting(dst, lambda op, number: None)
    sums = sums_of(tmp_path, **{"same": A, "d/same": B, "other": A, "gone": A})
    report, said = looked_at(sums, watched)
    assert said == [("-", "d/extra"), ("=", "d/same"), ("+", "gone"), ("*", "other"), ("=", "same")]
    assert (report.match, report.differ, report.missing_on_src, report.missing_on_dst) == (2, 1, 1, 1)
    assert (report.errors, report.complete, report.in_sync, report.warnings) == (0, True, False, [])
    assert (report.source, report.destination) == (str(sums), dst.url)
    assert set(watched.log) <= {"list", "list_dir", "stat", "open_reader", "read"}


def test_one_way_looks_at_what_the_file_names(tmp_path):
    dst = fill(memory(), a=b"a", more=b"b")
    assert check_sums(sums_of(tmp_path, a=A), dst, one_way=True).in_sync
    assert not check_sums(sums_of(tmp_path, a=A), dst).in_sync
    assert looked_at(sums_of(tmp_path, a=A, b=B), dst, one_way=True)[1] == [("=", "a"), ("+", "b")]


def test_the_order_of_the_lines_does_not_matter(tmp_path):
    names = [f"{'d/' * (n % 3)}{n}" for n in range(100)]
    dst = fill(memory(), **{name: name.encode() for name in names})
    lines = {name: hashlib.sha256(name.encode()).hexdigest() for name in reversed(names)}
    report, _ = looked_at(sums_of(tmp_path, **lines), dst, checkers=3)
    assert (report.match, report.in_sync) == (100, True)


def test_the_order_of_names_is_kept_however_many_read(tmp_path):
    names = [f"f{n:03}" for n in range(200)]
    dst = fill(memory(dirs=False), **dict.fromkeys(names[::3], b"a"))
    said = []
    sums = sums_of(tmp_path, **dict.fromkeys(names, A))
    check_sums(sums, dst, listeners=[lambda sign, path, why, error: said.append(path)])
    assert said == names


def test_objects_are_read_side_by_side(tmp_path):
    names = [f"f{n}" for n in range(8)]
    dst = fill(memory(), **dict.fromkeys(names, b"a"))
    barrier = threading.Barrier(4, timeout=LIMIT)

    def act(op, number):
        if op == "open_reader":
            barrier.wait()

    assert check_sums(sums_of(tmp_path, **dict.fromkeys(names, A)), Acting(dst, act), checkers=4).in_sync


def test_every_algorithm_that_can_be_named_can_be_checked(tmp_path):
    for name in ("md5", "sha1", "sha512", "crc32", "crc32c", "blake2b", "sha3-256"):
        running = new_hash(algorithm_named(name))
        running.update(b"a")
        sums = sums_of(tmp_path, "sums", good=running.hexdigest(), bad=running.hexdigest())
        said = looked_at(sums, fill(memory(), good=b"a", bad=b"b"), algorithm=name)[1]
        assert said == [("*", "bad"), ("=", "good")], name


# --- where the destination's digests come from ------------------------------------------------------------------------


@pytest.mark.parametrize("lists_it", [True, False])
def test_a_digest_that_the_destination_states_is_not_computed(lists_it, tmp_path):
    dst = stating("a", "b", lists_it=lists_it, set_modified=False)
    sums = sums_of(tmp_path, a=hashlib.sha256(b"data of a").hexdigest(), b=A)
    unread = failing(dst, "open_reader", None)
    assert looked_at(sums, unread)[1] == [("=", "a"), ("*", "b")]
    assert sorted(dst.asked) == ([] if lists_it else ["a", "b"])


def test_a_digest_of_another_algorithm_is_no_answer(tmp_path):
    dst = stating("a", lists_it=False)
    sums = sums_of(tmp_path, "MD5SUMS", a=hashlib.md5(b"data of a").hexdigest())
    assert check_sums(sums, dst).in_sync
    assert dst.asked == [], "it cannot know"


@pytest.mark.parametrize("lists_it", [True, False])
def test_download_reads_whatever_the_destination_states(lists_it, tmp_path):
    dst = stating("a", "b", lists_it=lists_it, lies=("a",))
    sums = sums_of(tmp_path, **{name: hashlib.sha256(f"data of {name}".encode()).hexdigest() for name in "ab"})
    assert looked_at(sums, dst)[1] == [("*", "a"), ("=", "b")]
    assert looked_at(sums, dst, download=True)[1] == [("=", "a"), ("=", "b")]


@pytest.mark.parametrize(("op", "at"), [("open_reader", 1), ("read", 1), ("read", 2)])
def test_what_cannot_be_read_is_an_error_and_no_difference(op, at, tmp_path):
    dst = fill(memory(), a=b"a" * 3_000_000, b=b"b")
    sums = sums_of(tmp_path, a=A, b=B)
    report, said = looked_at(sums, failing(dst, op, at), checkers=1)
    assert said == [("!", "a"), ("=", "b")]
    assert (report.errors, report.differ, report.in_sync) == (1, 0, False)
    assert "it cannot be read: injected" in str(report.failures[0].error)


def test_a_stat_that_fails_is_an_error(tmp_path):
    report, said = looked_at(sums_of(tmp_path, a=A), failing(stating("a", lists_it=False), "stat", None))
    assert (said, report.in_sync) == ([("!", "a")], False)


def test_a_listing_that_breaks_off_is_not_in_sync(tmp_path):
    dst = fill(memory(HalfListed), a=b"a", b=b"b", c=b"a")
    report, _ = looked_at(sums_of(tmp_path, a=A, b=B), dst)
    assert (report.in_sync, report.complete, bool(report.errors)) == (False, False, True)
    report, said = looked_at(
        sums_of(tmp_path, **{"a": A, "locked/x": B}), fill(memory(Locked), **{"a": b"a", "locked/x": b"b"})
    )
    assert (report.in_sync, said) == (False, [("=", "a"), ("!", "locked")])


def test_a_destination_that_does_not_exist_has_nothing_of_it(tmp_path):
    report, said = looked_at(sums_of(tmp_path, a=A, b=B), tmp_path / "none")
    assert (said, report.errors) == ([("+", "a"), ("+", "b")], 0)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX")
def test_a_link_is_read_through_and_a_pipe_is_not_waited_for(tmp_path):
    folder = tmp_path / "dst"
    folder.mkdir()
    (folder / "a").write_bytes(b"a")
    (folder / "good").symlink_to("a")
    (folder / "bad").symlink_to("a")
    (folder / "nowhere").symlink_to("none")
    os.mkfifo(folder / "pipe")
    sums = sums_of(tmp_path, a=A, bad=B, good=A, nowhere=A, pipe=A)
    assert looked_at(sums, folder)[1] == [("=", "a"), ("*", "bad"), ("=", "good"), ("!", "nowhere"), ("!", "pipe")]


def test_a_name_that_leaves_the_folder_is_an_error_of_its_own(tmp_path):
    (tmp_path / "secret").write_bytes(b"a")
    (tmp_path / "dst").mkdir()
    sums = sums_of(tmp_path, **{"../secret": A, "/etc/hostname": A})
    report, said = looked_at(sums, tmp_path / "dst")
    assert said == [("!", "../secret"), ("!", "/etc/hostname")]
    assert not report.in_sync


# --- settings ---------------------------------------------------------------------------------------------------------


def test_the_filter_holds_for_both(tmp_path):
    dst = fill(memory(), **{"a": b"a", "x.tmp": b"a", "d/y": b"a"})
    sums = sums_of(tmp_path, **{"a": A, "z.tmp": A, "d/z": A})
    assert looked_at(sums, dst, filter=Filter.parse(["- *.tmp", "- /d/"]))[1] == [("=", "a")]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"size_only": True}, "size_only"),
        ({"checksum": "strict"}, "checksum"),
        ({"compare": "mtime"}, "compare"),
        ({"delete": True}, "delete"),
        ({"filter": Filter.parse(min_size=1)}, "min_size"),
        ({"filter": Filter.parse(max_age="1d")}, "max_age"),
        ({"filter": Filter.parse(metadata_include="a=b")}, "metadata_rules"),
    ],
)
def test_a_setting_that_a_sum_file_cannot_answer_is_refused_by_name(settings, named, tmp_path):
    with pytest.raises(ConfigError, match=f"{named}.* a sum file, which says|{named}: a sum file says"):
        check_sums(sums_of(tmp_path, a=A), memory(), **settings)


def test_no_traverse_asks_for_the_names_alone(tmp_path):
    dst = fill(memory(), a=b"a", other=b"b", **{f"n{n}": b"n" for n in range(20)})
    watched = Acting(dst, lambda op, number: None)
    said = looked_at(sums_of(tmp_path, a=A, gone=A, other=A), watched, no_traverse=True, one_way=True)[1]
    assert said == [("=", "a"), ("+", "gone"), ("*", "other")]
    assert not {"list", "list_dir"} & set(watched.log)


def test_names_are_matched_as_the_destination_matches_them(tmp_path):
    dst = fill(memory(Folding), Readme=b"a")
    assert looked_at(sums_of(tmp_path, README=A), dst)[1] == [("=", "README")]
    said = looked_at(sums_of(tmp_path, README=A, readme=B), dst)[1]
    assert [sign for sign, _ in said] == ["!", "!"]


def test_the_page_shows_every_object(tmp_path):
    out = BytesIO()
    sums = sums_of(tmp_path, a=A, b=B, gone=A)
    report = check_sums(sums, fill(memory(), a=b"a", b=b"a"), report=out)
    page = out.getvalue().decode()
    assert (report.match, report.differ, report.missing_on_dst) == (1, 1, 1)
    for row in ('["=","a"', '["*","b"', '["+","gone"'):
        assert row in page.replace(", ", ",")
    assert str(sums) in page
    assert 'id="command"' not in page, "none would mend it"


# --- memory -----------------------------------------------------------------------------------------------------------

_CHILD = """
import re, sys
from pathlib import Path
from omnistorage.sync.checking.sum_file import SumFile

class Text:
    def __init__(self, count): self.lines = (b"%064x  folder/of-a-usual-length-%08d\\n" % (n, n) for n in range(count))
    def read(self, size=-1): return b"".join(line for _, line in zip(range(500), self.lines))
    def close(self): pass

def read(count): return sum(1 for _ in SumFile(lambda: Text(count), "sums").list())
def peak(): return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

read(10)
before = peak()
print(read(int(sys.argv[1])), (peak() - before) / 1024)
"""


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="VmHWM is Linux's")
@pytest.mark.ci_only
def test_memory_does_not_grow_with_the_sum_file():
    done = subprocess.run([sys.executable, "-W", "error", "-c", _CHILD, "200000"], capture_output=True, text=True)
    assert done.stderr == ""
    count, mib = done.stdout.split()
    assert int(count) == 200_000
    assert 0 < float(mib) < 80


def test_a_sum_file_as_a_place_lists_and_does_nothing_else():
    made = SumFile(lambda: BytesIO(f"{B}  b\n{A}  a\n".encode()), "sums")
    assert [info.path for info in made.list()] == [info.path for info in made.list()] == ["a", "b"]
    assert next(made.list()) == ObjectInfo("a", hashes={"sha256": A}, metadata={"line": "2"})
