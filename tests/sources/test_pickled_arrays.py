import io
import os
import pickle  # noqa: TID251 - the oracle, and what must not be executed
import struct

import numpy as np
import pytest

from ddpm_core.errors import DataError
from ddpm_core.sources.pickled_arrays import read_pickled_arrays


def python2_batch(pixels, labels, *, order="C"):
    """A batch as Python 2 and the NumPy of its time pickled CIFAR-10's."""
    raw = pixels.tobytes(order)
    shape = b"".join(b"M" + struct.pack("<H", side) for side in pixels.shape)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09"
        b"(K\x01" + shape + b"\x86cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87Rq\x0b"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + (b"\x89" if order == "C" else b"\x88")
        + b"T" + struct.pack("<i", len(raw)) + raw + b"tb"
    )  # fmt: skip
    numbers = b"".join(b"K" + bytes([label]) for label in labels)
    return (
        b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03"
        b"U\x06labelsq\x04]q\x05(" + numbers + b"eU\x04dataq\x06" + array
        + b"U\x09filenamesq\x0c]q\x0d(U\x05a.pngU\x05b.pngeu."
    )  # fmt: skip


PIXELS = np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_batch_of_python_2_is_read(order):
    """Catches values in another order, and texts and numbers exchanged."""
    content = python2_batch(PIXELS, [3, 9], order=order)
    found = read_pickled_arrays(content, "data_batch_1")
    np.testing.assert_array_equal(found.pop(b"data"), PIXELS)
    assert found == {
        b"batch_label": b"training batch 1 of 5",
        b"labels": [3, 9],
        b"filenames": [b"a.png", b"b.png"],
    }
    oracle = pickle.loads(content, encoding="bytes")  # noqa: S301 - made above
    np.testing.assert_array_equal(oracle.pop(b"data"), PIXELS)
    assert oracle == found


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_python_3_writes_is_read(protocol):
    """Catches bytes as Python 3 spells them for old protocols, and instructions of new ones."""
    wanted = {
        b"data": PIXELS,
        "labels": [1, 255, 256, 70_000, -1],
        b"x": [True, None, "ä"],
        "e": [],
    }
    found = read_pickled_arrays(pickle.dumps(wanted, protocol), "x")
    np.testing.assert_array_equal(found.pop(b"data"), PIXELS)
    assert found == {
        b"labels": [1, 255, 256, 70_000, -1],
        b"x": [True, None, "ä".encode()],
        b"e": [],
    }


def executing(canary):
    """Pickles that would write the file `canary`, each in another way."""

    class Reduced:
        def __reduce__(self):
            return os.system, (f"touch {canary}",)

    class Built:
        def __reduce__(self):
            return os.mkdir, (str(canary),), {"x": 1}

    class Items:
        def __reduce__(self):
            return eval, (f"open({str(canary)!r}, 'w')",), None, iter([1]), iter([(1, 2)])

    path = str(canary).encode()
    command = b"touch " + path
    array = pickle.dumps(np.zeros(3, np.uint8), 2)
    return {
        "protocol 0": b"cos\nsystem\n(S'" + command + b"'\ntR.",
        "protocol 1": pickle.dumps({b"data": Reduced()}, 1),
        "protocol 2": pickle.dumps({b"data": Reduced()}, 2),
        "protocol 4": pickle.dumps({b"data": Reduced()}, 4),
        "as a key": b"}cos\nsystem\n(U" + bytes([len(command)]) + command + b"tRK\x01s.",
        "mkdir with a state": pickle.dumps({b"data": Built()}, 2),
        "eval with items": pickle.dumps([Items()], 4),
        "an instance": b"(U" + bytes([len(command)]) + command + b"ios\nsystem\n.",
        "an object": b"(cos\nsystem\nU" + bytes([len(command)]) + command + b"o.",
        "a new object": b"cbuiltins\nexec\n(U\x04pass" + b"t\x81.",
        "a new object by words": b"cbuiltins\nexec\n(U\x04passt}\x92.",
        "an extension": b"\x82\x01.",
        "a persistent thing": b"U\x01xQ.",
        "dotted": pickle.dumps(io.BytesIO, 4),
        "numpy's loader": array.replace(b"_reconstruct", b"fromfile"),
        "another of numpy's": b"cnumpy\nload\n(U" + bytes([len(path)]) + path + b"tR.",
        "objects in an array": pickle.dumps({"a": np.array([Reduced()], dtype=object)}, 2),
        "a subclass of ndarray": array.replace(b"cnumpy\nndarray\n", b"cnumpy\nmemmap\n"),
        "names from the stack": b"\x8c\x02os\x8c\x06system\x93\x8c" + bytes([len(command)])
        + command + b"\x85R.",
    }  # fmt: skip


