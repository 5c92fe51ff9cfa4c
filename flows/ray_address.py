"""Check within half a minute that a cluster's Jobs API answers at an address."""

import http.client
import threading
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from ddpm_core.errors import ClusterError, ConfigError

_LIMIT_S = 25.0
_ANSWER_TIMEOUT_S = 10.0


def require_url(address: str) -> None:
    """Raise ConfigError unless `address` can be that of a dashboard."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"Ray address {address!r} must be the URL of the cluster's dashboard, e.g. "
            "http://ray-head:8265"
        )


def require_answer(address: str) -> None:
    """Return if a Ray answers at the URL, or requires a token, which the client of jobs sends.

    Raises:
        ConfigError: it is no URL of a dashboard.
        ClusterError: no answer, or a connection that is accepted and silent.
    """
    require_url(address)
    outcome = [f"no answer within {_LIMIT_S:g} s"]

    def ask() -> None:
        try:
            url = f"{address.rstrip('/')}/api/version"
            urllib.request.urlopen(url, timeout=_ANSWER_TIMEOUT_S).close()  # noqa: S310 - http(s)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code not in (401, 403):  # it is there, and requires a token
                outcome[0] = f"what answers is no Ray ({error.code} {error.reason})"
                return
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            outcome[0] = f"{reason or type(error).__name__}"
            return
        outcome[0] = ""

    # In a thread: neither the look-up of a name nor a server that drips has a limit of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_LIMIT_S)
    if outcome[0]:
        raise ClusterError(
            f"no Ray cluster answers at {address}: {outcome[0]}. --ray-address must be the URL of "
            "its dashboard, e.g. http://ray-head:8265; leave it away to use this machine alone"
        )
