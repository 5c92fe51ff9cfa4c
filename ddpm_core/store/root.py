"""What a user may write for the place of a store: a path, or `s3://bucket/prefix`; else why not."""

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ddpm_core.errors import ConfigError
from ddpm_core.store.disk import REMEDIES
from ddpm_core.store.store import KEY_PART

BUCKET = r"(?:[A-Za-z0-9_]+:)?[A-Za-z0-9][A-Za-z0-9._-]{2,254}"
"""a bucket that a server may have: old ones have more letters than S3 gives today, and those of
Ceph may be of a tenant"""
BUCKET_RULE = (
    "a bucket is 3 to 255 letters, digits and . _ -, the first a letter or digit, on Ceph perhaps "
    "with tenant: before it"
)
_HOST_AND_PORT = r"[^:]*:[0-9]{2,5}"
_ACCEPTED = "a path, file:///absolute/path, or s3://bucket/prefix"


def local_root(uri: str) -> Path:
    """Return the absolute folder that `uri` means, or raise ConfigError."""
    text = uri
    if uri.startswith("file:///"):
        if re.search("[?#]", uri):
            raise _refused(uri, "in a URI of a file, ? is written %3F and # is written %23")
        text = unquote(urlsplit(uri).path)
    elif re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", uri):
        raise _refused(uri)
    if not text.strip() or "\0" in text:
        raise _refused(uri)
    try:
        # Not resolve(): where a symlink points may differ on another machine.
        root = Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100
    except RuntimeError as error:
        raise ConfigError(f"{uri!r}: {error} Give {_ACCEPTED}") from None
    try:
        is_file = root.exists() and not root.is_dir()
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "give another")
        shown = f"{str(root)[:300]!r}"
        raise ConfigError(f"root {shown} cannot be looked at: {error.strerror}; {remedy}") from None
    if is_file:
        raise ConfigError(f"{root} is a file; give a folder, or s3://bucket/prefix")
    return root


def bucket_and_prefix(uri: str) -> tuple[str, str]:
    """Return bucket and prefix ("" for none) of `s3://bucket/prefix`, or raise ConfigError."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    prefix = prefix.removesuffix("/")
    if not uri.startswith("s3://"):
        raise _refused(uri)
    if re.fullmatch(_HOST_AND_PORT, bucket):
        raise _refused(uri, "a host and its port are given by AWS_ENDPOINT_URL, not in the URI")
    if not re.fullmatch(BUCKET, bucket):
        raise _refused(uri, BUCKET_RULE)
    if prefix and not all(KEY_PART.fullmatch(part) for part in prefix.split("/")):
        raise _refused(
            uri,
            "a prefix is parts of letters, digits and . _ + = - joined by single slashes, none "
            "starting with a dot",
        )
    return bucket, prefix


def _refused(uri: str, rule: str = "") -> ConfigError:
    # What may hold a password is not repeated.
    shown = "this storage URI" if re.search("[@?#]", uri) else f"storage URI {uri[:300]!r}"
    why = f" ({rule})" if rule else ""
    return ConfigError(
        f"{shown} is not understood{why}; give {_ACCEPTED}, without user, password or options: "
        "credentials come from the environment or the AWS files"
    )
