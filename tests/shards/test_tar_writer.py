import io

import numpy as np
import pytest
from webdataset import TarWriter

from ddpm_core.shards.tar import members
from ddpm_core.shards.tar_writer import pack


def test_archives_are_those_of_webdataset_byte_for_byte():
    """Catches a wrong checksum, padding, owner or end: any byte that `TarWriter` has otherwise."""
    rng = np.random.default_rng(0)
    for count in (0, 1, 5, 40):
        files = [
            (f"train-{number:08d}.{extension}", rng.bytes(int(size)))
            for number, size in enumerate(rng.choice([0, 1, 511, 512, 513, 9000], count))
            for extension in ("png", "cls", "json")
        ]
        buffer = io.BytesIO()
        with TarWriter(buffer, user="ddpm", group="ddpm", mtime=0, encoder=False) as writer:
            for name, content in files:
                key, extension = name.split(".")
                writer.write({"__key__": key, extension: content})
        archive, offsets = pack(files)
        assert archive == buffer.getvalue()
        found = members(archive, origin="it")
        assert [member.offset for member in found] == offsets


@pytest.mark.parametrize("name", ["", "x" * 101])
def test_a_name_that_does_not_fit_is_refused(name):
    """Catches a name cut short, under which another file may lie already."""
    with pytest.raises(ValueError, match="a name must have 1 to 100 bytes"):
        pack([(name, b"")])
