"""Stages side by side: small networks gain little from a second core, so two stages of a core each end sooner.

Every stage is `dvc repro -s STAGE`; what has to run is DVC's decision. A stage starts when all that it needs is done and a
place is free, those first on which most others wait. Its output goes to .runs/output/STAGE.log; a terminal shows the last
line of each running one. After a failure nothing new starts, and the others save their state and stop.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from pipelines.dvc_stages import changed_stages, exit_code, repro_command, stage_graph, state_of, tail
from pipelines.prefect_server import start_group, stop_group

LOGS = Path(".runs") / "output"
_POLL_S = 0.2
_GRACE_S = 70.0  # a stage may take so long to save its state
_SHOWN_BYTES = 4000  # of the end of a log, of which the last line is shown
STATES = {"ran": "ran", "restored": "taken from the cache", "skipped": "up to date", "failed": "failed"}


@dataclass
class Run:
    """What has been done: the state of each stage, in the order of ending, and the seconds of those that a process saw to."""

    states: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    code: int = 0


@dataclass
class Running:
    """A stage in its process."""

    process: subprocess.Popen[bytes]
    log: Path
    began: float


def run_side_by_side(root: Path, *, jobs: int, environment: Mapping[str, str], console: Console) -> Run:
    """Run what has to run, at most `jobs` stages at a time; returns when all is done, or after the first failure.

    Raises:
        KeyboardInterrupt: on SIGTERM or Ctrl-C, after the stages have saved their state.
    """
    graph, changed = stage_graph(root), changed_stages(root)
    waiting = sorted(graph, key=lambda address: (-len(followers(graph, address)), list(graph).index(address)))
    run, running = Run(), dict[str, Running]()
    (root / LOGS).mkdir(parents=True, exist_ok=True)
    try:
        with shown(running, console):
            while waiting or running:
                for address in [a for a in waiting if graph[a] <= set(run.states)]:
                    if address not in changed and all(run.states[need] == "skipped" for need in graph[address]):
                        waiting.remove(address)
                        ended(run, address, "skipped", graph, console)
                    elif len(running) < jobs:
                        waiting.remove(address)
                        running[address] = started(root, address, environment)
                        console.print(f"{address} starts", highlight=False)
                for address in [a for a, one in running.items() if one.process.poll() is not None]:
                    one = running.pop(address)
                    run.seconds[address] = time.monotonic() - one.began
                    output = one.log.read_text("utf-8", errors="replace")
                    if one.process.returncode:
                        ended(run, address, "failed", graph, console)
                        console.print(escape(f"{tail(output)}\n({one.log})"), highlight=False)
                        run.code = exit_code(output) or 1
                        return run
                    ended(run, address, state_of(output), graph, console)
                time.sleep(_POLL_S if running else 0)
    finally:
        for one in running.values():
            stop_group(one.process, grace_s=_GRACE_S)
    return run


def followers(graph: Mapping[str, set[str]], address: str) -> set[str]:
    """Return the stages that wait for this one, directly or not."""
    found = {other for other, needs in graph.items() if address in needs}
    return found.union(*(followers(graph, other) for other in found))


def started(root: Path, address: str, environment: Mapping[str, str]) -> Running:
    """Start DVC on one stage."""
    log = root / LOGS / f"{address}.log"
    with log.open("wb") as file:
        process = start_group(repro_command(address), env=environment, output=file)
    return Running(process, log, time.monotonic())


def ended(run: Run, address: str, state: str, graph: Mapping[str, set[str]], console: Console) -> None:
    """Note and say how a stage ended."""
    run.states[address] = state
    took = f", {run.seconds[address]:.0f} s" if address in run.seconds else ""
    console.print(f"[{len(run.states)}/{len(graph)}] {address} {STATES[state]}{took}", highlight=False, markup=False)


@contextmanager
def shown(running: Mapping[str, Running], console: Console) -> Iterator[None]:
    """While open, a terminal shows each running stage with the last line of its output; SIGTERM counts as Ctrl-C."""

    def table() -> Table:
        rows = Table.grid(padding=(0, 2))
        for address, one in list(running.items()):
            rows.add_row(address, f"{time.monotonic() - one.began:.0f} s", escape(last_line(one.log)))
        return rows

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if console.is_terminal:
            with Live(get_renderable=table, console=console, refresh_per_second=2, transient=True):
                yield
        else:
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def last_line(log: Path) -> str:
    """Return the last line of a log, of a progress bar its last state."""
    with log.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _SHOWN_BYTES))
        lines = [line for line in re.split(r"[\r\n]+", file.read().decode("utf-8", errors="replace")) if line.strip()]
    return lines[-1].strip() if lines else ""
