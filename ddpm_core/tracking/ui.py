"""python -m ddpm_core.tracking.ui ROOT: MLflow's page with the runs of a root; `make ui`."""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

from ddpm_core.errors import ConfigError, PipelineError, StorageError
from ddpm_core.servers.port import HOST, require_free
from ddpm_core.store.storage import Store, open_store
from ddpm_core.tracking.outbox import say
from ddpm_core.tracking.place import (
    DATABASE_KEY,
    URI_VARIABLE,
    Home,
    find_home,
    is_database,
    prepare_environment,
    redacted,
    without_user,
)
from ddpm_core.tracking.receiver import Refused, Unreachable

_START_S = 120.0
_END_S = 10.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str] | None = None) -> int:
    """Say where the page is, serve it if no server does, and return the process's exit code."""
    parser = argparse.ArgumentParser(prog="python -m ddpm_core.tracking.ui")
    parser.add_argument("root", help="the root of the runs, e.g. ./runs")
    parser.add_argument("--port", default="5000", help="port on this machine (default: 5000)")
    options = parser.parse_args(arguments)
    try:
        return _show(options.root, options.port)
    except PipelineError as error:
        say(f"ui: {error}")
        return error.exit_code


def page_of_experiment(store: Store, home: Home, base: str) -> str:
    """Return the address of the list of runs, of which those that were killed get an end.

    The bare experiment's address is MLflow's page for agents.

    Raises:
        StorageError: the server or the database does not answer, or refuses.
    """
    prepare_environment()
    from mlflow import MlflowClient

    from ddpm_core.tracking.ending import end_killed
    from ddpm_core.tracking.mlflow_run import answers

    client = MlflowClient(home.uri)
    try:
        with answers():
            found = client.get_experiment_by_name(home.experiment)
        for line in end_killed(client, found.experiment_id, store) if found is not None else ():
            say(line)
    except (Unreachable, Refused) as error:
        raise StorageError(
            f"MLflow at {redacted(home.uri)} does not answer ({error}); see that it runs, or set "
            f"{URI_VARIABLE} to another"
        ) from error
    if found is None:
        return f"{base}/"
    return f"{base}/#/experiments/{found.experiment_id}/runs?workflowType=machine_learning"


def _show(root: str, port_text: str) -> int:
    port = _port(port_text)
    store = open_store(root)
    home = find_home(store)
    if home is None:
        raise ConfigError(
            f"{store.uri} is no folder, and {URI_VARIABLE} is not set; set it to the server of "
            "these runs, or give the root of others"
        )
    if home.database is not None and not store.exists(DATABASE_KEY):
        raise ConfigError(f"there is no {store.uri}/{DATABASE_KEY} yet; run the pipeline first")
    if home.uri.startswith(("http://", "https://")):
        page = page_of_experiment(store, home, without_user(home.uri).rstrip("/"))
        say(f"MLflow: {page}")
        _open(page)
        return 0
    if not is_database(home.uri):
        raise ConfigError(
            f"{URI_VARIABLE}={redacted(home.uri)!r} is a service with a page of its own; open "
            "that, or unset the variable for the runs in a local root"
        )
    require_free(port, option="make ui PORT=")
    page = page_of_experiment(store, home, f"http://{HOST}:{port}")
    return _serve(home, port, page)


def _serve(home: Home, port: int, page: str) -> int:
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port)]
    command += ["--workers", "1"]
    # Job execution is for MLflow's agents: eight processes, a traceback at Ctrl-C, and what they
    # leave in shared memory.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    # Not among the arguments, which every user of the machine sees: it may hold a password.
    environment["MLFLOW_BACKEND_STORE_URI"] = home.uri
    # A group of its own: at Ctrl-C the terminal would signal uvicorn, then MLflow's launcher would
    # again, and uvicorn ends with a traceback at the second signal.
    server = subprocess.Popen(  # noqa: S603 - no shell
        command, env=environment, stdin=subprocess.DEVNULL, process_group=0
    )
    for number in _SIGNALS:
        signal.signal(number, _interrupt)
    threading.Thread(target=_announce, args=(server, port, page), daemon=True).start()
    try:
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        _end_group(server)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """End the wait at the first signal; a second one would leave the server behind."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _end_group(server: "subprocess.Popen[bytes]") -> None:
    """End the launcher and the server, each with one signal; what stays after a while is killed."""
    for number, wait_s in ((signal.SIGTERM, _END_S), (signal.SIGKILL, 1.0)):
        deadline = time.monotonic() + wait_s
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
            while time.monotonic() < deadline:
                server.poll()  # else the launcher stays as a zombie, and its group is there
                os.killpg(server.pid, 0)
                time.sleep(0.05)


def _announce(server: "subprocess.Popen[bytes]", port: int, page: str) -> None:
    """Print and open the page once it is there, below what the server prints as it starts."""
    deadline = time.monotonic() + _START_S
    while server.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection((HOST, port), timeout=5).close()
        except OSError:
            time.sleep(0.2)
            continue
        say(f"MLflow: {page}   (Ctrl-C ends it)")
        _open(page)
        return


def _open(page: str) -> None:
    """Open the page in a browser with a window of its own, where a person is likely to see it."""
    has_desktop = sys.platform == "darwin" or os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY"}
    if has_desktop and sys.stdout.isatty():
        webbrowser.open(page)


def _port(text: str) -> int:
    port = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= port <= 65535:
        raise ConfigError(f"port {text!r} must be a number from 1 to 65535: make ui PORT=5001")
    return port


if __name__ == "__main__":
    sys.exit(main())
