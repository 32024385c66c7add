"""Files that are whole or absent: temporary name, fsync, rename; then a sha256 manifest.

JSON here is canonical and safetensors carry one metadata key of canonical JSON, so that equal contents give equal bytes
(DVC reruns everything downstream of bytes that changed for nothing).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facegen.errors import DamagedArtifactError

if TYPE_CHECKING:
    import torch

MANIFEST = "manifest.json"
FORMAT = 1
_METADATA_KEY = "facegen"


def canonical_json(obj: Any) -> str:
    """Return the one JSON text of `obj`: sorted keys, no spaces, no NaN.

    Raises:
        ValueError: if a number is NaN or infinite.
    """
    return json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def digest(obj: Any) -> str:
    """Return the sha256 (hex) of the canonical JSON of `obj`."""
    return hashlib.sha256(canonical_json(obj).encode()).hexdigest()


def sha256_file(path: str | Path) -> str:
    """Return the sha256 (hex) of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and rename it into place, else remove it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` so that readers see the old file or the new one, never a part."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | Path, obj: Any) -> None:
    """Write `obj` as readable JSON with sorted keys, atomically.

    Raises:
        ValueError: if a number is NaN or infinite.
    """
    text = json.dumps(obj, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False)
    atomic_write_bytes(path, (text + "\n").encode())


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: if it is missing.
        DamagedArtifactError: if it is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedArtifactError(f"{path} is not valid JSON ({error}); delete it and run the stage again") from error


def write_manifest(folder: str | Path, *, parameters: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
    """Write manifest.json: format, the resolved parameters, input digests, and the sha256 of every file in `folder`."""
    folder = Path(folder)
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    files = {name: sha256_file(folder / name) for name in names if name != MANIFEST}
    write_json(
        folder / MANIFEST, {"format": FORMAT, "parameters": dict(parameters), "inputs": dict(inputs), "files": files}
    )


def check_manifest(folder: str | Path) -> dict[str, Any]:
    """Return the manifest of `folder` after checking that its files are those it lists.

    Raises:
        FileNotFoundError: if there is no manifest.
        DamagedArtifactError: naming the file that is missing or differs.
    """
    folder = Path(folder)
    manifest = read_json(folder / MANIFEST)
    for name, expected in manifest["files"].items():
        if not (folder / name).is_file():
            raise DamagedArtifactError(f"{folder / name} is missing though {MANIFEST} lists it; run its stage again")
        if sha256_file(folder / name) != expected:
            raise DamagedArtifactError(f"{folder / name} does not match its sha256 in {MANIFEST}; run its stage again")
    return manifest


def replace_folder(temporary: str | Path, final: str | Path) -> None:
    """Put the finished folder `temporary` (on the same file system) in the place of `final`."""
    temporary, final = Path(temporary), Path(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.replace(old)
    temporary.replace(final)
    _sync_folder(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def save_tensors(path: str | Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors as safetensors, atomically, with `metadata` in one key of canonical JSON.

    Raises:
        ValueError: if a floating tensor holds NaN or infinity (named).
        OSError: if the disk is full; what stood at `path` before is intact.
    """
    from safetensors.torch import save_file

    _require_finite(tensors, path)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(plain, temporary, metadata={_METADATA_KEY: canonical_json(dict(metadata))})
        except Exception as error:
            raise OSError(f"could not write {path}: {error}") from error


def load_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Raises:
        FileNotFoundError: if it is missing.
        DamagedArtifactError: if it is not safetensors of ours, or holds NaN or infinity.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = json.loads((file.metadata() or {})[_METADATA_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, KeyError, ValueError) as error:
        raise DamagedArtifactError(f"{path} is not a facegen tensor file ({error!r})") from error
    try:
        _require_finite(tensors, path)
    except ValueError as error:
        raise DamagedArtifactError(str(error)) from error
    return tensors, metadata


def _require_finite(tensors: Mapping[str, torch.Tensor], path: str | Path) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"{path}: tensor {name} holds NaN or infinity")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
