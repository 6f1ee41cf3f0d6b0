"""What servers that speak S3's API keep, and so what a backend can do. Imports floor 0."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from ..core import Features


@dataclass(frozen=True)
class Vendor:
    """What a server is known to keep: conditions on writes (exactly one winner), those on the end of an upload, on
    copies and deletes too, listings in the order of the keys' bytes, that the ETag of a simple object is its MD5, that
    a backslash is none of its slashes, that it answers ranges as they are asked for, and so surely that even the first
    request of a read may be one; that each answer has ``x-amz-request-id``, and the operations whose documents it
    writes otherwise than S3 (``loose``); that it keeps metadata without a value, keys with an empty segment apart
    from those without, and keys with a slash at the end (``markers``), too. (SeaweedFS also keeps the folder of a
    deleted object for a while, and refuses meanwhile to create an object of that name under a condition.)"""

    conditional_writes: bool = False
    conditional_uploads: bool = False
    conditional_copies: bool = False
    ordered_listing: bool = False
    md5_etags: bool = False
    backslashes: bool = True
    ranges: bool = True
    ranged: bool = False
    request_ids: bool = False
    loose: frozenset[str] = frozenset()
    empty_metadata: bool = False
    empty_segments: bool = True
    markers: bool = True


VENDORS = {
    "aws": Vendor(
        conditional_writes=True,
        conditional_uploads=True,
        conditional_copies=True,
        ordered_listing=True,
        md5_etags=True,
        request_ids=True,
        empty_metadata=True,
    ),
    "moto": Vendor(
        ordered_listing=True, md5_etags=True, ranged=True, loose=frozenset({"ListParts"}), empty_metadata=True
    ),
    # Its answers to ranges say otherwise, and its lists of uploads never whether there are more.
    "rclone": Vendor(
        ranges=False, request_ids=True, loose=frozenset({"ListMultipartUploads", "ListParts"}), markers=False
    ),
    "seaweedfs": Vendor(
        conditional_writes=True,
        conditional_copies=True,
        md5_etags=True,
        backslashes=False,
        empty_segments=False,
        ranged=True,
        request_ids=True,
    ),
    "swift": Vendor(ordered_listing=True, md5_etags=True, request_ids=True),
    "other": Vendor(),
}


def features_of(vendor: Vendor, conditional: bool, ordered: bool, checksums: bool) -> Features:
    hashes = {"md5"} if vendor.md5_etags else set()
    if checksums:
        hashes |= {"crc32c", "sha1", "sha256"}
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
        create_only=conditional,
        if_match=conditional,
        user_metadata=True,
        purge=True,
        hashes=frozenset(hashes),
        modified_precision=timedelta(seconds=1),
    )
