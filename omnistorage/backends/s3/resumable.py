"""Uploads that another process takes up again.

A multipart upload stays at the store when its process dies, with all parts that had arrived. Whoever knows its id can
ask for them (ListParts) and go on behind the last of those that are there without a gap.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any

from omnistorage.backends.object_store.backend import ObjectBackend
from omnistorage.backends.object_store.client import Put, Upload
from omnistorage.backends.object_store.writer import ObjectWriter, Parts, part_length
from omnistorage.core import SUSPENDED, Checkpoint, WriteOptions, Writer
from omnistorage.errors import ConfigError, CorruptData, InvalidPath, NotFound
from omnistorage.paths import check_new

from .client import S3Client
from .errors import NAME


class Resumes(ObjectBackend):
    """``ResumableWrite`` for ``S3Backend``."""

    def token_of(self, writer: Writer) -> Mapping[str, Any] | None:
        parts = writer.parts if isinstance(writer, ObjectWriter) else None
        if parts is None or not isinstance(writer, ObjectWriter):
            return None
        upload = parts.upload
        return {
            "key": upload.key,
            "upload": upload.id,
            "part_size": writer.first_part,
            "size": writer.size_hint,
            "put": asdict(upload.put),
        }

    def checkpoint(self, writer: Writer) -> Checkpoint:
        if not isinstance(writer, ObjectWriter):
            raise ConfigError("only a writer of this backend has a checkpoint here", op="checkpoint", backend=NAME)
        parts, tail = writer.checkpoint()
        token = self.token_of(writer)
        if parts is None or token is None:
            return Checkpoint(None, 0, tail)
        held = {"parts": parts.sent, "tags": _digest(parts.tags, parts.sent)}
        return Checkpoint({**token, **held}, writer.written - len(tail), tail)

    def resume_writer(self, path: str, token: Mapping[str, Any]) -> tuple[Writer, int]:
        self._enter("write", "resume_writer", path)
        upload, part_size, size, held = self._read_token(path, token, "resume_writer")
        put = upload.put
        tags = self._arrived(path, upload, part_size, bool(self.most_parts) and size is None)
        if not tags or len(tags) < (held or 0):
            raise NotFound("nothing of this upload is left", path=path, op="resume_writer", backend=NAME)
        if held is not None:
            tags = {number: tags[number] for number in range(1, held + 1)}
            if _digest(tags, held) != token.get("tags"):
                raise CorruptData("somebody else has gone on with this upload", path=path, op="resume_writer")
        options = WriteOptions(
            overwrite=not put.create,
            if_match=put.if_match,
            content_type=put.content_type,
            user_metadata=put.metadata,
            extra=put.extra,
            size=size,
        )
        kept = held is not None
        writer = ObjectWriter.resumed(self, path, options, Parts(self, upload, path), tags, part_size, kept=kept)
        return writer, writer.written

    def discard_write(self, path: str, token: Mapping[str, Any]) -> None:
        self._enter("write", "discard_write", path)
        upload = self._read_token(path, token, "discard_write")[0]
        with suppress(NotFound):
            self.run("abort", path, lambda: self.client.abort_upload(upload))

    def _read_token(self, path: str, token: Mapping[str, Any], op: str) -> tuple[Upload, int, int | None, int | None]:
        """The upload, the bytes of its first part, the announced size, and how many parts a checkpoint has."""
        self._checked(check_new(path, op=op), op)
        try:
            put, size, part_size, held = Put(**token["put"]), token["size"], token["part_size"], token.get("parts")
            upload = Upload(token["key"], token["upload"], put)
            if upload.key != self._prefix + path:
                raise ValueError("it is of another object")
            counts = [part_size, *(count for count in (size, held) if count is not None)]
            if any(type(count) is not int or count < 0 for count in counts) or not part_size:
                raise ValueError("it counts what cannot be")
            if not (isinstance(put.metadata, Mapping) and isinstance(put.extra, Mapping) and type(upload.id) is str):
                raise ValueError("its parts are of other types")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"this is no token of an upload: {error}", path=path, op=op) from error
        return upload, part_size, size, held

    def is_suspended(self, path: str) -> bool:
        """Whether somebody keeps a checkpoint of a writer of ``path``."""
        try:
            return next(iter(self.list(path + SUSPENDED)), None) is not None
        except InvalidPath:  # none of ours
            return False

    def _arrived(self, path: str, upload: Upload, first_part: int, grows: bool) -> dict[int, str]:
        """The tags of the whole parts from the first one on that are there without a gap."""
        client = self.client
        assert isinstance(client, S3Client)
        found: dict[int, str] = {}
        token: Any = None
        while True:
            page, token = self.run("resume_writer", path, partial(client.tagged, upload, token))
            found |= {number: tag for number, size, tag in page if size == part_length(first_part, number, grows)}
            if token is None:
                break
        whole: dict[int, str] = {}
        while (number := len(whole) + 1) in found:
            whole[number] = found[number]
        return whole


def _digest(tags: Mapping[int, str], count: int) -> str:
    """One for the tags of the first ``count`` parts, without the checksums that some clients add to them."""
    return hashlib.sha256("\n".join(tags[number].split(" ")[0] for number in range(1, count + 1)).encode()).hexdigest()
