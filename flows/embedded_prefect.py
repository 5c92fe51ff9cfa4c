"""A Prefect API for one flow, if none is configured.

    python -m flows.embedded_prefect FOLDER

Run by `flows.prefect_api` only. Writes FOLDER/api.json: the URL that is configured (then it just
waits), or URL and key of the server that it then becomes.
"""

import json
import os
import secrets
import signal
import socket
import sys
from pathlib import Path

from flows import prefect_database
from flows.prefect_api import API_FILE


def main(folder: str) -> None:
    """Look for a configured API, else serve one on loopback with its files in `folder`."""
    os.umask(0o077)
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    if not home.exists():
        os.environ["PREFECT_HOME"] = folder  # Prefect would make it, only to find it empty
    # Where Prefect itself would look: environment, profile, prefect.toml, pyproject.toml, .env.
    from prefect.settings import get_current_settings

    configured = get_current_settings().api.url
    if configured:
        _write_api(folder, {"url": str(configured)})
        signal.pause()  # ending now would remove the folder, and the file in it
    # Bound here and handed on, so that no other process can get the port in between.
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    listener.set_inheritable(True)
    auth = f"ddpm:{secrets.token_urlsafe(32)}"
    _write_api(folder, {"url": f"http://127.0.0.1:{listener.getsockname()[1]}/api", "auth": auth})
    prefect_database.give(Path(folder))
    settings = {
        "PREFECT_HOME": folder,
        "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_API_AUTH_STRING": auth,
        "PREFECT_SERVER_UI_ENABLED": "false",
        # Fewer background services: what Prefect sets for the server it starts by itself.
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT__SERVER_FINAL": "1",
    }
    # The server must not see the user's settings: a database, say, or a prefect.toml.
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    os.chdir(folder)
    serve = ["-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    serve += ["--fd", str(listener.fileno()), "--log-level", "error", "--lifespan", "on"]
    os.execve(sys.executable, [sys.executable, *serve], kept | settings)  # noqa: S606 - no shell


def _write_api(folder: str, what: dict[str, str]) -> None:
    part = Path(folder, f"{API_FILE}.part")
    part.write_text(json.dumps(what))
    part.rename(Path(folder, API_FILE))


if __name__ == "__main__":
    main(sys.argv[1])
