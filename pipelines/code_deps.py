"""The first-party modules that each stage imports, found in the source and written into dvc.yaml as its dependencies.

`python -m pipelines.code_deps` rewrites the lists (comments kept); with `--check` it only says what is wrong. The
closure follows imports inside functions too, leaves out those under `if TYPE_CHECKING`, and follows names that
`facegen` hands out lazily to the module that they live in. A file beside a module (a template, a table) belongs to it
if the module names it.

Modules in NOT_DEPENDENCIES are left out (what they import is not): they say whether and where a stage runs, what is
noted about it, or check what it is given; the parameters themselves are tracked by value. A change in them changes no
result, and days of training should not be repeated for a better message.
"""

from __future__ import annotations

import argparse
import ast
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGES = ("facegen", "pipelines")
NOT_DEPENDENCIES = {
    "facegen/__init__.py": "only names where things are",
    "facegen/config.py": "types and bounds; values are tracked by leaf",
    "facegen/config_faults.py": "messages",
    "facegen/config_personalize.py": "types and bounds; values are tracked by leaf",
    "facegen/config_sections.py": "types and bounds; values are tracked by leaf",
    "facegen/config_rules.py": "bounds between values",
    "facegen/dag.py": "names an execution",
    "facegen/errors.py": "exception classes",
    "facegen/locking.py": "locks",
    "facegen/mlflow_store.py": "tracking",
    "facegen/tracking.py": "tracking",
    "pipelines/process.py": "signals",
    "pipelines/stage.py": "the harness",
}


def module_file(root: Path, module: str) -> str | None:
    """Return the file of a dotted first-party module, relative to `root`; None if there is none."""
    base = module.replace(".", "/")
    return next((path for path in (f"{base}.py", f"{base}/__init__.py") if (root / path).is_file()), None)


def imported_modules(root: Path, path: str) -> set[str]:
    """Return the first-party files that a file imports directly, packages' `__init__.py` included."""
    found: set[str] = set()
    for module, name in _imports(ast.parse((root / path).read_text("utf-8"))):
        if module.split(".")[0] not in PACKAGES:
            continue
        candidates = [module, f"{module}.{name}"] if name else [module]
        if module == "facegen" and name and module_file(root, f"facegen.{name}") is None:
            candidates.append(_lazy_home(root, name))
        for candidate in candidates:
            parts = candidate.split(".")
            names = [".".join(parts[:i]) for i in range(1, len(parts) + 1)]
            found |= {file for file in (module_file(root, n) for n in names) if file}
    return found


def _imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield (module, name) of each import that can be executed; name is empty for `import module`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for branch in node.orelse:
                yield from _imports(branch)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"line {node.lineno}: relative imports are not used here")
            yield from ((node.module or "", alias.name) for alias in node.names)
        else:
            yield from _imports(node)


def _lazy_home(root: Path, name: str) -> str:
    """Return the module that `facegen` takes a lazily imported name from."""
    for node in ast.walk(ast.parse((root / "facegen/__init__.py").read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
            return node.module or ""
    raise ValueError(f"facegen has no `{name}`")


def closure(root: Path, path: str) -> list[str]:
    """Return, sorted, every first-party file that a file is made of, less those that no result depends on."""
    seen, queue = {path}, [path]
    while queue:
        new = imported_modules(root, queue.pop()) - seen
        seen |= new
        queue.extend(new)
    modules = {file for file in seen - set(NOT_DEPENDENCIES) if _does_something(root, file)}
    return sorted(modules | {data for file in modules for data in named_files(root, file)})


def _does_something(root: Path, path: str) -> bool:
    """Whether a module holds more than its docstring."""
    body = ast.parse((root / path).read_text("utf-8")).body
    return any(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in body)


def named_files(root: Path, path: str) -> set[str]:
    """Return the data files in a module's folder that a string in the module names."""
    folder = Path(path).parent
    nodes = ast.walk(ast.parse((root / path).read_text("utf-8")))
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    names = {t for t in texts if 0 < len(t) < 100 and "\n" not in t and Path(t).suffix not in ("", ".py")}
    return {(folder / name).as_posix() for name in names if ".." not in name and (root / folder / name).is_file()}


def stage_module(cmd: str) -> str:
    """Return the file of the module that a stage's command runs (`... -m pipelines.NAME ...`)."""
    words = cmd.split()
    name = next(word for word in words if word.startswith("pipelines."))
    return name.replace(".", "/") + ".py"


def wanted_deps(root: Path, entry: dict[str, Any]) -> list[str]:
    """Return the dependencies that a stage's entry should have: its data, then its code."""
    data = [dep for dep in entry.get("deps", []) if not dep.startswith(tuple(f"{p}/" for p in PACKAGES))]
    return data + closure(root, stage_module(entry["cmd"]))


def update(root: Path, *, write: bool) -> list[str]:
    """Return what is wrong with dvc.yaml's code dependencies, and mend it if `write`."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    document = yaml.load((root / "dvc.yaml").read_text("utf-8"))
    faults = []
    for name, entry in document["stages"].items():
        if not (root / stage_module(entry["cmd"])).is_file():
            faults.append(f"{name}: {stage_module(entry['cmd'])} does not exist")
            continue
        wanted, present = wanted_deps(root, entry), list(entry.get("deps", []))
        if missing := sorted(set(wanted) - set(present)):
            faults.append(f"{name}: not listed: {', '.join(missing)}")
        if needless := sorted(set(present) - set(wanted)):
            faults.append(f"{name}: listed but not imported: {', '.join(needless)}")
        if set(wanted) != set(present):
            entry["deps"] = wanted
    if write and faults:
        text = io.StringIO()
        yaml.dump(document, text)
        (root / "dvc.yaml").write_text(text.getvalue(), "utf-8")
    return faults


def main() -> int:
    """Check or mend dvc.yaml."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.code_deps", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say what is wrong; exit 1 if anything is")
    check = parser.parse_args().check
    faults = update(Path.cwd(), write=not check)
    for fault in faults:
        sys.stderr.write(f"dvc.yaml: {fault}\n")
    if faults and not check:
        sys.stderr.write("dvc.yaml: code dependencies rewritten\n")
    return 1 if check and faults else 0


if __name__ == "__main__":
    sys.exit(main())
