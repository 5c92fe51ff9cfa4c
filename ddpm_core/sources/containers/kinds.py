"""What an archive is by its first or last bytes: looked at before all of it is read or fetched."""

from collections.abc import Callable

from ddpm_core.errors import DataError
from ddpm_core.images.names import shown
from ddpm_core.shards.tar import BLOCK_BYTES, END

_GZIP = b"\x1f\x8b"
_ZIP_ENTRY, _ZIP_END = b"PK\3\4", b"PK\5\6"
_ZIP_TAIL_BYTES = 22 + 2**16  # the end record, and the comment behind it
_OTHERS = {
    _ZIP_ENTRY: "a zip archive",
    _GZIP: "a gzip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a rar archive",
    b"(\xb5/\xfd": "a zstd file",
    b"<": "perhaps a page that says why it could not be downloaded",
    b"version https://git-lfs": "a pointer of Git LFS: fetch the file itself with `git lfs pull`",
}
_NUM_STARTING = max(map(len, _OTHERS))


def check_kind(suffix: str, size: int, read_at: Callable[[int, int], bytes], uri: str) -> None:
    """Refuse a file that is no archive of the kind that its name says.

    Args:
        suffix: of its name: .zip, .tar, .tar.gz or .tgz.
        size: its length in bytes.
        read_at: called with (first byte, number of bytes, at least 1), all of them in the file.
        uri: what to call it.

    Raises:
        DataError: it is something else.
    """
    if suffix == ".zip":
        length = min(size, _ZIP_TAIL_BYTES)
        if length and _ZIP_END in read_at(size - length, length):
            return
    start = read_at(0, min(size, BLOCK_BYTES)) if size else b""
    # Damage behind the beginning is reported better by the reader.
    marks = {
        ".zip": start.startswith(_ZIP_ENTRY),
        ".tar": start == END or start[257:262] == b"ustar",
    }
    if marks.get(suffix, start.startswith(_GZIP)):
        return
    found = next(
        (what for mark, what in _OTHERS.items() if start.startswith(mark)), "something else"
    )
    raise DataError(
        f"{shown(uri)} is no {suffix} archive, but {found}: it has {size} bytes and begins with "
        f"{start[:_NUM_STARTING]!r}. Fetch or make it again, or give it the name of what it is"
    )
