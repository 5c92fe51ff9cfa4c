"""The Prefect API that a command line talks to: the configured one, or one of its own.

Imported before Prefect, which reads its settings from the environment when it is imported.
"""

import http.client
import json
import os
import ssl
import sys
import urllib.error
import urllib.request
from typing import Any

from ddpm_core.errors import ClusterError
from ddpm_core.servers.folders import private_folder
from ddpm_core.servers.server import Server
from ddpm_core.tracking.place import without_user
from flows import prefect_database

_ANSWER_TIMEOUT_S = 5.0
OWN = "DDPM_OWN_PREFECT"
"""variable that is set while the API is our own"""
API_FILE = "api.json"
"""name of the file by which `flows.embedded_prefect` says what it found or started"""


class PrefectApi:
    """Begins to look for an API, or to start one, when made; `use` waits for it."""

    def __init__(self) -> None:
        self._server: Server | None = None
        self._own: dict[str, str] | None = None
        self._before: dict[str, str] | None = None
        self._configured = os.environ.get("PREFECT_API_URL")
        if not self._configured:
            folder = private_folder()
            command = [sys.executable, "-m", "flows.embedded_prefect", str(folder)]
            # It begins in this directory, where a prefect.toml may be, and with this environment.
            self._server = Server("the Prefect API", command, folder, os.environ)

    def find(self) -> None:
        """Wait until it is known which API it is: one that answers, or our own, which will.

        Raises:
            ClusterError: the configured one does not answer.
        """
        if self._server is not None and self._own is None:
            found = self._server.wait_for(self._read_api)
            if "auth" in found:
                self._own = found
            else:  # a profile or a file names one, which Prefect will find by itself
                self._configured = found["url"]
        if self._configured:
            _require_answer(self._configured)

    def use(self) -> bool:
        """Wait until the API answers and point this process to it; True if it is our own.

        Raises:
            ClusterError: as `find`, or our own does not start.
        """
        self.find()
        if self._server is None or self._own is None:
            return False
        own = self._own
        self._server.wait_for(lambda: _answers(own["url"]))
        prefect_database.keep(self._server.folder)
        self._before = _prefect_variables()
        # A profile, or a setting for another server, must not reach into this one.
        for key in self._before:
            if not key.startswith("PREFECT_LOGGING_"):
                del os.environ[key]
        os.environ[OWN] = "true"
        os.environ["PREFECT_API_URL"] = own["url"]
        os.environ["PREFECT_API_AUTH_STRING"] = own["auth"]
        # It ends with that server, and the job's own log is kept.
        os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")
        os.environ["PREFECT_HOME"] = str(self._server.folder)  # not the user's ~/.prefect
        # It is on this machine: gone, it is gone for good, and the work goes on without it.
        os.environ["PREFECT_CLIENT_MAX_RETRIES"] = "2"
        return True

    def begin_close(self) -> None:
        """Have the server ended, if it is our own, and do not wait for that: `close` does."""
        if self._server is not None:
            self._server.begin_close()

    def close(self) -> None:
        """End the server, if it is our own, and take back what `use` changed."""
        if self._server is not None:
            self._server.close()
        os.environ.pop(OWN, None)
        if self._before is not None:
            for key in _prefect_variables():
                del os.environ[key]
            os.environ.update(self._before)

    def _read_api(self) -> dict[str, Any] | None:
        if self._server is None or not (self._server.folder / API_FILE).exists():
            return None
        found: dict[str, Any] = json.loads((self._server.folder / API_FILE).read_text())
        return found


def _require_answer(url: str) -> None:
    """Ask the configured API for a sign of life, once: Prefect itself ends in a traceback.

    Raises:
        ClusterError: there is none within seconds.
    """
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=_ANSWER_TIMEOUT_S):  # noqa: S310
            return
    except urllib.error.HTTPError as error:
        error.close()
        if error.code < 500:
            return  # whether it takes our key, and in which way, Prefect checks
        trouble: object = error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLError):
            return  # Prefect has settings of its own for certificates
        trouble = error.reason
    except (OSError, ValueError, http.client.HTTPException) as error:
        trouble = error
    raise ClusterError(
        f"PREFECT_API_URL is {without_user(url)}, and no Prefect API answers there: {trouble}. "
        "Start it (`prefect server start`), or let the flow have one of its own: `prefect config "
        "unset PREFECT_API_URL`, and `unset PREFECT_API_URL` if the environment has it"
    )


def _answers(url: str) -> bool | None:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=10):  # noqa: S310 - loopback
            return True
    except OSError:
        return None


def _prefect_variables() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key.startswith("PREFECT_")}
