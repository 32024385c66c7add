"""The command line: what it says, its exit codes, and that it starts quickly and without torch."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from facegen import __version__
from facegen.cli import app

runner = CliRunner()


@pytest.fixture
def checkout(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params.yaml and the profiles, as the current one."""
    (tmp_path / "params.yaml").write_bytes((root / "params.yaml").read_bytes())
    (tmp_path / "profiles").mkdir()
    for path in (root / "profiles").glob("*.yaml"):
        (tmp_path / "profiles" / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return runner.invoke(app, list(arguments))


def refused(result: Result) -> str:
    """The message of a user's mistake: exit code 2, on stderr, no traceback."""
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


def test_help_names_every_command() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for name in ("profile", "config", "doctor", "sample", "grid"):
        assert name in result.stdout


@pytest.mark.parametrize("command", [["profile"], ["config"], ["profile", "apply"], ["doctor"], ["sample"], ["grid"]])
def test_every_command_has_help(command: list[str]) -> None:
    assert "Usage" in run(*command, "--help").stdout


def test_version() -> None:
    assert run("--version").stdout.strip() == f"facegen {__version__}"


def test_profile_list(checkout: Path) -> None:
    result = run("profile", "list")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in ("celeba", "faces", "tiny"))


def test_profile_show_changes_nothing(checkout: Path) -> None:
    before = (checkout / "params.yaml").read_bytes()
    result = run("profile", "show", "celeba")
    assert result.exit_code == 0
    row = next(line for line in result.stdout.splitlines() if line.startswith("dit.hidden_size"))
    assert row.split() == ["dit.hidden_size", "192", "1024"]
    assert (checkout / "params.yaml").read_bytes() == before


def test_profile_apply_with_a_setting(checkout: Path) -> None:
    result = run("profile", "apply", "faces", "--set", "data.root=/somewhere/faces", "--set", "dit.depth=4")
    assert result.exit_code == 0
    shown = run("config", "show", "data").stdout
    assert shown.splitlines() == ["data:", "  root: /somewhere/faces", "  attributes: all"]
    assert "/somewhere/faces" in result.stdout
    assert "held all of it already" in run("config", "set", "dit.depth=4").stdout


def test_a_setting_beats_the_profile(checkout: Path) -> None:
    run("profile", "apply", "tiny", "--set", "dit.depth=7")
    assert "  depth: 7" in run("config", "show", "dit").stdout.splitlines()


def test_profile_apply_with_a_wrong_setting_writes_nothing(checkout: Path) -> None:
    before = (checkout / "params.yaml").read_bytes()
    message = refused(run("profile", "apply", "faces", "--set", "dit.depht=4"))
    assert "did you mean depth?" in message
    assert (checkout / "params.yaml").read_bytes() == before


def test_a_misspelt_profile_is_one_line(checkout: Path) -> None:
    message = refused(run("profile", "apply", "face"))
    assert message.strip() == "facegen: no profile 'face' in profiles/; did you mean faces?"


def test_config_check(checkout: Path) -> None:
    assert run("config", "check").exit_code == 0
    text = (checkout / "params.yaml").read_text()
    (checkout / "params.yaml").write_text(text.replace("  depth: 6", "  depth: yes").replace("  seed: 0", "  seed: -1"))
    message = refused(run("config", "check"))
    assert "2 faults" in message
    assert "base.seed" in message
    assert "dit.depth" in message


def test_config_show_of_no_section(checkout: Path) -> None:
    assert "there are machine, base" in refused(run("config", "show", "model"))


def test_commands_outside_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "params.yaml: no such file" in refused(run("config", "check"))
    assert "profiles: no such folder" in refused(run("profile", "list"))


def test_an_unknown_command_and_a_missing_argument(checkout: Path) -> None:
    assert run("profil").exit_code == 2
    assert run("profile", "apply").exit_code == 2


def test_help_starts_without_torch(checkout: Path) -> None:
    code = (
        "import sys; from facegen.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'mlflow', 'pandas', 'pyarrow', 'dvc'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_console_script_refuses_in_one_line(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("facegen")
    done = subprocess.run([script, "config", "check"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("facegen: params.yaml: no such file")
    assert done.stderr.count("\n") == 1
