"""A Prefect API for the length of one run: started if no other is named, quiet, offline, and never left behind.

Prefect's own temporary server outlives a run that is killed; this one is tied to its parent by the kernel and kept in
the repository's `.prefect/`, so that two projects do not share a database.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1
_START_S = 90.0
_STOP_S = 5.0
_POLL_S = 0.1
ENVIRONMENT = {  # what the user has set stays
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",  # or Prefect starts a server of its own beside ours
}


def prepare_environment(root: Path) -> None:
    """Set Prefect's environment, before Prefect is imported."""
    os.environ.setdefault("PREFECT_HOME", str(root / ".prefect"))
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextmanager
def prefect_api(*, schedules: bool) -> Iterator[str]:
    """Yield the URL of a Prefect API: PREFECT_API_URL's, else that of a server which ends with the block.

    Args:
        schedules: whether the server is to start what a schedule makes due, and to show its pages.

    Prefect reads the variable when it is imported: that belongs into the block.

    Raises:
        RuntimeError: if the server does not come up.
    """
    if url := os.environ.get("PREFECT_API_URL"):
        yield url
        return
    port = _free_port()
    url = f"http://127.0.0.1:{port}/api"
    server = _start(port, schedules=schedules)
    try:
        _wait_until_healthy(server, url)
        os.environ["PREFECT_API_URL"] = url
        yield url
    finally:
        os.environ.pop("PREFECT_API_URL", None)
        stop_group(server, grace_s=_STOP_S)


def _start(port: int, *, schedules: bool) -> subprocess.Popen[bytes]:
    command = [
        *(sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"),
        *("--host", "127.0.0.1", "--port", str(port), "--log-level", "error", "--lifespan", "on"),
    ]
    small = {} if schedules else {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"}
    return start_group(command, env={**os.environ, **small, "PREFECT__SERVER_FINAL": "1"}, output=subprocess.DEVNULL)


def start_group(command: list[str], *, env: Mapping[str, str], output: int | IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a command as a process group of its own that gets SIGTERM when the calling thread ends (Linux)."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def tie_to_parent() -> None:
        if libc:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)

    return subprocess.Popen(
        command,
        env=dict(env),
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=tie_to_parent,
    )


def stop_group(process: subprocess.Popen[bytes], *, grace_s: float) -> None:
    """End a process group, all of it: SIGTERM, and after `grace_s` seconds SIGKILL."""
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, _STOP_S)):
        deadline = time.monotonic() + wait_s
        alive = _signal_group(process, number)
        while alive and time.monotonic() < deadline:
            time.sleep(_POLL_S)
            alive = _signal_group(process, 0)
        if not alive:
            break
    process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> bool:
    """Send a signal (0: none) to the group; returns whether any of it is left. The leader may be dead already."""
    process.poll()
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_healthy(server: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"the Prefect server ended at its start with code {server.returncode}")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"the Prefect server did not answer within {_START_S:.0f} s at {url}")
