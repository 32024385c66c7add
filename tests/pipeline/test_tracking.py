"""Tracking: one run by content key, continued after a kill, and no fault of MLflow's becomes the stage's."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from facegen.mlflow_store import StoredRun, connect, find_runs, metric_name
from facegen.tracking import UNTRACKED, Tracker, flat_numbers, ingest

KEY = "0123456789abcdef0123"


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new store, made once: that takes seconds."""
    home = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        connect(home)
    return home / ".mlflow/mlflow.db"


@pytest.fixture
def home(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".mlflow").mkdir()
    shutil.copyfile(empty_store, tmp_path / ".mlflow/mlflow.db")
    return tmp_path


def tracker(home: Path, **changes: Any) -> Tracker:
    return Tracker(home, **{"stage": "dit", "key": KEY, "parameters": {}, "inputs": {}, **changes})


def history(home: Path, run_id: str | None, name: str) -> list[tuple[int, float]]:
    client, _ = connect(home)
    return [(point.step, point.value) for point in client.get_metric_history(str(run_id), name)]


def test_a_run_holds_all_that_a_stage_gives_it(home: Path) -> None:
    (home / "grid.png").write_bytes(b"png")
    (home / "data/models/dit").mkdir(parents=True)
    (home / "data/models/dit/config.json").write_text("{}")
    digest = "5d5e5576428f44094bf905d42b56731d.dir"  # 36 characters, as many as MLflow takes
    run = tracker(home, parameters={"dit.betas": [0.9, 0.95], "base": {"seed": 3}}, inputs={"data/latents": digest})
    run.log({"loss": 2.0}, step=64)
    run.metrics({"psnr_db": 20.5, "faces": {"train": 7}, "name": "x"})
    run.picture(home / "grid.png")
    run.model(home / "data/models/dit")
    run.tags({"stage.judge@a": "1"})
    run.close("FINISHED")
    client, experiment = connect(home)
    [stored] = find_runs(client, experiment, KEY)
    assert stored.info.status == "FINISHED"
    assert stored.data.params == {"dit.betas": "[0.9, 0.95]", "base.seed": "3"}
    assert {"loss": 2.0, "psnr_db": 20.5, "faces.train": 7.0}.items() <= stored.data.metrics.items()
    assert "system/system_memory_usage_megabytes" in stored.data.metrics  # however short the stage
    assert stored.inputs.dataset_inputs[0].dataset.digest == digest
    tags = stored.data.tags
    assert (tags["dvc.stage"], tags["facegen.attempt"], tags["stage.judge:a"]) == ("dit", "1", "1")
    files = {p.path for folder in ("pictures", "model") for p in client.list_artifacts(stored.info.run_id, folder)}
    assert files == {"pictures/grid.png", "model/config.json"}


def test_a_killed_run_is_continued_without_a_point_twice(home: Path) -> None:
    first = tracker(home)
    for step in range(10):
        first.log({"loss": step}, step=step)
    first.flush()  # and then it was killed; training went back to the checkpoint at 6
    second = tracker(home)
    assert second.run_id == first.run_id
    for step in range(6, 14):
        second.log({"loss": step}, step=step)
    second.close("FINISHED")
    assert history(home, first.run_id, "loss") == [(step, float(step)) for step in range(14)]
    third = tracker(home)
    third.close("FAILED")
    assert third.run_id != first.run_id
    again = tracker(home)
    again.close("FINISHED")
    assert again.run_id == third.run_id
    attempts = [run.data.tags["facegen.attempt"] for run in find_runs(*connect(home), KEY)]
    assert attempts == ["2", "1"]


def test_points_go_out_in_batches(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tracker(home)
    assert run._run is not None
    batches: list[int] = []
    monkeypatch.setattr(run._run, "points", lambda points: batches.append(len(points)))
    for step in range(300):
        run.log({"a": 1, "b": 2}, step=step)
    run.close("FINISHED")
    assert batches == [500, 100]


def test_an_environment_variable_does_not_redirect_a_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tracker(home)
    first.close("FINISHED")
    monkeypatch.setenv("MLFLOW_RUN_ID", str(first.run_id))
    second = tracker(home, key="f" * 20)
    second.close("FINISHED")
    assert second.run_id != first.run_id


def test_a_store_that_cannot_be_opened_is_one_warning(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "grid.png").write_bytes(b"png")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/no/such/folder/mlflow.db")
    run = tracker(home, parameters={"dit.depth": 8})
    run.log({"loss": 1.5}, step=10)
    run.picture(home / "grid.png")
    run.close("FINISHED")
    assert run.run_id is None
    assert capsys.readouterr().err.count("warning: MLflow tracking failed") == 1
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (home / "grid.png").unlink()  # as scratch files are when a stage is done
    assert ingest(home) == [f"dit-{KEY}"]
    client, experiment = connect(home)
    [stored] = find_runs(client, experiment, KEY)
    assert (stored.info.status, stored.data.params) == ("FINISHED", {"dit.depth": "8"})
    assert history(home, stored.info.run_id, "loss") == [(10, 1.5)]
    assert [file.path for file in client.list_artifacts(stored.info.run_id, "pictures")] == ["pictures/grid.png"]
    assert list((home / UNTRACKED).iterdir()) == []


def test_a_store_that_breaks_on_the_way_loses_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tracker(home)
    run.log({"loss": 1.0}, step=1)
    run.flush()

    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(StoredRun, "points", full)
        run.log({"loss": 2.0}, step=2)
        run.flush()
    run.log({"loss": 3.0}, step=3)
    run.close("FINISHED")
    ingest(home)
    [stored] = find_runs(*connect(home), KEY)
    assert history(home, stored.info.run_id, "loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert stored.info.status == "FINISHED"


def test_processes_that_make_one_store_at_once_all_succeed(tmp_path: Path, root: Path) -> None:
    code = "from pathlib import Path; from facegen.mlflow_store import connect; connect(Path.cwd())"
    started = [subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.PIPE) for _ in range(2)]
    assert [process.wait(60) for process in started] == [0, 0]


def test_names_and_numbers() -> None:
    assert metric_name("stage.judge@a") == "stage.judge:a"
    assert metric_name("loss[t=0]") == "loss_t_0_"
    assert flat_numbers({"a": {"b": 1, "c": "x"}, "d": [1], "e": None}) == {"a.b": 1.0}
