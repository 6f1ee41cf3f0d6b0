"""Files of a local backend under test."""

from __future__ import annotations

from pathlib import Path

from omnistorage.backends.local import LocalBackend
from omnistorage.core import ListOptions, ReadOptions, WriteOptions

TEMPORARY = ".omnistorage-0123456789abcdef.tmp"


def put(backend: LocalBackend, path: str, data: bytes = b"x", options: WriteOptions | None = None) -> None:
    with backend.open_writer(path, options or WriteOptions()) as writer:
        writer.write(data)


def get(backend: LocalBackend, path: str, options: ReadOptions | None = None) -> bytes:
    with backend.open_reader(path, options or ReadOptions()) as reader:
        return reader.read()


def keys(backend: LocalBackend, prefix: str = "", **options: object) -> list[str]:
    return [info.path for info in backend.list(prefix, ListOptions(**options))]  # type: ignore[arg-type]


def plant(backend: LocalBackend, *paths: str) -> Path:
    root = Path(backend.root)
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    root.mkdir(exist_ok=True)
    return root


def temporaries(backend: LocalBackend) -> list[Path]:
    return list(Path(backend.root).rglob(".omnistorage-*"))
