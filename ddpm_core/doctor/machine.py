"""What this machine has: Python, packages, cores, memory, descriptors, and what torch can use."""

import resource
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from ddpm_core.doctor.finding import Finding, bad, look, ok
from ddpm_core.extras import APART, EXTRAS
from ddpm_core.machine import cores, memory_bytes, multiplies_bfloat16

_PYTHONS = ((3, 11), (3, 13))
_SHOWN = ("torch", "ray", "mlflow", "prefect", "webdataset", "s3fs")
_GIB = 2**30
_GOOD_MEMORY = 4 * _GIB
_GOOD_SHM = _GIB
_LEAST_DESCRIPTORS, _GOOD_DESCRIPTORS, _MOST_DESCRIPTORS = 256, 1024, 65536
_NVIDIA = Path("/proc/driver/nvidia/version")
_SHM = Path("/dev/shm")  # noqa: S108 - looked at, not written


def examined() -> Iterator[Finding]:
    """Yield what was found, the fast checks first."""
    yield _python()
    yield _packages()
    yield _cores()
    yield _memory()
    if _SHM.is_dir():
        yield _shared_memory(shutil.disk_usage(_SHM).total)
    yield _descriptors(*resource.getrlimit(resource.RLIMIT_NOFILE))
    yield _torch()
    from ddpm_core.doctor import fits  # with it comes torch

    yield fits.examined()


def _python(found: tuple[int, int] = (sys.version_info[0], sys.version_info[1])) -> Finding:
    first, last = (".".join(map(str, one)) for one in _PYTHONS)
    text = f"{sys.version.split()[0]} at {sys.prefix}"
    if _PYTHONS[0] <= found <= _PYTHONS[1]:
        return ok("Python", text)
    remedy = f"It has been tested with {first} to {last}; make the environment with one of these"
    return look("Python", text, remedy)


def _packages() -> Finding:
    missing = {extra for module, extra in EXTRAS.items() if find_spec(module) is None}
    missing.discard("lmdb")  # for one kind of source
    found = ", ".join(f"{name} {_version(name)}" for name in _SHOWN)
    apart = missing & APART
    if apart:
        found += f"; without what comes apart: {', '.join(sorted(apart))}"
    missing -= apart
    if not missing:
        return ok("packages", found)
    return look(
        "packages",
        f"{found}; the extras {', '.join(sorted(missing))} are not whole",
        "Install what a pipeline needs: pip install 'ddpm-pipeline[all]'",
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(none)"


def _cores() -> Finding:
    count = cores()
    if count > 1:
        return ok("cores", f"{count} for this process")
    return look(
        "cores",
        "1 for this process",
        "The recipes train with two workers: add --set compute.num_workers=1, or allow it more "
        "(a container's --cpus, taskset, the batch system's request)",
    )


def _memory() -> Finding:
    total = memory_bytes()
    if total is None:
        return ok("memory", "not said by this system")
    said = f"{total / _GIB:.1f} GiB for this process"
    if total >= _GOOD_MEMORY:
        return ok("memory", said)
    remedy = (
        "Each of two workers loads torch, and Ray, MLflow and Prefect have processes of their own: "
        "set compute.num_workers=1, run single stages without a flow, or allow it more"
    )
    return look("memory", said, remedy)


def _shared_memory(total: int) -> Finding:
    said = f"{total / _GIB:.2g} GiB of {_SHM}"
    if total >= _GOOD_SHM:
        return ok("shared memory", said)
    remedy = (
        "Ray keeps objects there, and on the disk where it is too small, which is slower: start "
        "the container with --shm-size=2g"
    )
    return look("shared memory", said, remedy)


def _descriptors(soft: int, hard: int) -> Finding:
    def shown(limit: int) -> str:
        return "without limit" if limit == resource.RLIM_INFINITY else f"{limit}"

    said = f"{shown(soft)}, may be raised to {shown(hard)}"
    if soft == resource.RLIM_INFINITY or soft >= _GOOD_DESCRIPTORS:
        return ok("open files", said)
    if hard == resource.RLIM_INFINITY or hard >= _GOOD_DESCRIPTORS:
        most = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
        remedy = f"Raise it before the command: ulimit -n {most}"
    else:
        remedy = (
            f"Have the limit of this machine raised to {_GOOD_DESCRIPTORS} or more "
            "(/etc/security/limits.conf, LimitNOFILE of the service, the container's --ulimit)"
        )
    return (look if soft >= _LEAST_DESCRIPTORS else bad)("open files", said, remedy)


def _torch() -> Finding:
    import torch  # it takes seconds

    said = f"torch {torch.__version__}"
    if torch.cuda.is_available():
        return _gpus(said)
    if torch.version.cuda is None and _NVIDIA.exists():
        return bad(
            "GPU",
            f"there is one, and {said} was built without CUDA",
            "Install torch from https://download.pytorch.org/whl/ for the driver's CUDA; or set "
            "compute.use_gpu=false",
        )
    if _NVIDIA.exists():
        return bad(
            "GPU",
            f"there is one, and {said} for CUDA {torch.version.cuda} cannot use it",
            "See whether nvidia-smi works here, whether CUDA_VISIBLE_DEVICES hides it, and "
            "whether the driver is as new as that CUDA",
        )
    threads = f"{said}, {torch.get_num_threads()} threads, no GPU"
    if not multiplies_bfloat16():
        return ok("GPU", threads)
    return ok(
        "GPU",
        f"{threads}; the processor multiplies matrices in bfloat16 (AMX): for networks as large as "
        "cifar10's, train.precision=bfloat16 trains about twice as fast",
    )


def _gpus(said: str) -> Finding:
    import torch

    cards = []
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        cards.append(f"{card.name} ({card.total_memory / _GIB:.0f} GiB, {card.major}.{card.minor})")
    text = f"{said}, {'; '.join(cards)}"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return ok("GPU", text)
    return look(
        "GPU",
        f"{text}; no arithmetic in bfloat16",
        "It trains in float32, also with train.precision=auto; train.precision=float16 is faster",
    )
