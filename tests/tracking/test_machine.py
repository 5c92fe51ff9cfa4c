import sys
import threading
import types

import pytest

from ddpm_core.tracking.machine import MachineSampler


def first_reading():
    readings, come = [], threading.Event()

    def report(values):
        readings.append(dict(values))
        come.set()

    sampler = MachineSampler(report, every_s=0.05)
    assert come.wait(30)
    sampler.close()
    count = len(readings)
    assert not [one for one in threading.enumerate() if one.name == "machine"]
    assert len(readings) == count
    return readings[0]


def fake_driver(monkeypatch, *, broken=()):
    """A driver of two GPUs with the calls and the error of nvidia-ml-py."""

    class NVMLError(Exception):
        pass

    def memory(index):
        if index in broken:
            raise NVMLError("GPU is lost")
        return types.SimpleNamespace(used=4e9, total=16e9)

    module = types.ModuleType("pynvml")
    module.NVMLError = NVMLError
    module.nvmlInit = lambda: None
    module.nvmlDeviceGetCount = lambda: 2
    module.nvmlDeviceGetHandleByIndex = lambda index: index
    module.nvmlDeviceGetUtilizationRates = lambda index: types.SimpleNamespace(gpu=70 + index)
    module.nvmlDeviceGetMemoryInfo = memory
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module


def test_without_a_gpu_cpu_and_memory_are_read(monkeypatch):
    """Catches a sampler that needs pynvml, or a driver where there is none."""
    module = fake_driver(monkeypatch)

    def no_driver():
        raise module.NVMLError("driver not loaded")

    module.nvmlInit = no_driver
    names = {
        "system/cpu_utilization_percentage",
        "system/system_memory_usage_megabytes",
        "system/system_memory_usage_percentage",
    }
    values = first_reading()
    assert set(values) == names
    assert 0 < values["system/system_memory_usage_percentage"] <= 100
    monkeypatch.setitem(sys.modules, "pynvml", None)  # as if not installed
    assert set(first_reading()) == names


def test_each_gpu_is_read_and_one_that_is_lost_left_out(monkeypatch):
    """Catches one GPU for all, fractions for percent, and a lost GPU that ends the thread."""
    fake_driver(monkeypatch)
    values = first_reading()
    assert values["system/gpu_0_utilization_percentage"] == 70
    assert values["system/gpu_1_utilization_percentage"] == 71
    assert values["system/gpu_1_memory_usage_megabytes"] == 4000
    assert values["system/gpu_1_memory_usage_percentage"] == 25
    fake_driver(monkeypatch, broken=[0])
    values = first_reading()
    assert [key for key in values if "gpu_0" in key] == []
    assert values["system/gpu_1_utilization_percentage"] == 71


def test_the_package_that_reads_gpus_is_installed_and_quiet_where_there_are_none(capfd):
    """Catches GPUs whose load is never seen since nobody installs pynvml, and a machine without
    NVIDIA's driver on which the real package ends the thread or complains."""
    import pynvml

    assert issubclass(pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError)
    assert "system/cpu_utilization_percentage" in first_reading()
    assert capfd.readouterr() == ("", "")


@pytest.mark.gpu
def test_a_real_gpu_is_read(gpu):
    """Catches calls that the driver's package does not have, bytes for megabytes, fractions."""
    pytest.importorskip("pynvml")
    import torch

    block = torch.zeros(2**28, dtype=torch.uint8, device=gpu)  # 268 MB
    values = first_reading()
    in_all = torch.cuda.mem_get_info()[1] / 1e6
    used = values["system/gpu_0_memory_usage_megabytes"]
    assert len(block) / 1e6 < used <= 1.05 * in_all
    assert values["system/gpu_0_memory_usage_percentage"] == pytest.approx(
        100 * used / in_all, rel=0.05
    )
    assert 0 <= values["system/gpu_0_utilization_percentage"] <= 100
