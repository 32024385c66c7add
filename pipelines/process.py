"""What a stage does as a process: end with its parent, tame its workers, and turn signals into an orderly stop."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_WATCH_S = 1.0
_SHELLS = ("sh", "dash", "bash", "zsh", "ksh", "ash", "busybox", "fish")


class Interrupted(BaseException):
    """A signal reached a stage that does not watch `stop` itself."""


def is_main_process() -> bool:
    """Whether this is the process that writes: rank 0 under torchrun, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def end_with_parent() -> None:
    """Get SIGTERM when DVC dies, so that no stage outlives it (Linux; by hand nothing is done).

    The kernel sends it when our parent dies. Where that is a shell, which DVC started and which outlives it, a thread
    looks whether the shell has been orphaned.
    """
    if sys.platform != "linux" or "DVC_STAGE" not in os.environ:
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent or parent == 1:  # it died before we asked
        sys.exit(143)
    if _status(parent).get("Name") in _SHELLS:
        threading.Thread(target=_watch_shell, args=(parent, _status(parent).get("PPid", "")), daemon=True).start()


def _watch_shell(shell: int, starter: str) -> None:
    while _status(shell).get("PPid") == starter:
        time.sleep(_WATCH_S)
    os.kill(os.getpid(), signal.SIGTERM)


def _status(pid: int) -> dict[str, str]:
    """Return what the kernel says of a process; nothing if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def tame_forked_workers() -> None:
    """Give forked workers the default SIGTERM, leave Ctrl-C to their parent, and end them with it.

    The kernel means the forking *thread* by parent, so only what the main thread forks is tied to it.
    """
    by_main = [True]

    def before() -> None:
        by_main[0] = threading.current_thread() is threading.main_thread()

    def in_child() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if by_main[0] and sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    os.register_at_fork(before=before, after_in_child=in_child)


def follow_parent_in_worker() -> None:
    """In a spawned worker: leave Ctrl-C to the parent, and end when it does, however it does."""
    if multiprocessing.current_process().name == "MainProcess":
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def kill_workers() -> None:
    """End this process's workers at once; they hold nothing that is not written again."""
    for worker in multiprocessing.active_children():
        worker.kill()


def on_stop_signals(react: Callable[[int], None]) -> list[int]:
    """Call `react` with the number of each SIGTERM and SIGINT; return the list that they are added to."""
    caught: list[int] = []

    def handler(number: int, _frame: object) -> None:
        caught.append(number)
        react(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)
    return caught
