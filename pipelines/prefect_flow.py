"""The Prefect flow and its tasks; `pipelines/flow.py` runs it, with a server that is there before this is imported."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from pipelines.dvc_stages import exit_code, repro_command, stage_graph, state_of, tail
from pipelines.prefect_server import start_group, stop_group

LOGS = Path(".runs") / "flow"
_MISTAKE = 1  # a stage's exit code that no repetition mends; see pipelines/stage.py
_POLL_S = 0.2
_GRACE_S = 70.0  # a stage may take so long to save its state
_running: set[subprocess.Popen[bytes]] = set()
_stopping = threading.Event()


class StageFailedError(RuntimeError):
    """A stage failed; `code` is its own exit code where DVC said it."""

    def __init__(self, message: str, code: int | None) -> None:
        super().__init__(message)
        self.code = code


def repro_stage(address: str, *, timeout_s: float) -> str:
    """Run one stage through DVC and return ran, restored or skipped.

    Raises:
        StageFailedError: with the end of the stage's output.
        TimeoutError: after `timeout_s` seconds; the stage has been told to save its state and stop.
    """
    log = LOGS / f"{address}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        process = start_group(repro_command(address), env=os.environ, output=file)
        _running.add(process)
        try:
            _wait(process, address, timeout_s)
        finally:
            stop_group(process, grace_s=_GRACE_S)
            _running.discard(process)
    output = log.read_text("utf-8", errors="replace")
    if process.returncode:
        raise StageFailedError(f"stage {address} failed ({log}):\n{tail(output)}", exit_code(output))
    return state_of(output)


def _wait(process: subprocess.Popen[bytes], address: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while process.poll() is None and not _stopping.is_set():
        if time.monotonic() > deadline:
            raise TimeoutError(f"stage {address} took longer than {timeout_s:.0f} s and was stopped")
        time.sleep(_POLL_S)


def begin() -> None:
    """Forget an earlier flow's stop. (A deployment pickles the flow's function, which must not name a lock.)"""
    _stopping.clear()


def stop_all() -> None:
    """Tell every running stage to save its state and stop."""
    _stopping.set()
    for process in list(_running):
        stop_group(process, grace_s=_GRACE_S)


def may_succeed_again(_task: Any, _run: Any, state: Any) -> bool:
    """Whether a failed stage is worth repeating: not after a mistake in its input, nor when the flow is stopping."""
    try:
        state.result()
    except StageFailedError as error:
        return error.code != _MISTAKE and not _stopping.is_set()
    except BaseException:
        return not _stopping.is_set()
    return False


@task(cache_policy=NO_CACHE, persist_result=False, log_prints=False)
def stage_task(address: str, timeout_s: float) -> str:
    """One stage."""
    started = time.monotonic()
    state = repro_stage(address, timeout_s=timeout_s)
    sys.stderr.write(f"{state:>9}  {address}  {time.monotonic() - started:.1f} s\n")
    return state


@flow(name="facegen", persist_result=False, retries=0)
def facegen_flow(
    targets: list[str] | None = None, retries: int = 1, retry_delay_s: float = 10.0, timeout_h: float = 72.0
) -> dict[str, str]:
    """Run the pipeline; return ran, restored or skipped by stage.

    Args:
        targets: stages to run with all that they need; all if None.
        retries: how often a stage that died is started again; it goes on from its last checkpoint.
        retry_delay_s: seconds before that.
        timeout_h: hours that one stage may take.
    """
    begin()
    futures: dict[str, Any] = {}
    try:
        for address, needs in stage_graph(Path.cwd(), targets).items():
            configured = stage_task.with_options(
                task_run_name=address,
                retries=retries,
                retry_delay_seconds=retry_delay_s,
                retry_condition_fn=may_succeed_again,
            )
            before = [futures[other] for other in sorted(needs)]
            futures[address] = configured.submit(address, 3600 * timeout_h, wait_for=before, return_state=False)
        for future in futures.values():
            future.wait()
    except BaseException:  # Ctrl-C, SIGTERM, cancelled in the UI
        stop_all()
        raise
    states = {address: future.result() for address, future in futures.items()}
    create_table_artifact([{"stage": a, "state": s} for a, s in states.items()], key="stages")
    return states


def task_runner(kind: str, *, workers: int, address: str | None) -> TaskRunner[Any]:
    """Return where stages run: threads here, or the workers of a Dask or Ray cluster that share this folder.

    Raises:
        ValueError: if the runner's package is not installed.
    """
    try:
        if kind == "dask":
            from prefect_dask import DaskTaskRunner

            return DaskTaskRunner(address=address) if address else DaskTaskRunner({"n_workers": workers})
        if kind == "ray":
            from prefect_ray import RayTaskRunner

            return RayTaskRunner(address=address) if address else RayTaskRunner(init_kwargs={"num_cpus": workers})
    except ImportError as error:
        raise ValueError(f"the {kind} runner needs another package: pip install 'facegen[{kind}]'") from error
    return ThreadPoolTaskRunner(max_workers=workers)
