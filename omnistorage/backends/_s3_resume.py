"""Uploads that another process takes up again. Imports floor 0 and shared bases.

A multipart upload stays at the store when its process dies, with all parts that had arrived. Whoever knows its id can
ask for them (ListParts) and go on behind the last of those that are there without a gap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from ..core import WriteOptions, Writer
from ..errors import ConfigError, NotFound
from ..paths import check_new
from ._object_client import Put, Upload
from ._object_streams import ObjectWriter, Parts
from ._objects import ObjectBackend
from ._s3_client import NAME, S3Client


class Resumes(ObjectBackend):
    """``ResumableWrite`` for ``S3Backend``."""

    def token_of(self, writer: Writer) -> Mapping[str, Any] | None:
        parts = writer._parts if isinstance(writer, ObjectWriter) else None
        if parts is None or not isinstance(writer, ObjectWriter):
            return None
        upload = parts.upload
        return {
            "key": upload.key,
            "upload": upload.id,
            "part_size": writer._part_size,
            "size": writer._options.size,
            "put": asdict(upload.put),
        }

    def resume_writer(self, path: str, token: Mapping[str, Any]) -> tuple[Writer, int]:
        self._enter("write", "resume_writer", path)
        self._checked(check_new(path, op="resume_writer"), "resume_writer")
        key = self._prefix + path
        try:
            put, size = Put(**token["put"]), token["size"]
            upload, part_size = Upload(token["key"], token["upload"], put), int(token["part_size"])
            if upload.key != key:
                raise ValueError("it is of another object")
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"this is no token of an upload: {error}", path=path, op="resume_writer") from error
        tags = self._arrived(path, upload, part_size)
        if not tags:
            raise NotFound("nothing of this upload is left", path=path, op="resume_writer", backend=NAME)
        options = WriteOptions(
            overwrite=not put.create,
            if_match=put.if_match,
            content_type=put.content_type,
            user_metadata=put.metadata,
            extra=put.extra,
            size=size,
        )
        return ObjectWriter.resumed(self, path, options, Parts(self, upload, path), tags, part_size), (
            len(tags) * part_size
        )

    def _arrived(self, path: str, upload: Upload, part_size: int) -> dict[int, str]:
        """The tags of the whole parts from the first one on that are there without a gap."""
        client = self.client
        assert isinstance(client, S3Client)
        found: dict[int, str] = {}
        token: Any = None
        while True:
            page, token = self.run("resume_writer", path, partial(client.tagged, upload, token))
            found |= {number: tag for number, size, tag in page if size == part_size}
            if token is None:
                break
        whole: dict[int, str] = {}
        while (number := len(whole) + 1) in found:
            whole[number] = found[number]
        return whole
