import tarfile

import numpy as np
import pytest

from ddpm_core.errors import DataError
from ddpm_core.images.image_facts import MAX_MEMBER_BYTES
from ddpm_core.shards.tar import BLOCK_BYTES, members
from tests.sharding.small import tar_of

FILES = {"a.png": b"x" * 700, "a.cls": b"3", "b.png": b"", "c.json": b"{}" * 256}


def with_header(archive, *, at=0, **fields):
    """The archive with fields of one header replaced and its checksum made right again."""
    where = {"name": (0, 100), "size": (124, 12), "type": (156, 1), "magic": (257, 8)}
    where |= {"prefix": (345, 155)}
    header = bytearray(archive[at : at + BLOCK_BYTES])
    for field, value in fields.items():
        start, length = where[field]
        header[start : start + length] = value.ljust(length, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return archive[:at] + bytes(header) + archive[at + BLOCK_BYTES :]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT])
def test_members_finds_what_tarfile_wrote(form, tmp_path):
    """Catches a wrong offset, a wrong rounding to blocks, and a magic that is not known."""
    path = tmp_path / "some.tar"
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in FILES.items():
            (tmp_path / name).write_bytes(content)
            archive.add(tmp_path / name, name)
    data = path.read_bytes()
    found = members(data, origin="some.tar")
    assert {m.name: data[m.offset : m.offset + m.size] for m in found} == FILES
    assert [m.name for m in found] == list(FILES)


def good():
    return tar_of(FILES)


BAD = {
    "empty file": b"",
    "no end": good()[: 8 * BLOCK_BYTES],
    "one end block": good()[: 9 * BLOCK_BYTES],
    "cut inside a member": good()[:1000],
    "cut inside a header": good()[: 3 * BLOCK_BYTES + 100],
    "cut inside the end": good()[:-100],
    "garbage after the end": good() + b"garbage".ljust(BLOCK_BYTES),
    "second archive after the end": good() + good(),
    "checksum": good()[:10] + b"x" + good()[11:],
    "no ustar": with_header(good(), magic=b"oldtar"),
    "negative size": with_header(good(), size=b"-0000000001"),
    "binary negative size": with_header(good(), size=b"\xff" * 12),
    "binary size": with_header(good(), size=b"\x80" + b"\0" * 10 + b"\x01"),
    "no size": with_header(good(), size=b""),
    "size with an underscore": with_header(good(), size=b"000000_1274"),
    "size beyond the end": with_header(good(), size=b"%011o" % 100_000),
    "size over the limit": with_header(good(), size=b"%011o" % (MAX_MEMBER_BYTES + 1)),
    "hard link": with_header(good(), type=b"1"),
    "symbolic link": with_header(good(), type=b"2"),
    "device": with_header(good(), type=b"3"),
    "folder": with_header(good(), type=b"5"),
    "fifo": with_header(good(), type=b"6"),
    "pax header": with_header(good(), type=b"x"),
    "GNU long name": with_header(good(), type=b"L"),
    "GNU sparse": with_header(good(), type=b"S"),
    "no name": with_header(good(), name=b""),
    "newline in the name": with_header(good(), name=b"a\nb.png"),
    "name is no ASCII": with_header(good(), name="ä.png".encode()),
    "long name": with_header(good(), prefix=b"some/folder"),
    "compressed": b"\x1f\x8b" + bytes(BLOCK_BYTES * 2 - 2),
    "zip": b"PK\x03\x04" + bytes(BLOCK_BYTES * 2 - 4),
}


@pytest.mark.parametrize("archive", BAD.values(), ids=BAD)
def test_members_refuses_what_is_no_plain_archive(archive):
    """Catches each way in which tarfile is too kind: it follows, allocates, loops or overlooks."""
    with pytest.raises(DataError, match=r"bad\.tar .*at byte \d+ .*; expected .*again"):
        members(archive, origin="bad.tar")


def test_members_refuses_a_member_over_the_limit_though_it_is_all_there():
    """Catches a limit that only the length of the archive sets."""
    archive = tar_of({"a.png": bytes(MAX_MEMBER_BYTES)})
    assert members(archive, origin="big.tar")[0].size == MAX_MEMBER_BYTES
    archive = tar_of({"a.png": bytes(MAX_MEMBER_BYTES + 1)})
    with pytest.raises(DataError, match=f"at most {MAX_MEMBER_BYTES}"):
        members(archive, origin="big.tar")


def test_members_skips_folders_and_headers_with_skip_others():
    """Catches a refusal of the folder that an archive from elsewhere begins with."""
    archive = with_header(good(), type=b"x")
    found = members(archive, origin="some.tar", skip_others=True)
    assert [member.name for member in found] == ["a.cls", "b.png", "c.json"]


def test_members_of_a_changed_archive_are_inside_it_or_refused():
    """Catches a crash, a hang, or an offset outside, for one changed byte anywhere."""
    archive, rng = good(), np.random.default_rng(0)
    for _ in range(3000):
        at, value = int(rng.integers(len(archive))), int(rng.integers(256))
        changed = archive[:at] + bytes([value]) + archive[at + 1 :]
        try:
            found = members(changed, origin="changed.tar")
        except DataError:
            continue
        assert all(0 <= m.offset <= m.offset + m.size <= len(changed) for m in found)
