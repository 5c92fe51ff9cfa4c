"""What a run talks to, as the environment says: loopback, proxies, Ray, MLflow and Prefect."""

import http.client
import os
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

from ddpm_core.doctor.finding import Finding, bad, look, ok
from ddpm_core.errors import PipelineError
from ddpm_core.store.storage import Store
from ddpm_core.tracking import place

_LIMIT_S = 10.0
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def examined(store: Store | None) -> Iterator[Finding]:
    """Yield what was found; of a service that nothing names, who stands in for it.

    Args:
        store: the root, in which MLflow may lie; None: it cannot be used.
    """
    yield _loopback()
    yield _proxy()
    yield _ray()
    if store is not None:
        yield _mlflow(store)
    yield _prefect()


def _loopback() -> Finding:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), _LIMIT_S).close()
    except OSError as error:
        return bad(
            "loopback",
            f"a server on 127.0.0.1 cannot be reached: {error}",
            "Ray, MLflow and Prefect of a single machine are reached so: allow connections of this "
            "machine with itself (a sandbox or a firewall forbids them)",
        )
    return ok("loopback", "a server on 127.0.0.1 is reached")


def _proxy() -> Finding:
    named = [key for key in _PROXIES if os.environ.get(key) or os.environ.get(key.upper())]
    if not named:
        return ok("proxy", "none")
    services = {
        key: _host(os.environ.get(key, ""))
        for key in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "AWS_ENDPOINT_URL")
    }
    through = [
        f"{key} ({host})"
        for key, host in services.items()
        if host and not urllib.request.proxy_bypass(host)
    ]
    if not through:
        return ok("proxy", f"{', '.join(named)}; none of the services goes through it")
    return look(
        "proxy",
        f"{', '.join(named)}; requests to {', '.join(through)} go through it",
        "If the host is of your own network, name it in no_proxy and NO_PROXY",
    )


def _host(url: str) -> str | None:
    """Return the host of an address; None without one, also where it is no address."""
    try:
        return urlsplit(url).hostname
    except ValueError:  # said by the check of that service
        return None


def _ray() -> Finding:
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return ok("Ray", "RAY_ADDRESS is not set: each command starts its own on this machine")
    from ddpm_core.cluster.reach import require_answer  # with it comes Ray

    try:
        require_answer(address)
    except PipelineError as error:
        return bad("Ray", f"RAY_ADDRESS={address}", str(error))
    return ok("Ray", f"a cluster answers at {address}")


def _mlflow(store: Store) -> Finding:
    try:
        home = place.find_home(store)
    except PipelineError as error:
        return bad("MLflow", "cannot be used as the environment says", str(error))
    if home is None:
        return look(
            "MLflow",
            "nowhere: the root is no folder of this machine, and MLFLOW_TRACKING_URI is not set",
            "Set it to the URL of a server; without one curves lie in the checkpoints alone",
        )
    if home.uri.startswith(("http://", "https://")):
        url = f"{home.uri.rstrip('/')}/health"
        return _answering("MLflow", place.redacted(home.uri), url, "MLFLOW_TRACKING_URI")
    return ok("MLflow", place.redacted(home.uri))


def _prefect() -> Finding:
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return ok("Prefect", "PREFECT_API_URL is not set: a flow uses its profile's, or its own")
    shown = place.without_user(url)
    return _answering("Prefect", shown, f"{url.rstrip('/')}/health", "PREFECT_API_URL")


def _answering(name: str, shown: str, url: str, variable: str) -> Finding:
    trouble, proxy = _trouble(url), _proxy_of(url)
    if not trouble:
        return ok(name, f"answers at {shown}")
    remedy = f"Start it, or set {variable} to where it is, or unset it"
    if proxy is not None:
        shown = f"{shown} through the proxy {place.without_user(proxy)}"
        remedy = f"If its host is of your own network, name it in no_proxy and NO_PROXY. {remedy}"
    return bad(name, f"does not answer at {shown}: {trouble}", remedy)


def _proxy_of(url: str) -> str | None:
    """Return the proxy that requests to an address go through; None: they go there directly."""
    try:
        host, scheme = urlsplit(url).hostname, urlsplit(url).scheme
    except ValueError:
        return None
    if not host or urllib.request.proxy_bypass(host):
        return None
    return urllib.request.getproxies().get(scheme)


def _trouble(url: str) -> str:
    """Return why there is no answer, or "" where there is any: a refusal to a stranger is one."""
    outcome = [f"silent for {_LIMIT_S:g} s"]

    def ask() -> None:
        try:
            urllib.request.build_opener().open(url, timeout=_LIMIT_S).close()
        except urllib.error.HTTPError as error:
            error.close()
            outcome[0] = "" if error.code in (401, 403) else f"{error.code} {error.reason}"
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
    return outcome[0]
