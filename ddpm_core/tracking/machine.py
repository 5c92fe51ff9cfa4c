"""How busy this machine is: a reading now and then, under the names that MLflow's UI knows."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

from ddpm_core.errors import ConfigError

_MB = 1e6
_CLOSE_TIMEOUT_S = 2.0


def require_interval(every_s: float) -> None:
    """Refuse an interval at which a thread would never sleep.

    Raises:
        ConfigError: `every_s` is not above 0.
    """
    if not every_s > 0:
        raise ConfigError(f"every_s={every_s} must be above 0 seconds; leave the sampler out")


class MachineSampler:
    """Reads this machine's load at an interval, in a thread of its own."""

    def __init__(self, report: Callable[[Mapping[str, float]], None], *, every_s: float) -> None:
        """Start the thread.

        Args:
            report: gets each reading; may not wait.
            every_s: seconds between two readings, above 0.

        Raises:
            ConfigError: if `every_s` is not above 0.
        """
        require_interval(every_s)
        self._report, self._every_s = report, every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="machine", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; a reading that hangs, as of a lost GPU, is not waited for."""
        self._stop.set()
        self._thread.join(_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        import psutil

        gpus = _Gpus()
        psutil.cpu_percent()  # the first call only sets the mark that the next one measures from
        while not self._stop.wait(self._every_s):
            memory = psutil.virtual_memory()
            self._report(
                {
                    "system/cpu_utilization_percentage": psutil.cpu_percent(),
                    "system/system_memory_usage_megabytes": memory.used / _MB,
                    "system/system_memory_usage_percentage": memory.percent,
                    **gpus.read(),
                }
            )


class _Gpus:
    """All NVIDIA GPUs of this machine; none without pynvml or a driver."""

    def __init__(self) -> None:
        self._handles: list[Any] = []
        try:
            import pynvml
        except ImportError:
            return
        self._nvml = pynvml
        try:
            pynvml.nvmlInit()
            count = pynvml.nvmlDeviceGetCount()
            self._handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        except pynvml.NVMLError:
            return

    def read(self) -> dict[str, float]:
        values: dict[str, float] = {}
        for index, handle in enumerate(self._handles):
            try:
                load = self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu
                memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
            except self._nvml.NVMLError:
                continue  # a GPU that is lost is the training's affair
            name = f"system/gpu_{index}"
            values[f"{name}_utilization_percentage"] = load
            values[f"{name}_memory_usage_megabytes"] = memory.used / _MB
            values[f"{name}_memory_usage_percentage"] = 100 * memory.used / memory.total
        return values
