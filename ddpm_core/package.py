"""The source of this program as one reproducible zip: for a cluster, and in a registered model.

Not the project's folder: what else lies there (data, runs, a .env with keys) is none of the
cluster's business, and Ray refuses more than 100 MiB.
"""

import zipfile
from pathlib import Path

import ddpm_core
from ddpm_core.errors import ConfigError

MAX_BYTES = 100 * 2**20
"""what the Ray dashboard takes in one upload"""
PACKAGE = Path(ddpm_core.__file__ or "").parent
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_package(target: Path, *, package: Path = PACKAGE, max_bytes: int = MAX_BYTES) -> None:
    """Write `package` to the zip `target`; the same source always gives the same bytes.

    Raises:
        ConfigError: if it is larger than `max_bytes`, naming the largest files.
    """
    files = sorted(path for path in package.rglob("*") if _is_source(path, package))
    total = sum(path.stat().st_size for path in files)
    if total > max_bytes:
        largest = sorted(files, key=lambda path: path.stat().st_size, reverse=True)[:10]
        lines = "\n".join(f"  {path.stat().st_size:>12,} {path}" for path in largest)
        raise ConfigError(
            f"{package} has {total:,} bytes; a cluster is sent at most {max_bytes:,}. "
            f"Move data out of it; the largest files:\n{lines}"
        )
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            name = f"{package.name}/{path.relative_to(package).as_posix()}"
            info = zipfile.ZipInfo(name, date_time=_EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, path.read_bytes())


def _is_source(path: Path, package: Path) -> bool:
    parts = path.relative_to(package).parts
    return path.is_file() and not any(p == "__pycache__" or p.startswith(".") for p in parts)
