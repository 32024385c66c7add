"""dvc.yaml against the source and params.yaml: what a stage reads is listed, and nothing switches DVC's cache off."""

import ast
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from facegen import dag
from facegen.config import load_params
from pipelines import code_deps

RECORD = "record"  # lists whole sections: it notes every parameter and reads none


@pytest.fixture(scope="module")
def document(root: Path) -> dict[str, Any]:
    return dag.read_yaml((root / "dvc.yaml").read_text())


@pytest.fixture(scope="module")
def values(root: Path) -> dict[str, Any]:
    return load_params(root / "params.yaml").model_dump(mode="json")


def leaves(section: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def covers(listed: set[str], leaf: str) -> bool:
    return any(leaf == key or leaf.startswith(key + ".") for key in listed)


def test_code_dependencies_are_those_that_are_imported(root: Path) -> None:
    assert code_deps.update(root, write=False) == []  # mend with: python -m pipelines.code_deps


def test_each_listed_parameter_exists(root: Path, values: dict[str, Any]) -> None:
    for spec in dag.load_dag(root).values():
        for key in spec.params:
            dag.value_at(values, key)


def test_each_parameter_is_tracked_but_those_of_the_machine(root: Path, values: dict[str, Any]) -> None:
    stages = dag.load_dag(root)
    tracked = {key for address, spec in stages.items() if address != RECORD for key in spec.params}
    tracked |= {name for spec in stages.values() for name in spec.deps.values()}  # ${data.root} is a dependency
    untracked = {leaf for leaf in leaves(values) if not covers(tracked, leaf)}
    assert {leaf for leaf in untracked if not leaf.startswith("machine.")} == set()
    assert {leaf for leaf in leaves(values) if leaf.startswith("machine.")} <= untracked
    recorded = set(stages[RECORD].params)
    assert {leaf for leaf in leaves(values) if not covers(recorded, leaf)} == set(leaves(values)) & untracked


def test_each_stage_lists_the_parameters_that_it_reads_and_no_other(root: Path, values: dict[str, Any]) -> None:
    for address, spec in dag.load_dag(root).items():
        if address == RECORD:
            continue
        read = parameters_read((root / code_deps.stage_module(spec.cmd)).read_text(), values, spec.item)
        listed = set(spec.params) | set(spec.deps.values())
        machine = {leaf for leaf in read if leaf.startswith("machine.")}
        assert {leaf for leaf in read - machine if not covers(listed, leaf)} == set(), f"{address}: read, not listed"
        assert {key for key in spec.params if key not in read} == set(), f"{address}: listed, not read"


def parameters_read(source: str, values: dict[str, Any], item: str | None) -> set[str]:
    """The dotted parameters that a stage module reads: `stage.params.dit.depth`, also through names given to parts."""
    tree = ast.parse(source)
    aliases: dict[str, str] = {}
    for _ in range(2):  # an alias of an alias
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign):
                for target, value in pairs(node.targets[0], node.value):
                    path = parameter_path(value, aliases, item)
                    if isinstance(target, ast.Name) and path is not None:
                        aliases[target.id] = path
    read = set()
    inner = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in inner:
            read.add(existing_part(parameter_path(node, aliases, item) or "", values))
            if isinstance(node.value, ast.Name) and node.value.id == "stage" and node.attr == "dtype":
                read.add("base.precision")
        if isinstance(node, ast.Call) and parameter_path(node, aliases, item) is None:
            for given in [*node.args, *(keyword.value for keyword in node.keywords)]:
                if isinstance(given, ast.Attribute):  # a section given away whole: all of it may be read
                    read |= leaves_below(parameter_path(given, aliases, item), values)
    return {path for path in read if "." in path and not any(other.startswith(path + ".") for other in read)}


def leaves_below(path: str | None, values: dict[str, Any]) -> set[str]:
    """The leaves of a top section of params.yaml; none for anything else."""
    section = values.get(path or "")
    return {f"{path}.{name}" for name in section} if isinstance(section, dict) else set()


