"""What servers that speak the API of Google Cloud Storage keep, and so what a backend can do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from omnistorage.core import Features


@dataclass(frozen=True)
class Vendor:
    """What a server is known to keep.

    Attributes:
        conditional_writes: Generation preconditions of writes. None: it is tried.
        conditional_uploads: Those at the end of resumable uploads.
        conditional_copies: Those of deletes and copies.
        ordered_listing: Listings in the order of the names' bytes.
        resumes: The status of resumable uploads can be asked for.
        batches: The batch endpoint.
        xml: The XML API.
        ids: Each answer has ``X-GUploader-UploadID``.
        bodies: A deletion is answered with 200 and a document.
    """

    conditional_writes: bool | None = False
    conditional_uploads: bool = False
    conditional_copies: bool = False
    ordered_listing: bool = False
    resumes: bool = False
    batches: bool = False
    xml: bool = False
    ids: bool = False
    bodies: bool = False


VENDORS = {
    "google": Vendor(
        conditional_writes=True,
        conditional_uploads=True,
        conditional_copies=True,
        ordered_listing=True,
        resumes=True,
        batches=True,
        xml=True,
        ids=True,
    ),
    # It looks at conditions when an upload begins and not when it ends, its answer to a status query publishes what has
    # arrived so far, and its batch endpoint is broken (1.54).
    "fake-gcs-server": Vendor(conditional_writes=True, ordered_listing=True, bodies=True),
    "other": Vendor(conditional_writes=None),
}


def features_of(creates: bool, conditional: bool, ordered: bool) -> Features:
    return Features(
        read=True,
        write=True,
        delete=True,
        list=True,
        sorted_list=ordered,
        list_seek=ordered,
        stat=True,
        copy=True,
        move=True,
        range_read=True,
        lazy_read=True,
        atomic_write=True,
        create_only=creates,
        if_match=conditional,
        user_metadata=True,
        purge=True,
        hashes=frozenset({"md5", "crc32c"}),
        modified_precision=timedelta(milliseconds=1),
    )
