"""The harness of every stage: `python -m pipelines.NAME` runs `main(run)`.

It locks the stage, ends with its parent, checks the parameters, names the execution by its content key, opens or
resumes the key's MLflow run, puts outputs in place whole, and turns signals and mistakes into exit codes and one line.
It works without DVC too: the stage's name then comes from the module (`python -m pipelines.judge a` is `judge@a`).

Exit codes: 0 done, 1 a mistake or a damaged artifact, 3 not finite, 4 busy, 130 Ctrl-C, 143 SIGTERM.
FACEGEN_TRACEBACK=1 shows the traceback of a mistake too.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from facegen import dag
from facegen.artifacts import replace_folder, write_manifest
from facegen.errors import BusyError, FacegenError, NonFiniteError, StoppedError
from facegen.locking import locked
from pipelines.process import (
    Interrupted,
    end_with_parent,
    follow_parent_in_worker,
    is_main_process,
    kill_workers,
    on_stop_signals,
    tame_forked_workers,
)

if TYPE_CHECKING:
    import torch
    from tqdm import tqdm

    from facegen.config import Params
    from facegen.tracking import Tracker

RUNS = ".runs"
KEPT = ("log.jsonl", "lock")  # what stays of a scratch folder when its stage is done
GRACE_S = 60.0  # a stage that saves on a signal has so long for it
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DIFFUSERS_VERBOSITY": "error",
}


class Stage:
    """What a stage's `run` is given: parameters, places, device, and where figures and pictures go."""

    def __init__(
        self,
        *,
        name: str,
        params: Params,
        root: Path,
        home: Path,
        key: str,
        scratch: Path,
        parameters: Mapping[str, Any],
        inputs: Mapping[str, str],
        tracker: Tracker | None,
    ) -> None:
        """Args:
        name: the stage's address, `dit` or `judge@a`.
        root: the folder that dvc.yaml is in; paths of outputs are relative to it.
        home: the folder of .runs/ and .mlflow/: the same, but for DVC's temporary experiments.
        key: the content key of this execution.
        scratch: what survives a kill: checkpoints, log.jsonl.
        parameters: the parameters that dvc.yaml lists for this stage, by dotted name.
        inputs: digests of the data that it depends on, by name.
        tracker: the MLflow run; None where nothing is tracked.
        """
        self.name, self.params, self.key, self.scratch = name, params, key, scratch
        self.root, self.home = root, home
        self.parameters, self.inputs, self.tracker = dict(parameters), dict(inputs), tracker
        self.item = name.partition("@")[2] or None
        self.is_main = is_main_process()
        self.saves_itself = False
        self._stop = threading.Event()
        self._signalled = False

    @property
    def stop(self) -> threading.Event:
        """Set by SIGTERM and SIGINT. A stage that takes it has to watch it; any other is interrupted on the spot."""
        self.saves_itself = True
        return self._stop

    @property
    def device(self) -> torch.device:
        """The device that machine.device names; sets torch's threads, and exact algorithms on the CPU."""
        from facegen.device import select_device

        return select_device(self.params.machine.device, threads=self.params.machine.threads)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of autocast around network calls, from base.precision."""
        from facegen.device import autocast_dtype

        return autocast_dtype(self.params.base.precision)

    @property
    def stopped(self) -> bool:
        """Whether a signal has come; unlike `stop`, asking binds the stage to nothing."""
        return self._stop.is_set()

    @contextmanager
    def output(self, path: str) -> Iterator[Path]:
        """Yield a temporary folder; on success write manifest.json and rename it to `path`, else remove it."""
        final = self.root / path
        temporary = final.with_name(f".{final.name}.partial" + ("" if self.is_main else f"-{os.getpid()}"))
        shutil.rmtree(temporary, ignore_errors=True)  # of a killed run; the lock is ours
        temporary.mkdir(parents=True)
        try:
            yield temporary
            self.raise_if_stopped()
            if self.is_main:
                write_manifest(temporary, parameters=self.parameters, inputs=self.inputs)
                replace_folder(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Send figures of a step (in images) to MLflow; buffered, never raises."""
        if self.tracker:
            self.tracker.log(metrics, step=step)

    def metrics(self, figures: Mapping[str, Any]) -> None:
        """Send final figures (numbers, nested) to MLflow."""
        if self.tracker:
            self.tracker.metrics(figures)

    def picture(self, path: str | Path) -> None:
        """Send a picture to MLflow."""
        if self.tracker:
            self.tracker.picture(Path(path))

    def model(self, folder: str | Path) -> None:
        """Send a model folder, in its final place, to MLflow."""
        if self.tracker:
            self.tracker.model(Path(folder))

    def progress(self, items: Iterable[Any] | int, desc: str) -> tqdm:
        """Return a progress bar on stderr over an iterable or of a total; quiet in log files."""
        from tqdm import tqdm

        total = items if isinstance(items, int) else None
        slow = 0.2 if sys.stderr.isatty() else 10.0
        return tqdm(
            None if isinstance(items, int) else items,
            total=total, desc=desc, file=sys.stderr, mininterval=slow, dynamic_ncols=True, disable=not self.is_main,
        )  # fmt: skip

    def on_signal(self, number: int) -> None:
        """React to the first stop signal: set `stop`, and interrupt a stage that does not watch it."""
        if self._signalled:  # not _stop: one signal may come while another sets it, and its lock is held
            return
        self._signalled = True
        self._stop.set()
        if not self.saves_itself:
            raise Interrupted
        timer = threading.Timer(GRACE_S, os._exit, [128 + number])
        timer.daemon = True
        timer.start()

    def raise_if_stopped(self) -> None:
        """Raise StoppedError if a signal has come."""
        if self.stopped:
            raise StoppedError("stopped by a signal; the same command goes on from there")


