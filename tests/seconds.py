"""Where the time of a test session went: the seconds of its files, printed at its end."""

from collections import defaultdict

import pytest

SHOWN = 25


def pytest_terminal_summary(terminalreporter):
    """Print the slowest files, all others as one, and how long each process was at work."""
    files, workers = seconds_of(terminalreporter.stats)
    total = sum(files.values())
    if total < 1:
        return
    terminalreporter.section("seconds of each file, its fixtures included")
    slowest = sorted(files.items(), key=lambda pair: -pair[1])
    for name, seconds in slowest[:SHOWN]:
        terminalreporter.write_line(f"{seconds:7.1f}  {name}")
    if rest := slowest[SHOWN:]:
        terminalreporter.write_line(f"{sum(s for _, s in rest):7.1f}  {len(rest)} other files")
    shares = ", ".join(f"{worker} {seconds:.0f}" for worker, seconds in sorted(workers.items()))
    terminalreporter.write_line(f"{total:7.1f}  in all" + (f": {shares}" if shares else ""))


def seconds_of(stats):
    """Return {file: seconds} and {process of xdist: seconds} of what pytest's reporter keeps."""
    files, workers = defaultdict(float), defaultdict(float)
    for reports in stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                files[report.nodeid.partition("::")[0]] += report.duration
                if worker := getattr(report, "worker_id", None):
                    workers[worker] += report.duration
    return files, workers
