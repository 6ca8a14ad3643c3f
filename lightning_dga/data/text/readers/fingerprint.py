"""A fingerprint of files by their names, sizes and modification times, without reading them."""

import hashlib
from collections.abc import Iterable

import fsspec

# keys under which fsspec file systems report a content hash or the last modification
_CHANGES = ("mtime", "LastModified", "last_modified", "updated", "ETag", "etag", "md5Hash", "generation", "version_id")


def fingerprint(urls: Iterable[str]) -> str:
    """A digest of files that changes if one of them is rewritten, added, renamed or removed.

    Args:
        urls: Paths on this machine, or URLs that ``fsspec`` knows.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    digest = hashlib.sha256()
    for url in urls:
        system, path = fsspec.core.url_to_fs(url)
        info = system.info(path)
        changes = [f"{key}={info[key]}" for key in _CHANGES if info.get(key) is not None]
        digest.update("\0".join([url, str(info.get("size")), *changes, ""]).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
