"""Two ways to run the command: ``cli`` in this process, which is quick, and ``command`` as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from omnistorage.backends.memory import MemoryBackend
from omnistorage.cli import main
from omnistorage.config import register_backend
from omnistorage.core import ObjectInfo
from omnistorage.errors import BackendUnavailable, NotFound, PermissionDenied, StorageError

from ..waiting import LIMIT

ERRORS: dict[str, StorageError] = {
    "busy": BackendUnavailable("ask again"),
    "denied": PermissionDenied("no key, no entry"),
    "odd": StorageError("something else"),
    "nobucket": NotFound("no such bucket"),
}


class Failing(MemoryBackend):
    """``failing://busy/x`` fails with ``ERRORS["busy"]`` whatever is asked."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    @classmethod
    def options_from_url(cls, parts: Any, *, is_object: bool) -> tuple[dict[str, Any], str]:
        return {"kind": parts.netloc}, parts.path.lstrip("/")

    def _fail(self, op: str) -> Any:
        error = ERRORS[self.kind]
        raise type(error)(error.args[0], op=op, path="x")

    def _open_reader(self, path: str, options: Any) -> Any:
        self._fail("open_reader")

    def _open_writer(self, path: str, options: Any) -> Any:
        self._fail("open_writer")

    def _list_dir(self, path: str) -> Any:
        self._fail("list_dir")

    def _list(self, prefix: str, options: Any) -> Any:
        self._fail("list")

    def _exists(self, path: str) -> bool:
        return False

    def _stat(self, path: str) -> ObjectInfo:
        self._fail("stat")
        raise AssertionError

    def _delete(self, path: str, if_match: str | None) -> Any:
        self._fail("delete")


register_backend("failing", Failing)


@dataclass(frozen=True)
class Answer:
    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.decode().splitlines()


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the current one, and no configuration of the person at the keyboard."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("OMNISTORAGE_CONFIG", raising=False)
    return tmp_path


@pytest.fixture
def cli(box: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """Run ``main(argv)`` here. ``stdin`` is what it reads."""

    def run(*argv: str, stdin: bytes = b"") -> Answer:
        capfdbinary.readouterr()
        at = box.parent / f"{box.name}.stdin"
        at.write_bytes(stdin)
        with at.open() as file, monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", file)
            code = main(argv)
        at.unlink()
        out, err = capfdbinary.readouterr()
        return Answer(code, out, err.decode())

    return run


@pytest.fixture
def popen(box: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """Start the command as a process of its own."""

    def start(*argv: str, env: dict[str, str] | None = None, **kwargs: Any) -> subprocess.Popen[bytes]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            [sys.executable, "-m", "omnistorage", *argv], env={**os.environ, **(env or {})}, cwd=box, **(pipes | kwargs)
        )

    return start


@pytest.fixture
def command(popen: Callable[..., subprocess.Popen[bytes]]) -> Callable[..., Answer]:
    """Run the command as a process of its own, to its end."""

    def run(*argv: str, stdin: bytes = b"", **kwargs: Any) -> Answer:
        process = popen(*argv, **kwargs)
        out, err = process.communicate(stdin, timeout=LIMIT)
        return Answer(process.returncode, out, err.decode())

    return run
