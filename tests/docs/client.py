"""Hands a command to `here.py`, which has imported all that it needs, and ends with its code.

client.py PROGRAM WORDS...: of the standard library alone, since each command starts it.
"""

import json
import os
import socket
import sys
import time
from pathlib import Path


def main() -> None:
    """Send words, folder, environment and the three streams; wait for the exit code."""
    asked = {"words": sys.argv[1:], "folder": str(Path.cwd()), "env": dict(os.environ)}
    path = Path(os.environ["TMPDIR"], "here")
    until = time.monotonic() + 300
    while not path.exists():
        if time.monotonic() > until:
            sys.exit("tests.docs.here has not started")
        time.sleep(0.1)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        socket.send_fds(connection, [b"."], [0, 1, 2])
        connection.sendall(json.dumps(asked).encode())
        connection.shutdown(socket.SHUT_WR)
        sys.exit(int(connection.makefile().read() or 1))


main()
