"""MNIST and CIFAR-10 by path, and weights of other programs."""

import gzip
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from tests.corpus.case import Case, Content, bytes_of
from tests.corpus.image_cases import pickle_bomb

Files = Mapping[str, Content]
_SHARD = ("--root", "{here}/root", "--set", "data.source={here}/source")
_FEW = ("--set", "evaluate.num_likelihood_images=1")


def _writer(files: Files) -> Callable[[Path], None]:
    def make(here: Path) -> None:
        for name, content in files.items():
            path = here / "source" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes_of(content))

    return make


def _changed(files: Files, **changes: Content | None) -> Files:
    return {name: value for name, value in {**files, **changes}.items() if value is not None}


# -- CIFAR-10 ----------------------------------------------------------------------------------

_BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
_RECORDS = np.random.default_rng(0).integers(0, 10, (20, 3073), dtype=np.uint8).tobytes()
_BINARY = {f"{name}.bin": _RECORDS for name in _BATCHES}


def _tar_gz(files: Files) -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            about = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return gzip.compress(whole.getvalue(), 9, mtime=0)


def _cifar(name: str, files: Files, *says: str, code: int = 3) -> Case:
    return Case(f"cifar {name}", says, code, _writer(files), ("shard", "cifar10", *_SHARD, *_FEW))


_TRAIN_ONLY = _changed(_BINARY, **{"test_batch.bin": None})
_WHOLE = "cifar-10-binary.tar.gz"
CIFAR = (
    _cifar("read", _BINARY, "120/120 images", code=0),
    _cifar("archive read", {_WHOLE: _tar_gz(_BINARY)}, "120/120 images", code=0),
    _cifar("of nothing", {"notes.txt": b""}, "{here}/source", "data.source must be"),
    _cifar("without a batch", _changed(_BINARY, **{"data_batch_3.bin": None}), "data_batch_3.bin"),
    _cifar("cut", _changed(_BINARY, **{"test_batch.bin": _RECORDS[:-1]}), "test_batch.bin", "3073"),
    _cifar("empty", _changed(_BINARY, **{"data_batch_1.bin": b""}), "data_batch_1.bin", "3073"),
    _cifar(
        "of label 10",
        _changed(_BINARY, **{"data_batch_2.bin": b"\x0a" + _RECORDS[1:]}),
        "data_batch_2.bin",
        "the label 10",
        "0..9",
    ),
    _cifar("archive cut", {_WHOLE: _tar_gz(_BINARY)[:-30]}, _WHOLE, "again"),
    _cifar("archive of text", {_WHOLE: b"hello" * 99}, _WHOLE, "again"),
    _cifar("archive without a batch", {_WHOLE: _tar_gz(_TRAIN_ONLY)}, "test_batch.bin"),
    _cifar("of pickles that run", {name: pickle_bomb() for name in _BATCHES}, _WHOLE, "pickles"),
)

# -- MNIST -------------------------------------------------------------------------------------


def _idx(count: int, *sides: int, values: bytes) -> bytes:
    return struct.pack(f">{2 + len(sides)}I", 0x801 + len(sides), count, *sides) + values


_IMAGES, _LABELS = _idx(20, 28, 28, values=bytes(20 * 784)), _idx(20, values=bytes(20))
_MNIST = {
    "train-images-idx3-ubyte": _IMAGES,
    "train-labels-idx1-ubyte": _LABELS,
    "t10k-images-idx3-ubyte": _IMAGES,
    "t10k-labels-idx1-ubyte": _LABELS,
}


def _mnist(name: str, changes: Mapping[str, Content | None], *says: str, code: int = 3) -> Case:
    files = _changed(_MNIST, **changes)
    return Case(f"mnist {name}", says, code, _writer(files), ("shard", "mnist", *_SHARD, *_FEW))


_TRAIN, _TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
MNIST = (
    _mnist("read", {}, "40/40 images", code=0),
    _mnist("without a file", {_TRAIN: None}, _TRAIN, "data.source must be"),
    _mnist("empty", {_TRAIN: b""}, _TRAIN, "again"),
    _mnist("cut", {_TRAIN: _IMAGES[:-1]}, _TRAIN, "must have 15696 bytes", "again"),
    _mnist("with more", {_TRAIN: _IMAGES + b"x"}, _TRAIN, "again"),
    _mnist("of 4 billion", {_TRAIN: _idx(2**32 - 1, 28, 28, values=b"")}, _TRAIN, "N in 1..131072"),
    _mnist("of 27 rows", {_TRAIN: _idx(20, 27, 28, values=bytes(9999))}, _TRAIN, "again"),
    _mnist("of floats", {_TRAIN: b"\0\0\x0d\3" + _IMAGES[4:]}, _TRAIN, "again"),
    _mnist("of label 10", {_TRAIN_LABELS: _idx(20, values=b"\x0a" * 20)}, _TRAIN_LABELS, "0..9"),
    _mnist("of fewer labels", {_TRAIN_LABELS: _idx(9, values=bytes(9))}, "20 images", "9 labels"),
    _mnist(
        "of a gzip cut",
        {_TRAIN: None, f"{_TRAIN}.gz": gzip.compress(_IMAGES, mtime=0)[:-9]},
        f"{_TRAIN}.gz",
        "again",
    ),
    _mnist(
        "of a gzip bomb",
        {_TRAIN: None, f"{_TRAIN}.gz": lambda: gzip.compress(_IMAGES + bytes(2**26), mtime=0)},
        f"{_TRAIN}.gz",
        "more",
    ),
)

