"""The places of a random run: a folder, or a prefix of a bucket, with what is in it."""

import os
import shutil
from dataclasses import dataclass
from decimal import Decimal
from functools import cache

from omnistorage import LocalBackend, S3Backend
from omnistorage.wrappers.prefix import Prefix as PrefixBackend

from ..servers import server
from ..servers.s3 import bare
from .fuzz_cases import SECOND, File


@dataclass
class Folder:
    """A place on the local disk."""

    root: str

    def fill(self, tree):
        os.makedirs(self.root)
        for path, file in tree.items():
            whole = os.path.join(self.root, path)
            os.makedirs(os.path.dirname(whole), exist_ok=True)
            if file is not None:
                with open(whole, "wb") as out:
                    out.write(file.data)
                os.utime(whole, ns=(file.time, file.time))
        return self

    def held(self):
        """What is in it, in the form of ``Case.source``."""
        found = {}
        for folder, folders, names in os.walk(self.root):
            inside = os.path.relpath(folder, self.root)
            prefix = "" if inside == "." else f"{inside}/"
            if prefix and not folders and not names:
                found[prefix] = None
            for name in names:
                whole = os.path.join(folder, name)
                with open(whole, "rb") as file:
                    found[prefix + name] = File(file.read(), os.stat(whole).st_mtime_ns)
        return found

    def beside(self, name):
        return Folder(f"{self.root}-{name}")

    def backend(self):
        return LocalBackend(self.root)

    def for_rclone(self):
        return self.root

    def remove(self):
        shutil.rmtree(self.root, ignore_errors=True)


@dataclass
class Prefix:
    """A place in the bucket of the S3 server."""

    root: str

    def fill(self, tree):
        for path, file in tree.items():
            kept = f"{file.time // SECOND}.{file.time % SECOND:09d}"
            _client().put_object(
                Bucket=server("seaweedfs")["bucket"],
                Key=f"{self.root}/{path}",
                Body=file.data,
                Metadata={"mtime": kept},
            )
        return self

    def held(self):
        bucket, found = server("seaweedfs")["bucket"], {}
        for key in self._keys():
            answer = _client().get_object(Bucket=bucket, Key=key)
            kept = answer["Metadata"].get("mtime")
            time = None if kept is None else int(Decimal(kept) * SECOND)
            found[key.removeprefix(f"{self.root}/")] = File(answer["Body"].read(), time)
        return found

    def _keys(self):
        listed = _client().list_objects_v2(Bucket=server("seaweedfs")["bucket"], Prefix=f"{self.root}/")
        return [one["Key"] for one in listed.get("Contents", ())]

    def beside(self, name):
        return Prefix(f"{self.root}-{name}")

    def backend(self):
        return PrefixBackend(_bucket(), self.root)

    def for_rclone(self):
        info = server("seaweedfs")
        words = {
            "provider": "SeaweedFS",
            "access_key_id": info["access_key"],
            "secret_access_key": info["secret_key"],
            "endpoint": f"'{info['endpoint']}'",
            "no_check_bucket": "true",
        }
        said = ",".join(f"{name}={value}" for name, value in words.items())
        return f":s3,{said}:{info['bucket']}/{self.root}"

    def remove(self):
        if keys := [{"Key": key} for key in self._keys()]:
            _client().delete_objects(Bucket=server("seaweedfs")["bucket"], Delete={"Objects": keys})


@cache
def _client():
    """The SDK's client, which no code of ours is behind."""
    return bare(server("seaweedfs"))


@cache
def _bucket():
    info = server("seaweedfs")
    return S3Backend(
        info["bucket"],
        endpoint_url=info["endpoint"],
        access_key=info["access_key"],
        secret_key=info["secret_key"],
        vendor="seaweedfs",
        client="sdk",
    )
