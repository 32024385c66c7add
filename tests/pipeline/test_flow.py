"""The Prefect flow: the same stages as `dvc repro`, the same bytes, and no process left behind."""

import signal
import subprocess
import sys
from typing import Any

import pytest

from facegen import dag

FLOW = [sys.executable, "-m", "pipelines.flow"]


def test_prefect_works_with_the_installed_fastapi() -> None:
    import prefect.server.api.server  # noqa: F401  (newer FastAPI breaks it at import)


def test_schedules_work_with_the_installed_sqlalchemy() -> None:
    import sqlalchemy

    assert sqlalchemy.__version__ < "2.1"  # with 2.1 Prefect 3.8 cannot insert scheduled runs


@pytest.mark.parametrize(
    ("output", "state"),
    [
        ("Stage 'dit' didn't change, skipping\nData and pipelines are up to date.", "skipped"),
        ("Stage 'dit' is cached - skipping run, checking out outputs\nUpdating lock file", "restored"),
        ("Running stage 'dit':\n> python -m pipelines.dit\n", "ran"),
    ],
)
def test_states_as_dvc_prints_them(output: str, state: str) -> None:
    from pipelines.prefect_flow import state_of

    assert state_of(output) == state


def test_a_mistake_is_not_repeated_but_a_death_is() -> None:
    from prefect.states import Failed

    from pipelines.prefect_flow import StageFailedError, may_succeed_again

    def again(error: Exception) -> bool:
        return may_succeed_again(None, None, Failed(data=error, message="x"))

    assert not again(StageFailedError("bad value", 1))
    assert again(StageFailedError("killed", 137))
    assert again(StageFailedError("unknown", None))
    assert again(TimeoutError("too long"))


def test_a_deployment_can_pickle_the_flow() -> None:
    import cloudpickle

    from pipelines.prefect_flow import facegen_flow, task_runner

    runner = task_runner("threads", workers=2, address=None)
    assert cloudpickle.dumps(facegen_flow.with_options(task_runner=runner))


def test_a_runner_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.prefect_flow import task_runner

    monkeypatch.setitem(sys.modules, "prefect_dask", None)
    with pytest.raises(ValueError, match=r"facegen\[dask\]"):
        task_runner("dask", workers=1, address=None)


def test_a_server_ends_with_its_block_and_with_its_parent(tmp_path: Any, root: Any, wait_for: Any, alive: Any) -> None:
    code = (
        "import subprocess, sys, time\n"
        "from pipelines.prefect_server import start_group\n"
        "p = start_group([sys.executable, '-c', 'import time; time.sleep(60)'], env={}, output=subprocess.DEVNULL)\n"
        "print(p.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.kill()
    parent.wait()
    wait_for(lambda: not alive(child), timeout_s=5)


@pytest.mark.slow
def test_the_flow_runs_what_dvc_runs(new_project: Any, request: pytest.FixtureRequest) -> None:
    """A second cold run, through Prefect: every stage runs, dvc.lock is that of the first, all is skipped after it."""
    flow = [*FLOW, "--retries", "0"]
    stages = dag.load_dag(new_project.folder)
    assert new_project.executed(lambda: new_project.call(flow)) == sorted(stages)
    built = request.getfixturevalue("built")  # not before: another test process makes it meanwhile
    locks = [dag.read_lock(folder) for folder in (new_project.folder, built)]
    assert locks[0] == locks[1]
    assert (new_project.folder / "eval/run.json").read_bytes() == (built / "eval/run.json").read_bytes()
    assert new_project.repro() == []
    out = new_project.call([*FLOW, "--target", "preprocess"])
    assert "flow: 0 ran, 0 restored, 2 skipped" in out
    assert new_project.processes() == []


@pytest.mark.slow
def test_a_stopped_flow_leaves_nothing_behind(project: Any, wait_for: Any) -> None:
    project.set("dit.total_images=1000000")
    process = subprocess.Popen(FLOW, cwd=project.folder, env=project.environment, stderr=subprocess.PIPE)
    log = project.folder / ".runs/dit"
    wait_for(lambda: len(list(log.glob("*/*.safetensors"))) > 0, timeout_s=300)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    wait_for(lambda: project.processes() == [], timeout_s=10)
    assert project.timings()[-1]["state"] == "KILLED"
