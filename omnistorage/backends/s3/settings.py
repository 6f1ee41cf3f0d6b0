"""Where an S3 server is, as the environment and the options say.

The SDK's variables and configuration files are read as it reads them:
https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from omnistorage.backends.object_store.endpoints import split_endpoint
from omnistorage.core.secret import Secret

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""The variables that name a server, the first one that is set."""
_FILES = (("AWS_CONFIG_FILE", "~/.aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"))


def configured_endpoint(profile: str | None) -> str | None:
    """The server that the environment or the configuration of ``profile`` names; None for AWS."""
    if os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return None
    for name in ENDPOINTS:
        if os.environ.get(name):
            return os.environ[name]
    return _in_files(profile) if any(map(_speaks_of_one, _FILES)) else None


def _speaks_of_one(file: tuple[str, str]) -> bool:
    """Whether a file holds the word at all: the SDK takes a tenth of a second to read it."""
    try:
        with open(os.path.expanduser(os.environ.get(file[0]) or file[1]), encoding="utf-8", errors="replace") as opened:
            return "endpoint_url" in opened.read()
    except OSError:
        return False


def _in_files(profile: str | None) -> str | None:
    try:
        from botocore.exceptions import BotoCoreError
        from botocore.session import Session
    except ImportError:  # what is missing is told when a client is made
        return None
    try:
        session = Session(profile=profile)
        scoped: Mapping[str, Any] = session.get_scoped_config()
        services: Mapping[str, Any] = session.full_config.get("services", {}).get(scoped.get("services"), {})
    except BotoCoreError:  # so is a profile that is not there
        return None
    if str(scoped.get("ignore_configured_endpoint_urls", "")).lower() == "true":
        return None
    own = services.get("s3")
    found = own.get("endpoint_url") if isinstance(own, Mapping) else None
    return found or scoped.get("endpoint_url") or None


def root_url(endpoint_url: str | None, bucket: str, prefix: str) -> str:
    """Two backends with the same URL have the same root."""
    below = f"{bucket}/{prefix}/" if prefix else f"{bucket}/"
    if endpoint_url is None:
        return f"s3://{below}"
    parts = split_endpoint(endpoint_url, "endpoint_url (or AWS_ENDPOINT_URL)", "access_key and secret_key")
    return f"s3+{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}/{below}"


def as_secret(value: Secret | str | None) -> Secret | None:
    return Secret(value) if isinstance(value, str) else value


def revealed(value: Secret | None) -> str | None:
    return None if value is None else value.reveal()