# -- weights -----------------------------------------------------------------------------------


def _npz(**arrays: np.ndarray) -> bytes:
    whole = io.BytesIO()
    np.savez(whole, **arrays)
    return whole.getvalue()


def _npy_in_zip(header: bytes, content: bytes = b"", name: str = "a.npy") -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        text = header.ljust(117) + b"\n"
        npy = b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + content
        archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), npy)
    return whole.getvalue()


def _weights(name: str, source: str, files: Files, *says: str, code: int = 4) -> Case:
    arguments = ("import-weights", f"{{here}}/source/{source}", "digits", "--run", "theirs")
    arguments += ("--root", "{here}/root", "--dry-run")
    return Case(f"weights {name}", says, code, _writer(files), arguments)


def _npz_case(name: str, content: bytes, *says: str) -> Case:
    return _weights(f"npz {name}", "a.npz", {"a.npz": content}, "a.npz", *says)


def _folder(name: str, files: Files, *says: str, code: int = 4) -> Case:
    return _weights(f"folder {name}", "", files, *says, code=code)


_OBJECTS = np.array([Path("/")], dtype=object)
_SAFE = "diffusion_pytorch_model.safetensors"


def _one(**changes: object) -> dict[str, object]:
    return {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **changes}}


def _tensors(header: object) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(16)


def _without_weights(more: Files) -> Files:
    return {"config.json": b"{}", "scheduler_config.json": b"{}", **more}


def _config(content: bytes) -> Files:
    return _without_weights({"config.json": content, _SAFE: _tensors(_one())})


def _safetensors(name: str, content: bytes) -> Case:
    files = _without_weights({_SAFE: content})
    return _folder(f"of safetensors {name}", files, _SAFE, "fetch it again")


WEIGHTS = (
    _weights("that are not there", "a.npz", {}, "a.npz", "give"),
    _npz_case("empty", b""),
    _npz_case("of text", b"hello" * 99),
    _npz_case("cut", _npz(a=np.zeros(9, np.float32))[:-30]),
    _npz_case("of nothing", _npz()),
    _npz_case("of other names", _npz(a=np.zeros(9, np.float32))),
    _npz_case("of objects", _npz(a=_OBJECTS)),
    _npz_case(
        "of a pickle that runs",
        _npy_in_zip(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", pickle_bomb()),
    ),
    _npz_case(
        "that says 8 EB",
        _npy_in_zip(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2305843009213693952,), }"),
    ),
    _npz_case(
        "of a negative shape",
        _npy_in_zip(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }"),
    ),
    _npz_case("of a program", _npy_in_zip(b"__import__('os').system('touch canary')")),
    _npz_case("of brackets", _npy_in_zip(b"(" * 9000)),
    _npz_case("of balanced brackets", _npy_in_zip(b"(" * 4500 + b")" * 4500)),
    _npz_case(
        "bomb",
        _npy_in_zip(
            b"{'descr': '<f4', 'fortran_order': False, 'shape': (4194304,), }", bytes(2**24)
        ),
    ),
    _folder("of nothing", {"notes.txt": b""}, "diffusers has written", code=2),
    _folder("without weights", _without_weights({}), _SAFE, "save_pretrained"),
    _folder(
        "of a pickle that runs",
        _without_weights({"diffusion_pytorch_model.bin": pickle_bomb()}),
        "diffusion_pytorch_model.bin",
        "would have to be unpickled",
    ),
    _folder(
        "of another pipeline",
        {"model_index.json": b'{"unet": [], "vae": []}'},
        "model_index.json",
        "unet, vae",
        code=2,
    ),
    _folder("of a config with a key twice", _config(b'{"a": 1, "a": 2}'), "config.json", code=2),
    _folder("of a config of NaN", _config(b'{"a": NaN}'), "config.json", "finite", code=2),
    _folder("of a config of brackets", _config(b"[" * 10**5), "config.json", "32 levels", code=2),
    _folder("of a config of nothing", _config(b"{}"), "the network of", "{here}/source", code=2),
    _safetensors("empty", b""),
    _safetensors("of text", b"hello" * 99),
    _safetensors("of a header of 2^63 bytes", b"\xff" * 7 + b"\x7f" + b"{}"),
    _safetensors("of a header of 2^32 bytes", struct.pack("<Q", 2**32) + b"{}"),
    _safetensors("of a header that is a list", _tensors([1])),
    _safetensors("of a header of brackets", struct.pack("<Q", 10**5) + b"[" * 10**5),
    _safetensors("of a tensor beyond its end", _tensors(_one(data_offsets=[0, 400]))),
    _safetensors("of a negative offset", _tensors(_one(data_offsets=[-4, 12]))),
    _safetensors("of an offset of 2^64", _tensors(_one(data_offsets=[0, 2**64]))),
    _safetensors("of overlapping tensors", _tensors({**_one(), "b": _one()["a"]})),
    _safetensors("of a shape that is more than its bytes", _tensors(_one(shape=[9]))),
    _safetensors("of a shape whose product is 0 modulo 2^64", _tensors(_one(shape=[2**32] * 2))),
    _safetensors("of objects", _tensors(_one(dtype="O"))),
    _safetensors("cut", _tensors(_one())[:-1]),
)

CASES = (*CIFAR, *MNIST, *WEIGHTS)
