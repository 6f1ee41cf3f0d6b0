"""SUM files as the source of a check.

Two forms of line are read: that of ``sha256sum``, ``HEX  name`` and ``HEX *name``, and the tagged one of ``--tag`` and
the BSDs, ``SHA256 (name) = HEX``. A backslash before either says that a backslash, a newline and a carriage return in
the name are written as two characters, as in C. Source: the manual of GNU coreutils, on ``cksum`` and ``md5sum``.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from typing import NoReturn

from omnistorage import ops
from omnistorage.checksums import new_hash
from omnistorage.core import (
    LIST,
    READ,
    WRITE,
    Features,
    ListOptions,
    ObjectInfo,
    Reader,
    ReadOptions,
    WriteOptions,
    Writer,
)
from omnistorage.errors import CapabilityNotSupported, ConfigError
from omnistorage.paths import name
from omnistorage.records import as_file

LONGEST = 64 << 10
"""Bytes of the longest line that is read: more is no sum file."""
_BLOCK = 1 << 20
_PLAIN = re.compile(rb"(\\?)([0-9a-fA-F]+) [ *](.+)", re.DOTALL)
_TAGGED = re.compile(rb"(\\?)([A-Za-z0-9/-]+) \((.+)\) = ([0-9a-fA-F]+)", re.DOTALL)
_HERE = re.compile(r"(?:\./++)++")
_ESCAPE = re.compile(rb"\\(.?)", re.DOTALL)
_ESCAPED = {b"\\": b"\\", b"n": b"\n", b"r": b"\r"}
_IN_NAME = re.compile(r"(?:^|[._-])(md5|sha1|sha224|sha256|sha384|sha512|crc32c?|b2)(?:sums?)?(?=[._-]|$)")
_BY_LENGTH = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}


def algorithm_named(text: str) -> str:
    """What ``digests`` calls an algorithm: ``SHA256``, ``sha-256`` and ``sha256`` are one. Raises ``ConfigError``."""
    plain = text.lower().replace("/", "_")
    found = plain.replace("-", "_" if plain.startswith("sha3") else "")
    new_hash(found)
    return found


class SumFile:
    """A sum file as a basic backend that can only list: the names in it, in key order, each with its digest and, as
    metadata, its line.

    ``open`` opens the text, for each listing anew; ``shown`` is what to call it. The algorithm is ``algorithm``, else
    that of the first tag, else what the file is called after (``SHA256SUMS``, ``x.md5``), else what the first digest's
    length tells; a file has one. ``./`` before names is dropped, and so is ``base``: where it is a URL or an absolute
    path, else where all names begin with it. Blank lines and those that begin with ``#`` are skipped.

    Lines are sorted in temporary files: memory is bounded whatever their number. ``ConfigError`` names the file and
    the line that cannot be read, is of another algorithm or length, or contradicts another one. A file without a single
    digest is one, too: it would agree with everything.
    """

    name = "sums"
    features = Features(list=True, sorted_list=True)

    def __init__(self, open: Callable[[], Reader], shown: str, algorithm: str | None = None, base: str = "") -> None:
        self.shown = shown
        self._open = open
        self._given = None if algorithm is None else algorithm_named(algorithm)
        self._base = f"{base.rstrip('/')}/" if base.startswith("/") or "://" in base else ""
        self._head = "" if self._base or not base else _plain(f"{base.rstrip('/')}/")
        self._all_have_it = True

    def list(self, prefix: str = "", options: ListOptions = LIST) -> Iterator[ObjectInfo]:
        # Sorted twice, so that what contradicts itself is known before the first name is out.
        return ops.sort_entries(self._single(ops.sort_entries(self._parsed())))

    def close(self) -> None:
        """Nothing is open between listings."""

    def open_reader(self, path: str, options: ReadOptions = READ) -> Reader:
        self._cannot("read", path)

    def open_writer(self, path: str, options: WriteOptions = WRITE) -> Writer:
        self._cannot("write", path)

    def exists(self, path: str) -> bool:
        self._cannot("stat", path)

    def delete(self, path: str, *, if_match: str | None = None) -> bool | None:
        self._cannot("delete", path)

    def _cannot(self, flag: str, path: str) -> NoReturn:
        raise CapabilityNotSupported("a sum file only lists", capability=flag, backend=self.name, path=path)

    # -- what the lines say --------------------------------------------------------------------------------------------

    def _single(self, infos: Iterator[ObjectInfo]) -> Iterator[ObjectInfo]:
        last: ObjectInfo | None = None
        for info in infos:  # which come once all lines were read
            if self._head and self._all_have_it:
                info = info._replace(path=info.path.removeprefix(self._head))
            if last is None or info.path != last.path:
                yield info
            elif info.hashes != last.hashes:
                one, other = ((each.metadata or {})["line"] for each in (last, info))
                raise ConfigError(f"{self.shown}, lines {one} and {other}: two digests for {info.path!r}")
            last = info

    def _parsed(self) -> Iterator[ObjectInfo]:
        algorithm, width = self._given, 0
        self._all_have_it = True
        for number, line in self._lines():
            if not line or line.startswith(b"#"):
                continue
            tag, path, digest = self._split(number, line)
            if tag is not None and tag != (algorithm or tag):
                self._refuse(number, f"a digest of {tag} where {algorithm} is expected: one file has one algorithm")
            algorithm = algorithm or tag or self._guessed(number, digest)
            width = width or len(new_hash(algorithm).hexdigest())
            if len(digest) != width:
                self._refuse(number, f"a digest of {len(digest)} digits, where {algorithm} has {width}")
            self._all_have_it = self._all_have_it and path.startswith(self._head)
            yield ObjectInfo(path, hashes={algorithm: digest}, metadata={"line": str(number)})
        if not width:
            raise ConfigError(f"{self.shown}: it holds no digest, so there is nothing to check")

    def _guessed(self, number: int, digest: str) -> str:
        named = _IN_NAME.findall(name(self.shown.partition("?")[0]).lower())
        found = named[-1] if named else _BY_LENGTH.get(len(digest))
        if found is None:
            self._refuse(number, f"a digest of {len(digest)} digits may be of several algorithms: say which")
        return "blake2b" if found == "b2" else found

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        number = 0
        with io.BufferedReader(as_file(self._open()), _BLOCK) as file:
            while line := file.readline(LONGEST + 1):
                number += 1
                if len(line) > LONGEST:
                    self._refuse(number, f"a line of more than {LONGEST:,} bytes")
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")  # editors on Windows put it there
                # That of a name would be escaped: a carriage return at the end belongs to the line.
                yield number, line.removesuffix(b"\n").removesuffix(b"\r").lstrip(b" \t")

    def _split(self, number: int, line: bytes) -> tuple[str | None, str, str]:
        """The algorithm that is said, the path and the digest."""
        tag = None
        if match := _PLAIN.fullmatch(line):
            escaped, digest, path = match.groups()
        elif match := _TAGGED.fullmatch(line):
            escaped, said, path, digest = match.groups()
            try:
                tag = algorithm_named(said.decode("ascii"))
            except ConfigError as error:
                self._refuse(number, str(error))
        else:
            self._refuse(number, "neither 'DIGEST  NAME' nor 'ALGORITHM (NAME) = DIGEST'")
        if b"\0" in path:
            self._refuse(number, "a name with NUL in it: was the file written with --zero? Write it without")
        if escaped:
            path = _ESCAPE.sub(lambda found: self._unescaped(number, found[1]), path)
        below = self._below(path.decode("utf-8", "surrogateescape"))
        if not below:
            self._refuse(number, "the name of a folder, not of an object")
        return tag, below, digest.decode("ascii").lower()

    def _unescaped(self, number: int, char: bytes) -> bytes:
        if char not in _ESCAPED:
            self._refuse(number, "a backslash in an escaped name that is none of \\\\, \\n and \\r")
        return _ESCAPED[char]

    def _below(self, path: str) -> str:
        return _plain(path.removeprefix(self._base))

    def _refuse(self, number: int, what: str) -> NoReturn:
        raise ConfigError(f"{self.shown}, line {number}: {what}")


def _plain(path: str) -> str:
    found = _HERE.match(path)
    return path[found.end() :] if found else path


__all__ = ["LONGEST", "SumFile", "algorithm_named"]
