"""dvc.yaml read without DVC: addresses, templates, digests as DVC writes them, keys that find an execution again."""

from pathlib import Path

import pytest

from facegen import dag

TEXT = """
stages:
  make:
    cmd: python -m pipelines.make
    params: [base.seed]
    outs: [data/made]
  judge:
    matrix: {name: [a, b]}
    cmd: python -m pipelines.judge ${item.name}
    deps: ["${data.root}", pipelines/judge.py]
    params: ["judge.${item.name}.width"]
    outs: ["data/judge-${item.name}"]
    metrics: [{eval/judge.json: {cache: false}}]
  score:
    cmd: python -m pipelines.score
    deps: [data/judge-a, facegen/x.py]
  aside:
    cmd: python -m pipelines.aside
    outs: [data/judge-abc]
"""
PARAMS = {"base": {"seed": 1}, "data": {"root": "data/made"}, "judge": {"a": {"width": 2}, "b": {"width": 3}}}


def test_matrix_and_templates() -> None:
    stages = dag.parse_dag(TEXT, PARAMS)
    assert list(stages) == ["make", "judge@a", "judge@b", "score", "aside"]
    judge = stages["judge@b"]
    assert (judge.item, judge.cmd, judge.params) == ("b", "python -m pipelines.judge b", ("judge.b.width",))
    assert judge.outs == ("data/judge-b", "eval/judge.json")
    assert judge.data_deps == {"data/made": "data.root"}  # by its role: a moved folder gives the same manifest


def test_edges_follow_folders_not_name_prefixes() -> None:
    stages = dag.parse_dag(TEXT, PARAMS)
    assert dag.upstream(stages, "judge@a") == {"make"}
    assert dag.upstream(stages, "score") == {"judge@a"}
    assert dag.ancestors(stages, "score") == {"judge@a", "make"}


def test_missing_parameter_is_named() -> None:
    with pytest.raises(ValueError, match=r"no `data\.root`"):
        dag.parse_dag(TEXT, {"base": {"seed": 1}})


def test_yaml_as_dvc_reads_it() -> None:
    assert dag.read_yaml("a: 1e-4\nb: no\nc: 012\n") == {"a": 1e-4, "b": "no", "c": 12}


def test_key_changes_with_each_of_its_parts_and_is_found_in_the_lock() -> None:
    parts = {"address": "dit", "cmd": "python -m pipelines.dit", "params": {"dit.depth": 8}, "deps": {"data/l": "5f"}}
    key = dag.content_key(**parts)
    assert len(key) == 20
    changes = [{"address": "dit@a"}, {"cmd": "x"}, {"params": {"dit.depth": 9}}, {"deps": {"data/l": "60"}}]
    assert len({key, *(dag.content_key(**(parts | change)) for change in changes)}) == 5
    entry = {
        "cmd": parts["cmd"],
        "deps": [{"path": "data/l", "hash": "md5", "md5": "5f", "size": 3}],
        "params": {"params.yaml": {"dit.depth": 8}},
        "outs": [{"path": "data/models/dit", "md5": "77"}],
    }
    assert dag.key_from_lock("dit", entry) == key


def test_digests_are_those_of_dvc(tmp_path: Path) -> None:
    from dvc.repo import Repo

    folder = tmp_path / "data"
    for name, text in {"b.txt": "b", "a/é.txt": "e", "a.txt": "", "a-b.txt": "x"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    with Repo.init(str(tmp_path), no_scm=True) as repo:
        [stage] = repo.add(str(folder))
        assert dag.path_md5(folder, lambda: "") == stage.outs[0].hash_info.value
    (folder / ".gitignore").write_text("/x")
    assert dag.path_md5(folder, lambda: "") == stage.outs[0].hash_info.value
    (folder / "b.txt").write_text("c")
    assert dag.path_md5(folder, lambda: "") != stage.outs[0].hash_info.value


def test_lock_digests_are_used_only_when_trusted(tmp_path: Path) -> None:
    (tmp_path / "data/made").mkdir(parents=True)
    (tmp_path / "data/made/a").write_text("a")
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines/judge.py").write_text("")
    (tmp_path / "dvc.lock").write_text("stages: {make: {cmd: x, outs: [{path: data/made, md5: abc.dir}]}}")
    stages = dag.parse_dag(TEXT, PARAMS)
    trusted = dag.dependency_digests(tmp_path, stages, "judge@a", trust_lock=True)
    assert trusted == {"data/made": "abc.dir", "pipelines/judge.py": "d41d8cd98f00b204e9800998ecf8427e"}
    read = dag.dependency_digests(tmp_path, stages, "judge@a", trust_lock=False)
    assert read["data/made"] == dag.path_md5(tmp_path / "data/made", lambda: "")
    (tmp_path / "data/made/a").unlink()
    (tmp_path / "data/made").rmdir()
    with pytest.raises(FileNotFoundError, match=r"run `dvc repro make` first"):
        dag.dependency_digests(tmp_path, stages, "judge@a", trust_lock=False)


def test_lock_digest_knows_only_the_stages_asked_for() -> None:
    lock = {"a": {"cmd": "x"}, "b": {"cmd": "y"}}
    assert dag.lock_digest(lock, {"a"}) == dag.lock_digest({"a": {"cmd": "x"}, "record": {"cmd": "z"}}, {"a"})
    assert dag.lock_digest(lock, {"a"}) != dag.lock_digest(lock, {"a", "b"})
