"""The DAG as dvc.yaml states it, and the content key that names one execution of a stage.

DVC decides what runs; this reads its files (without importing DVC, which takes longer than most stages' start) so that
a stage can say what it is: key = sha256 of its address, command, parameters and dependency digests. All of these stand
in dvc.lock too, so the key of a stage that ran can be computed again later, from any commit (`key_from_lock`).
"""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facegen.artifacts import digest

KEY_LENGTH = 20
PARAMS = "params.yaml"
LOCK = "dvc.lock"
CODE_FOLDERS = ("facegen/", "pipelines/")
_TEMPLATE = re.compile(r"\$\{([^}]+)\}")
_NEVER_HASHED = (".gitignore", "__pycache__")  # what .dvcignore keeps from DVC


@dataclass(frozen=True)
class StageSpec:
    """One stage of dvc.yaml, its matrix item and templates resolved.

    `deps` maps each path to its name: the path itself, or `data.root` where dvc.yaml says `${data.root}`.
    """

    address: str
    item: str | None
    cmd: str
    deps: dict[str, str]
    params: tuple[str, ...]
    outs: tuple[str, ...]

    @property
    def data_deps(self) -> dict[str, str]:
        """The dependencies that are data, not first-party code."""
        return {path: name for path, name in self.deps.items() if not path.startswith(CODE_FOLDERS)}


def read_yaml(text: str) -> dict[str, Any]:
    """Parse YAML as DVC does (1.2: `1e-4` is a number, `no` a string)."""
    from ruamel.yaml import YAML

    return YAML(typ="safe").load(io.StringIO(text)) or {}