def stage_address() -> str:
    """Return the stage's address: DVC_STAGE under DVC, else the module's name and its argument."""
    spec = sys.modules["__main__"].__spec__
    module = (spec.name if spec else Path(sys.argv[0]).stem).rpartition(".")[2]
    by_hand = "@".join([module, *sys.argv[1:2]])
    return os.environ.get("DVC_STAGE", by_hand)


def main(run: Callable[[Stage], None]) -> NoReturn:
    """Run a stage and exit the process with its code."""
    started = time.monotonic()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    end_with_parent()
    current: list[Stage] = []

    def react(number: int) -> None:
        if not current:
            raise Interrupted
        current[0].on_signal(number)

    caught = on_stop_signals(react)
    tame_forked_workers()
    address = stage_address()
    try:
        with _opened(address, started) as stage:
            current.append(stage)
            run(stage)
            stage.raise_if_stopped()
        code = 0
    except (Interrupted, StoppedError) as stop:
        code = _stopped(address, stop, caught)
    except (FacegenError, ValueError, OSError, ImportError) as error:
        code = _stopped(address, error, caught) if caught else _report(address, error)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # what matters is written
    sys.exit(code)


def _stopped(address: str, reason: BaseException, caught: list[int]) -> int:
    """Say that the stage was stopped, end its workers, and return the exit code."""
    kill_workers()
    sys.stderr.write(f"facegen: {address}: {str(reason) or 'stopped by a signal'}\n")
    return 128 + (caught[0] if caught else signal.SIGTERM)


def _report(address: str, error: Exception) -> int:
    """Say in one line what is wrong, keep the traceback in .runs/, and return the exit code."""
    text = "".join(traceback.format_exception(error))
    if os.environ.get("FACEGEN_TRACEBACK"):
        sys.stderr.write(text)
    try:
        Path(RUNS).mkdir(exist_ok=True)
        (Path(RUNS) / "traceback.txt").write_text(f"{address}\n{text}", encoding="utf-8")
    except OSError:
        pass
    # Rules of params.yaml are listed one a line; everything else is one line.
    sys.stderr.write(f"facegen: {address}: {str(error) or type(error).__name__}\n")
    return 3 if isinstance(error, NonFiniteError) else 4 if isinstance(error, BusyError) else 1


@contextmanager
def _opened(address: str, started: float) -> Iterator[Stage]:
    """Yield the stage, locked and tracked; afterwards close its run and, on success, prune its scratch folder."""
    root = Path.cwd()
    home = Path(os.environ.get("DVC_ROOT", root))  # `dvc exp run --temp` works elsewhere, but checkpoints stay here
    from facegen.config import load_params

    params = load_params(root / dag.PARAMS)
    os.environ.setdefault("OMP_NUM_THREADS", str(params.machine.threads))
    stages = dag.load_dag(root)
    if address not in stages:
        raise ValueError(f"dvc.yaml has no stage `{address}`; it has {', '.join(stages)}")
    spec = stages[address]
    values = dag.read_yaml((root / dag.PARAMS).read_text("utf-8"))
    parameters = {key: dag.value_at(values, key) for key in spec.params}
    with ExitStack() as stack:
        if is_main_process():
            stack.enter_context(locked(root / RUNS / address / "lock", f"stage {address}"))
        digests = dag.dependency_digests(root, stages, address, trust_lock="DVC_STAGE" in os.environ)
        key = dag.content_key(address=address, cmd=spec.cmd, params=parameters, deps=digests)
        scratch = home / RUNS / address / key
        scratch.mkdir(parents=True, exist_ok=True)
        tracker = None
        if is_main_process():
            stack.enter_context(locked(scratch / "lock", f"stage {address}"))
            from facegen.tracking import Tracker

            data = {path: digests[path] for path in spec.data_deps}
            tracker = Tracker(home, stage=address, key=key, parameters=parameters, inputs=data)
        inputs = {name: digests[path] for path, name in spec.data_deps.items()}
        stage = Stage(
            name=address, params=params, root=root, home=home, key=key, scratch=scratch,
            parameters=parameters, inputs=inputs, tracker=tracker,
        )  # fmt: skip
        state = "FAILED"
        try:
            yield stage
            state = "FINISHED"
        finally:
            if stage.stopped:
                state = "KILLED"
            if tracker:
                tracker.close(state)
            if stage.is_main:
                _finish(home, stage, state, time.monotonic() - started)


def _finish(home: Path, stage: Stage, state: str, seconds: float) -> None:
    """Note how long it took and, after a success, remove what only a resume needs."""
    import json
    import resource

    peak_gib = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)
    took = {"stage": stage.name, "key": stage.key, "state": state, "seconds": round(seconds, 2), "peak_gib": peak_gib}
    with (home / RUNS / "timings.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(took) + "\n")
    if state == "FINISHED":
        for path in stage.scratch.iterdir():
            if path.name not in KEPT:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


follow_parent_in_worker()  # a spawned worker imports its stage's module, and so this one
