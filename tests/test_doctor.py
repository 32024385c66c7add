"""The doctor: what it calls missing, and what it says to do about it."""

import sqlite3
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

from facegen import doctor
from facegen.cli import app
from facegen.config import Params, load_params
from facegen.doctor import Check, State


@pytest.fixture
def params(root: Path) -> Params:
    return load_params(root / "params.yaml")


def pointed_at(params: Params, folder: Path) -> Params:
    values = params.model_dump()
    values["data"] = {"root": str(folder), "attributes": "all"}
    return Params.model_validate(values)


def states(checks: list[Check]) -> dict[str, State]:
    return {check.name: check.state for check in checks}


def test_packages_are_read_from_the_installed_metadata() -> None:
    found = {check.name: check for check in doctor._packages()}
    assert found["fastapi"].state is State.OK
    assert {"torch", "diffusers", "dvc", "mlflow", "prefect"} <= set(found)
    assert "pytest" not in found, "extras are no needs"


@pytest.mark.parametrize(
    ("needed", "state"),
    [("pip", State.OK), ("pip>=1", State.OK), ("pip>=9999", State.MISSING), ("no-such-package-here>=2", State.MISSING)],
)
def test_one_package(needed: str, state: State) -> None:
    check = doctor.package_check(Requirement(needed))
    assert check.state is state
    assert (needed in check.remedy) is (state is State.MISSING)


def test_a_data_set_in_celebas_layout(tmp_path: Path, params: Params) -> None:
    folder = tmp_path / "faces"
    checks = list(doctor.data_checks(tmp_path, pointed_at(params, folder)))
    assert states(checks) == {"data.root": State.MISSING}
    folder.mkdir()
    (folder / "img_align_celeba.zip").touch()
    (folder / "identity_CelebA.txt").touch()
    found = states(list(doctor.data_checks(tmp_path, pointed_at(params, folder))))
    assert found["pictures"] is State.OK
    assert found["attributes"] is State.MISSING
    assert found["identity_CelebA"] is State.OK
    assert found["list_landmarks_align_celeba"] is State.NOTE
    (folder / "list_attr_celeba.txt").touch()
    assert State.MISSING not in states(list(doctor.data_checks(tmp_path, pointed_at(params, folder)))).values()


def test_the_embedded_data_set_is_not_missing_before_it_is_drawn(tmp_path: Path, params: Params) -> None:
    (check,) = doctor.data_checks(tmp_path, params)
    assert (check.state, check.remedy) == (State.NOTE, "make repro")


def test_the_tracking_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert doctor._mlflow(tmp_path).found == "no runs yet"
    (tmp_path / ".mlflow").mkdir()
    connection = sqlite3.connect(tmp_path / ".mlflow" / "mlflow.db")
    connection.execute("create table runs (id integer)")
    connection.execute("insert into runs values (1), (2)")
    connection.commit()
    connection.close()
    assert doctor._mlflow(tmp_path).found == "2 runs in .mlflow/mlflow.db"
    (tmp_path / ".mlflow" / "mlflow.db").write_bytes(b"not a database at all" * 100)
    assert doctor._mlflow(tmp_path).state is State.NOTE


def test_the_command_fails_only_if_something_needed_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [Check("a", "one", State.OK, "1"), Check("a", "two", State.NOTE, "[x]", "do that")]
    monkeypatch.setattr(doctor, "examine", lambda *_: iter(checks))
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    assert "[x]" in result.stdout
    checks.append(Check("a", "three", State.MISSING, "gone", "get it"))
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "get it" in result.stdout
    assert "missing: three" in result.stderr


@pytest.mark.slow
def test_the_whole_examination_of_an_empty_folder(tmp_path: Path) -> None:
    checks = list(doctor.examine(tmp_path, tmp_path / "params.yaml"))
    found = {check.name: check for check in checks}
    assert found["git"].state is State.MISSING
    assert found["dvc"].state is State.MISSING
    assert found["torch"].state is State.OK
    assert found["memory"].found.endswith("GiB free")
    assert all(check.remedy for check in checks if check.state is State.MISSING)