def value_at(params: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key.

    Raises:
        ValueError: if params.yaml has no such key.
    """
    value: Any = params
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ValueError(f"{PARAMS} has no `{key}`, which dvc.yaml names; add it or mend dvc.yaml")
        value = value[part]
    return value


def load_dag(root: Path) -> dict[str, StageSpec]:
    """Read dvc.yaml and params.yaml under `root` and return the stages by address (`dit`, `judge@a`)."""
    if not (root / "dvc.yaml").is_file():
        raise FileNotFoundError(f"no dvc.yaml in {root}; run stages from the repository's root")
    return parse_dag((root / "dvc.yaml").read_text("utf-8"), read_yaml((root / PARAMS).read_text("utf-8")))


def parse_dag(text: str, params: Mapping[str, Any]) -> dict[str, StageSpec]:
    """Return the stages of the dvc.yaml `text` by address, templates filled from `params`."""
    dag = {}
    for name, entry in read_yaml(text)["stages"].items():
        for item in _matrix_items(entry.get("matrix", {})):
            address = f"{name}@{'-'.join(item.values())}" if item else name
            dag[address] = _spec(address, entry, item, params)
    return dag


def _matrix_items(matrix: Mapping[str, Sequence[Any]]) -> list[dict[str, str]]:
    return [dict(zip(matrix, map(str, row), strict=True)) for row in itertools.product(*matrix.values())]


def _spec(address: str, entry: Mapping[str, Any], item: Mapping[str, str], params: Mapping[str, Any]) -> StageSpec:
    def fill(text: str) -> str:
        def value(match: re.Match[str]) -> str:
            key = match[1].strip()
            return item[key.removeprefix("item.")] if key.startswith("item.") else str(value_at(params, key))

        return _TEMPLATE.sub(value, text)

    def named(text: str) -> str:
        match = _TEMPLATE.fullmatch(text)
        return match[1].strip() if match and not match[1].strip().startswith("item.") else fill(text)

    return StageSpec(
        address=address,
        item=address.partition("@")[2] or None,
        cmd=fill(entry["cmd"]),
        deps={fill(dep): named(dep) for dep in entry.get("deps", [])},
        params=tuple(fill(key) for key in entry.get("params", [])),
        outs=tuple(fill(p) for kind in ("outs", "metrics", "plots") for p in _paths(entry.get(kind, []))),
    )


def _paths(outs: Sequence[Any]) -> list[str]:
    return [path for out in outs for path in ([out] if isinstance(out, str) else out)]


def upstream(dag: Mapping[str, StageSpec], address: str) -> set[str]:
    """Return the addresses of the stages whose outputs this stage depends on directly."""
    return {
        other
        for other, spec in dag.items()
        if other != address and any(_overlap(out, dep) for out in spec.outs for dep in dag[address].deps)
    }


def ancestors(dag: Mapping[str, StageSpec], address: str) -> set[str]:
    """Return the addresses of all stages before this one."""
    found: set[str] = set()
    queue = [address]
    while queue:
        new = upstream(dag, queue.pop()) - found
        found |= new
        queue.extend(new)
    return found


def _overlap(a: str, b: str) -> bool:
    return a == b or a.startswith(b + "/") or b.startswith(a + "/")


def content_key(*, address: str, cmd: str, params: Mapping[str, Any], deps: Mapping[str, str]) -> str:
    """Return the key of an execution: 20 hex digits over everything that decides its result."""
    return digest({"stage": address, "cmd": cmd, "params": dict(params), "deps": dict(deps)})[:KEY_LENGTH]


def key_from_lock(address: str, entry: Mapping[str, Any]) -> str:
    """Return the content key of the execution that a stage's entry in dvc.lock records."""
    params = {key: value for values in entry.get("params", {}).values() for key, value in values.items()}
    deps = {dep["path"]: dep["md5"] for dep in entry.get("deps", [])}
    return content_key(address=address, cmd=entry["cmd"], params=params, deps=deps)


def read_lock(root: Path) -> dict[str, Any]:
    """Return the stage entries of dvc.lock by address; none if there is no such file yet."""
    path = root / LOCK
    return read_yaml(path.read_text("utf-8")).get("stages", {}) if path.is_file() else {}


def lock_digest(stages: Mapping[str, Any], addresses: set[str]) -> str:
    """Return the sha256 over the dvc.lock entries of these stages: what the pipeline's results are made from."""
    return digest({address: stages[address] for address in sorted(addresses) if address in stages})


def dependency_digests(root: Path, dag: Mapping[str, StageSpec], address: str, *, trust_lock: bool) -> dict[str, str]:
    """Return the md5, as DVC writes it, of each dependency of a stage.

    Args:
        trust_lock: take the digests of other stages' outputs from dvc.lock. Right inside `dvc repro`, which has just
            checked them; by hand the folders themselves are read.

    Raises:
        FileNotFoundError: naming the dependency and the stage that makes it.
    """
    locked = {}
    if trust_lock:
        stages = read_lock(root)
        locked = {out["path"]: out["md5"] for other in dag for out in stages.get(other, {}).get("outs", [])}
    return {path: locked.get(path) or path_md5(root / path, _maker(dag, path)) for path in dag[address].deps}


def _maker(dag: Mapping[str, StageSpec], path: str) -> Callable[[], str]:
    def hint() -> str:
        makers = [address for address, spec in dag.items() if any(_overlap(out, path) for out in spec.outs)]
        return f"run `dvc repro {makers[0]}` first" if makers else "see data.root in params.yaml"

    return hint


def path_md5(path: Path, hint: Callable[[], str]) -> str:
    """Return DVC's md5 of a file, or of a folder (over the sorted list of its files' md5; ends in `.dir`)."""
    if path.is_file():
        return _file_md5(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path} does not exist; {hint()}")
    files = [
        p for p in path.rglob("*") if p.is_file() and not any(n in p.relative_to(path).parts for n in _NEVER_HASHED)
    ]
    entries = [{"md5": _file_md5(p), "relpath": p.relative_to(path).as_posix()} for p in files]
    listing = json.dumps(sorted(entries, key=lambda entry: entry["relpath"]), sort_keys=True)
    return hashlib.md5(listing.encode(), usedforsecurity=False).hexdigest() + ".dir"


def _file_md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, functools.partial(hashlib.md5, usedforsecurity=False)).hexdigest()