@pytest.mark.parametrize("kind", executing("canary"))
def test_nothing_is_executed(kind, tmp_path):
    """Catches every way in which a pickle calls something."""
    content = executing(tmp_path / "canary")[kind]
    with pytest.raises(DataError, match=r"some\.pkl is a pickle .* Nothing of it was executed"):
        read_pickled_arrays(content, "some.pkl")
    assert not list(tmp_path.iterdir())


def test_the_canaries_would_sing(tmp_path):
    """Catches a list of pickles that do nothing anyway."""
    for kind in ("protocol 0", "protocol 2", "an object", "names from the stack"):
        canary = tmp_path / kind.replace(" ", "-")
        pickle.loads(executing(canary)[kind], encoding="bytes")  # noqa: S301 - made above
        assert canary.exists()
        canary.unlink()


def array_state(state):
    return (
        b"}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        + state + b"bs."
    )  # fmt: skip


F8 = b"cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R"
U1 = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
DAMAGED = {
    "empty": b"",
    "text": b"no pickle",
    "cut": python2_batch(PIXELS, [1, 2])[:-1],
    "cut in the array": python2_batch(PIXELS, [1, 2])[:3000],
    "protocol 6": b"\x80\x06}.",
    "no dictionary": b"].",
    "an empty stack": b".",
    "no mark": b"]e.",
    "too few": b"K\x01\x87.",
    "memo of nothing": b"h\x01.",
    "append to a dictionary": b"}K\x01a.",
    "items of a list": b"]K\x01K\x02s.",
    "a key without a value": b"}(K\x01u.",
    "a list as a key": b"}]K\x01s.",
    "a number as a key": b"}K\x01K\x02s.",
    "length below nothing": b"T\xff\xff\xff\xff.",
    "length beyond the end": b"B\xff\xff\xff\xff.",
    "length of 2**63": b"\x8e" + b"\xff" * 8 + b".",
    "endless": b"N" * (10**6 + 1),
    "no UTF-8": b"}X\x01\0\0\0\xffK\x01s.",
    "an array without a state": array_state(b"")[:-3] + b"s.",
    "shape that does not fit": array_state(b"(K\x01K\x05\x85" + U1 + b"\x89U\x04abcdt"),
    "shape below nothing": array_state(b"(K\x01J\xff\xff\xff\xff\x85" + U1 + b"\x89U\x00t"),
    "huge shape": array_state(b"(K\x01(" + b"J\xff\xff\xff\x7f" * 9 + b"t" + U1 + b"\x89U\x00t"),
    "shape of text": array_state(b"(K\x01U\x01a\x85" + U1 + b"\x89U\x01at"),
    "another type": array_state(b"(K\x01K\x01\x85" + F8 + b"\x89U\x08abcdefght"),
    "bytes that are a list": array_state(b"(K\x01K\x01\x85" + U1 + b"\x89]t"),
    "a state twice": array_state(
        b"(K\x01K\x01\x85" + U1 + b"\x89U\x01atb(K\x01K\x01\x85" + U1 + b"\x89U\x01at"
    ),
    "a state of a list": b"}U\x01a]}bs.",
    "a type that is a deep tuple": b"cnumpy\ndtype\n)" + b"\x85" * 300_000 + b"\x85R.",
    "a type that is a wide tuple": (
        b"cnumpy\ndtype\n)q\0" + b"h\0h\0\x86q\0" * 60 + b"\x85R."
    ),
    "a name that is a deep tuple": b")" + b"\x85" * 5000 + b"U\x01a\x93.",
    "a name that is a wide tuple": b")q\0" + b"h\0h\0\x86q\0" * 60 + b"U\x01a\x93.",
}  # fmt: skip


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_what_is_damaged_is_refused(content):
    """Catches a traceback, a loop without end, and memory taken for a number in the file."""
    with pytest.raises(DataError, match="Fetch the file again"):
        read_pickled_arrays(content, "x")


def test_no_flipped_byte_ends_in_anything_but_a_data_error():
    """Catches an instruction whose arguments are trusted: 3,000 mutants, made by seed."""
    whole = python2_batch(PIXELS[:, :30], [1, 2])
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(3000):
        content = bytearray(whole)
        for place in rng.integers(0, len(content), rng.integers(1, 4)):
            content[place] = rng.integers(0, 256)
        try:
            read_pickled_arrays(bytes(content), "x")
        except DataError:
            refused += 1
    assert refused > 1000
