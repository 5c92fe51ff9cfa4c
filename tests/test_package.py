"""What a cluster and a registered model get: the source, all of it, nothing else, always the same
bytes."""

import os
import subprocess
import sys
import zipfile

import pytest

from ddpm_core.errors import ConfigError
from ddpm_core.package import PACKAGE, write_package


def test_package_imports_from_the_zip_s_folder_alone(tmp_path):
    """Catches: a file that is needed and not sent."""
    target = tmp_path / "p.zip"
    write_package(target)
    with zipfile.ZipFile(target) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "there")
    assert "ddpm_core/__main__.py" in names
    assert not [name for name in names if "__pycache__" in name]
    shown = subprocess.run(
        [sys.executable, "-P", "-c", "import ddpm_core.cli; print(ddpm_core.__file__)"],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "there")}, capture_output=True, text=True,
    )  # fmt: skip
    assert shown.stdout.strip().startswith(str(tmp_path / "there")), shown.stderr
    assert target.stat().st_size < 5 * 2**20
    assert PACKAGE.name == "ddpm_core"


def test_same_source_is_the_same_package(tmp_path):
    """Catches: a new upload, and a new working directory, for each attempt."""
    source = tmp_path / "pkg"
    source.mkdir()
    (source / "a.py").write_text("1")
    (source / ".env").write_text("SECRET=1")
    (source / "__pycache__").mkdir()
    (source / "__pycache__/a.pyc").write_text("x")
    write_package(tmp_path / "1.zip", package=source)
    os.utime(source / "a.py", (0, 2e9))
    (source / "a.py").chmod(0o600)
    write_package(tmp_path / "2.zip", package=source)
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    assert zipfile.ZipFile(tmp_path / "1.zip").namelist() == ["pkg/a.py"]


def test_too_large_a_package_is_refused_with_the_largest_files(tmp_path):
    """Catches: an upload of 100 MiB that Ray refuses with a number."""
    (tmp_path / "weights.bin").write_bytes(bytes(2000))
    (tmp_path / "a.py").write_text("1")
    with pytest.raises(ConfigError, match=r"2,001 bytes[\s\S]*weights.bin"):
        write_package(tmp_path.parent / "x.zip", package=tmp_path, max_bytes=1000)