def existing_part(path: str, values: dict[str, Any]) -> str:
    """The part of a path that params.yaml has: not the method called on a value."""
    parts: list[str] = []
    value: Any = values
    for part in path.split("."):
        if not isinstance(value, dict) or (part not in value and not parts):
            break
        value = value.get(part)
        parts.append(part)
    return ".".join(parts)


def pairs(target: ast.expr, value: ast.expr) -> list[tuple[ast.expr, ast.expr]]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        return list(zip(target.elts, value.elts, strict=True))
    return [(target, value)]


def parameter_path(node: ast.expr, aliases: dict[str, str], item: str | None) -> str | None:
    """The dotted path below params.yaml that an expression stands for; empty for the whole, None for anything else."""
    if isinstance(node, ast.Name):
        return aliases.get(node.id)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
        above = parameter_path(node.args[0], aliases, item)
        return None if above is None else f"{above}.{item}"
    if isinstance(node, ast.Attribute):
        if node.attr == "params" and isinstance(node.value, ast.Name) and node.value.id == "stage":
            return ""
        above = parameter_path(node.value, aliases, item)
        return None if above is None else f"{above}.{node.attr}".lstrip(".")
    return None


def test_the_reader_of_parameters_sees_them() -> None:
    source = """
        def run(stage):
            p, f = stage.params.dit, stage.params.flow
            q = stage.params
            q.base.seed, p.depth, f.path, stage.params.machine.threads, stage.dtype
            x = getattr(stage.params.judge, str(stage.item))
            x.width, x.batch_size.bit_length
            trained(stage, stage.params.verify, name=q.base.seed)
    """
    values = {"dit": {"depth": 8}, "flow": {"path": ""}, "base": {"seed": 0}, "machine": {"threads": 1}}
    values["judge"] = {"a": {"width": 1, "batch_size": 1}}
    values["verify"] = {"scale": 1.0, "depths": [1]}
    read = parameters_read(textwrap.dedent(source), values, "a")
    expected = {"base.seed", "dit.depth", "flow.path", "machine.threads", "base.precision", "judge.a.width"}
    assert read == expected | {"judge.a.batch_size", "verify.scale", "verify.depths"}
    assert "dit.deph" in parameters_read("stage.params.dit.deph", values, None)  # a misspelt name is not overlooked


def test_nothing_switches_the_cache_off(document: dict[str, Any]) -> None:
    for name, entry in document["stages"].items():
        assert {"frozen", "always_changed", "persist"}.isdisjoint(entry), name
        assert entry["desc"], name
        assert entry.get("deps"), f"{name} depends on nothing: DVC would not cache it"
        for out in entry.get("outs", []):
            assert isinstance(out, str), f"{name}: {out} has options; `cache: false` or `persist` undo the run cache"
        for metric in entry.get("metrics", []):
            assert list(metric.values()) == [{"cache": False}], name


def test_outputs_are_ignored_by_git_and_results_are_not(root: Path, document: dict[str, Any]) -> None:
    def ignored(path: str) -> bool:
        return subprocess.run(["git", "check-ignore", "-q", "--no-index", path], cwd=root).returncode == 0

    for address, spec in dag.load_dag(root).items():
        entry = document["stages"][address.partition("@")[0]]
        results = {path for metric in entry.get("metrics", []) for path in metric}
        for path in spec.outs:
            # a folder's own pattern ends in a slash
            assert (ignored(path) or ignored(path + "/x")) == (path not in results), path
    assert ignored("eval/.samples.partial/x")  # what a killed stage leaves
    assert ignored(".runs/x")
    assert ignored(".mlflow/x")
    assert not ignored("dvc.lock")


def test_our_reading_of_the_dag_is_that_of_dvc(root: Path) -> None:
    from pipelines.prefect_flow import stage_graph

    stages = dag.load_dag(root)
    assert stage_graph(root) == {address: dag.upstream(stages, address) for address in stages}
    ordered = list(stage_graph(root))
    assert all(ordered.index(before) < ordered.index(a) for a in ordered for before in dag.upstream(stages, a))
    assert set(stage_graph(root, ["latents"])) == {"latents"} | dag.ancestors(stages, "latents")
