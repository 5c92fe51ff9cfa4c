"""A page as one shell script: its blocks in order, in a folder of its own, with an empty HOME."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.docs import given
from tests.docs.pages import ROOT, Block, blocks
from tests.end_to_end.conftest import Shell

SHELL = {"", "bash", "console", "sh"}
SERVERS = ("make ui", "make play", "python -m ddpm_core play", "prefect server start")
SERVERS += ("prefect worker start",)
"""commands that run until they are ended: the next one follows when they answer"""
PORTS = ("4200", "5001", "7861")
"""that pages name; each is replaced by a free one"""
PRELUDE = r"""
set -eo pipefail
free() {
    python3 -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])'
}
serve() { # in the background, until its page answers, or it says that it started
    local pid url
    PORT=$(free) # of its own: those before it still run
    export PORT
    "$@" >served.log 2>&1 &
    pid=$!
    for _ in $(seq 600); do
        kill -0 $pid || { cat served.log; return 1; }
        grep -qE 'https?://|started!' served.log && break
        sleep 0.5
    done
    cat served.log
    url=$(grep -oE 'https?://127[^ "]+' served.log | head -n 1) || return 0
    curl -sS --retry 120 --retry-connrefused --retry-delay 1 -o page.html "$url"
}
"""


def run_blocks(page: str, text: str) -> list[Block]:
    """Return the blocks of a page that are run: all of a shell or of Python without a reason."""
    return [
        block
        for block in blocks(page, text)
        if block.language in SHELL | {"python"} and block.reason is None
    ]


def outputs(page: str, text: str) -> Iterator[tuple[Block, Block]]:
    """Yield each block that is run and whose output the page shows, and that output."""
    before = None
    for block in blocks(page, text):
        if block.is_output and before is not None:
            yield before, block
        before = block


def missing(shown: str, said: str) -> list[str]:
    """Return the lines of a shown output of whose shape the real one has none.

    The shape is the line without its numbers; an ellipsis stands for anything.
    """
    real = _shape(said)
    parts = {line: re.split(r"…|\.\.\.", line) for line in shown.splitlines() if line.strip()}
    return [
        line
        for line, pieces in parts.items()
        if not re.search(".*?".join(re.escape(_shape(piece)) for piece in pieces), real)
    ]


def _shape(text: str) -> str:
    text = re.sub(r"\b(?=[0-9a-f]*\d)[0-9a-f]{8,}\b", "#", text)
    text = re.sub(r"\d[\d.,]*(?<=\d)", "#", text)
    text = re.sub(r"# (?:s|min|h)(?: # s)?\b", "# s", text)
    return " ".join(text.split())


@dataclass
class Desk:
    """A checkout of links, with programs that run the smaller twin of each command."""

    folder: Path
    is_here: bool = False
    """stages run in the process of their command: without Ray, Prefect and their starts"""
    ports: dict[str, int] = field(default_factory=dict)

    def prepare(self, text: str) -> None:
        """Make checkout, programs, and the files that a page with this text names."""
        self.checkout.mkdir(parents=True)
        for name in ("data", "logs"):
            (self.folder / name).mkdir()
        for entry in ROOT.iterdir():
            if entry.name not in (".git", ".venv", "runs", "site"):
                (self.checkout / entry.name).symlink_to(entry)
        self._link_programs()
        with ExitStack() as held:
            for port in PORTS:  # held together, so that no two are the same
                probe = held.enter_context(socket.socket())
                probe.bind(("127.0.0.1", 0))
                self.ports[port] = probe.getsockname()[1]
        given.files(text, self.checkout, self.folder / "data")

    @property
    def checkout(self) -> Path:
        """Where the page's commands run."""
        return self.folder / "a checkout"

    def log(self, block: Block) -> Path:
        """Return the file of what a block said, both streams."""
        return self.folder / "logs" / f"{block.line}.log"

    def _link_programs(self) -> None:
        environment = self.checkout / ".venv"
        programs = environment / "bin"
        programs.mkdir(parents=True)
        for entry in Path(sys.prefix).iterdir():
            if entry.name != "bin" and not entry.name.startswith(".installed"):
                (environment / entry.name).symlink_to(entry)
        for entry in (Path(sys.prefix) / "bin").iterdir():
            if entry.name not in ("python", "ddpm"):
                (programs / entry.name).symlink_to(entry)
        for name in ("python", "ddpm"):
            through = ["-m", "tests.docs.small"]
            if self.is_here:
                through = ["-I", "-S", str(Path(__file__).with_name("client.py"))]
            words = (sys.executable, *through, Path(sys.prefix) / "bin" / name)
            quoted = " ".join(f'"{word}"' for word in words)
            (programs / name).write_text(f'#!/bin/sh\nexec {quoted} "$@"\n')
            (programs / name).chmod(0o755)
        for stamp in (".installed", ".installed-dev"):  # younger than what they are made of
            (environment / stamp).touch()

    def script(self, page: str, text: str) -> str:
        """Return the page's commands; each block has a log, and is named before it begins."""
        before = Block(page, 0, "", "\n".join(given.COMMANDS.get(page, ())), None)
        lines = [PRELUDE, 'exec 3>"$DESK/begun"']
        for block in (before, *run_blocks(page, text)):
            lines.append(f"""echo '{block}' >&3; exec >"$DESK/logs/{block.line}.log" 2>&1""")
            if block.language == "python":
                (self.folder / f"{block.line}.py").write_text(block.text)
                lines.append(f'python "$DESK/{block.line}.py"')
            else:
                lines.append(self._shell(block.text))
        return "\n".join([*lines, ""])

    def _shell(self, text: str) -> str:
        for port, free in self.ports.items():
            text = re.sub(rf"(?<=[ =:]){port}\b", str(free), text)
        return re.sub(rf"^({'|'.join(SERVERS)})\b", r"serve \1", text, flags=re.MULTILINE)

    def run(self, page: str, text: str, shell: Shell, timeout_s: float = 3400) -> str:
        """Run the page; return an empty text, or the block that failed and the end of its log."""
        (self.folder / "page.sh").write_text(self.script(page, text))
        if self.is_here:
            server = [sys.executable, "-m", "tests.docs.here"]
            shell.started.append(subprocess.Popen(server, cwd=self.folder, env=self._env(shell)))
        process = subprocess.Popen(
            ["bash", "../page.sh"],
            cwd=self.checkout,
            env=self._env(shell),
            stdin=subprocess.DEVNULL,
        )
        shell.started.append(process)
        try:
            if process.wait(timeout_s) == 0:
                return ""
            how = f"ended with {process.returncode}"
        except subprocess.TimeoutExpired:
            how = f"is not done, {timeout_s:.0f} s after the page began"
        begun = (self.folder / "begun").read_text().splitlines()[-1]
        log = (self.folder / "logs" / f"{begun.rpartition(':')[2]}.log").read_text()
        return f"{begun} {how}\n{log[-3000:]}"

    def _env(self, shell: Shell) -> dict[str, str]:
        kept = ("HOME", "TMPDIR", "DDPM_TEST_MARK")
        return {name: shell.env[name] for name in kept} | {
            "PATH": f"{self.checkout}/.venv/bin{os.pathsep}{os.environ['PATH']}",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "BROWSER": "true",
            "OMP_NUM_THREADS": "1",
            "DESK": str(self.folder),
            "PYTHONPATH": str(ROOT),
            "PAGE_DATA": str(self.folder / "data"),
            "PREFECT_SERVER_API_PORT": str(self.ports["4200"]),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }
