"""The DAG as a Prefect flow: DVC decides what must run, this when and where.

    python -m pipelines.flow                               run what must run, independent stages side by side
    python -m pipelines.flow serve --cron "0 3 * * *"      a deployment that rebuilds every night, until it is stopped

Each stage is a task that runs `dvc --wait-for-lock repro -s STAGE`; it starts when the stages before it in DVC's own
graph are done. Nothing is cached here. With PREFECT_API_URL the flow reports to that server and can be watched in its
UI; without, a server of its own lives as long as the run. Output of the stages goes to .runs/flow/STAGE.log.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.prefect_server import prefect_api, prepare_environment


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Return the command line's options."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m pipelines.flow", description=__doc__, formatter_class=form)
    parser.add_argument("command", nargs="?", choices=["run", "serve"], default="run")
    parser.add_argument("--target", action="append", metavar="STAGE", help="only this stage and what it needs")
    parser.add_argument("--workers", type=int, default=2, help="stages side by side (2)")
    parser.add_argument("--runner", choices=["threads", "dask", "ray"], default="threads", help="where stages run")
    parser.add_argument("--address", help="of the Dask or Ray cluster")
    parser.add_argument("--retries", type=int, default=1, help="for a stage that died (1)")
    parser.add_argument("--retry-delay", type=float, default=10.0, metavar="S", help="seconds before that (10)")
    parser.add_argument("--timeout", type=float, default=72.0, metavar="H", help="hours that one stage may take (72)")
    parser.add_argument("--cron", default="0 3 * * *", help="serve: when, by the local clock (0 3 * * *: at night)")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run or serve the flow; return the exit code."""
    options = parse_arguments(arguments)
    prepare_environment(Path.cwd())
    try:
        with prefect_api(schedules=options.command == "serve"):
            return run_flow(options)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (ValueError, RuntimeError) as error:
        sys.stderr.write(f"flow: {error}\n")
        return 1


def run_flow(options: argparse.Namespace) -> int:
    """Run or serve the flow with the API that PREFECT_API_URL names; return the exit code."""
    from pipelines.prefect_flow import StageFailedError, facegen_flow, task_runner

    values = {"targets": options.target, "retries": options.retries}
    values |= {"retry_delay_s": options.retry_delay, "timeout_h": options.timeout}
    runner = task_runner(options.runner, workers=options.workers, address=options.address)
    configured = facegen_flow.with_options(task_runner=runner)
    if options.command == "serve":
        serve(configured, options.cron, values)
        return 0
    started = time.monotonic()
    try:
        states = configured(**values)
    except (StageFailedError, TimeoutError) as error:
        sys.stderr.write(f"flow: {error}\n")
        return 1
    counts = {state: sum(s == state for s in states.values()) for state in ("ran", "restored", "skipped")}
    figures = ", ".join(f"{number} {state}" for state, number in counts.items())
    sys.stderr.write(f"flow: {figures} in {time.monotonic() - started:.1f} s\n")
    return 0


def serve(configured: Any, cron: str, values: Mapping[str, Any]) -> None:
    """Offer the flow as a deployment with a schedule, and run what becomes due, one at a time, until stopped."""
    sys.stderr.write(f"flow: serving deployment facegen/nightly, cron {cron!r}; Ctrl-C ends it\n")
    configured.serve(name="nightly", cron=cron, parameters=dict(values), limit=1, pause_on_shutdown=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
