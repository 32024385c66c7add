"""Files are whole or absent, equal contents give equal bytes, damage is named."""

import json
import os
import resource
import subprocess
import sys

import pytest
import torch

from facegen.artifacts import (
    atomic_path,
    atomic_write_bytes,
    check_manifest,
    digest,
    load_tensors,
    read_json,
    replace_folder,
    save_tensors,
    write_json,
    write_manifest,
)
from facegen.errors import DamagedArtifactError


def test_json_is_canonical_and_refuses_nan(tmp_path):
    write_json(tmp_path / "a", {"b": 1, "a": [1.5, "é"]})
    write_json(tmp_path / "b", {"a": [1.5, "é"], "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert digest({"x": 1, "y": 2}) == digest({"y": 2, "x": 1}) != digest({"x": 1, "y": 3})
    before = (tmp_path / "a").read_bytes()
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a", {"x": float("nan")})
    assert (tmp_path / "a").read_bytes() == before
    (tmp_path / "c").write_text("{")
    with pytest.raises(DamagedArtifactError, match="not valid JSON"):
        read_json(tmp_path / "c")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    atomic_write_bytes(tmp_path / "f", b"old")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "f") as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert (tmp_path / "f").read_bytes() == b"old" and os.listdir(tmp_path) == ["f"]


def test_kill_between_write_and_rename_leaves_the_old_file(tmp_path):
    atomic_write_bytes(tmp_path / "f", b"old")
    code = (
        "import os, signal, sys\nfrom facegen import artifacts\n"
        "artifacts.Path.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"artifacts.atomic_write_bytes({str(tmp_path / 'f')!r}, b'new')\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert (tmp_path / "f").read_bytes() == b"old"


def test_full_disk_is_an_os_error_and_keeps_the_old_tensors(tmp_path):
    path = tmp_path / "t.safetensors"
    save_tensors(path, {"x": torch.ones(4)}, {})
    code = (
        "import resource, signal, torch\nfrom facegen.artifacts import save_tensors\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))\n"
        f"try:\n    save_tensors({str(path)!r}, {{'x': torch.ones(1 << 18)}}, {{}})\n"
        "except OSError as error:\n    print('OSError', error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "OSError could not write" in done.stdout, done.stderr
    assert torch.equal(load_tensors(path)[0]["x"], torch.ones(4)) and os.listdir(tmp_path) == ["t.safetensors"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_tensors_round_trip_to_equal_bytes(tmp_path):
    tensors = {"b": torch.arange(6).view(2, 3).T, "a": torch.ones(2, dtype=torch.bfloat16)}
    for name in ("one", "two"):
        save_tensors(tmp_path / name, tensors, {"z": 1, "a": {"k": [1, 2]}, "m": "x"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    back, about = load_tensors(tmp_path / "one")
    assert torch.equal(back["b"], tensors["b"]) and about == {"z": 1, "a": {"k": [1, 2]}, "m": "x"}


@pytest.mark.parametrize("damage", ["pickle", "truncated", "foreign", "nan"])
def test_damaged_tensor_files_are_refused(tmp_path, damage):
    path = tmp_path / "t.safetensors"
    if damage == "pickle":
        torch.save({"x": torch.ones(2)}, path)
    elif damage == "truncated":
        save_tensors(path, {"x": torch.ones(100)}, {})
        path.write_bytes(path.read_bytes()[:-8])
    else:
        from safetensors.torch import save_file

        values = torch.full((2,), float("nan"))
        save_file({"x": values}, path, metadata={"facegen": "{}"} if damage == "nan" else None)
    with pytest.raises(DamagedArtifactError, match=r"t\.safetensors"):
        load_tensors(path)
    with pytest.raises(ValueError, match="tensor x holds NaN"):
        save_tensors(path, {"x": torch.full((2,), float("nan"))}, {})


def test_manifest_names_what_is_damaged(tmp_path):
    (tmp_path / "a").write_text("1")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_text("2")
    write_manifest(tmp_path, parameters={"p": 1}, inputs={"data": "abc"})
    manifest = check_manifest(tmp_path)
    assert set(manifest["files"]) == {"a", "sub/b"} and manifest["parameters"] == {"p": 1}
    (tmp_path / "sub" / "b").write_text("3")
    with pytest.raises(DamagedArtifactError, match="sub/b does not match"):
        check_manifest(tmp_path)
    (tmp_path / "sub" / "b").unlink()
    with pytest.raises(DamagedArtifactError, match="sub/b is missing"):
        check_manifest(tmp_path)
    assert json.loads((tmp_path / "manifest.json").read_text())["format"] == 1


def test_folders_are_replaced_whole(tmp_path):
    for name, text in (("final", "old"), ("new", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / text).write_text(text)
    replace_folder(tmp_path / "new", tmp_path / "final")
    assert os.listdir(tmp_path) == ["final"] and os.listdir(tmp_path / "final") == ["new"]
