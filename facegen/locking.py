"""A lock between processes: flock on a file, released by the kernel when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facegen.errors import BusyError

_RETRY_S = 0.1


@contextmanager
def locked(path: Path, what: str, *, wait_s: float = 0.5) -> Iterator[None]:
    """Hold the lock `path` (created if need be) for the block.

    Args:
        what: what is locked, for the message.
        wait_s: how long to wait for a holder, in seconds.

    Raises:
        BusyError: naming the process that holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _acquire(handle, path, what, time.monotonic() + wait_s)
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)


def _acquire(handle: int, path: Path, what: str, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = os.pread(handle, 32, 0).decode(errors="replace") or "unknown"
                raise BusyError(
                    f"{what} is busy: process {holder} holds {path}; wait for it or end that process"
                ) from None
            time.sleep(_RETRY_S)
