"""The benchmark of the distances, at toy size: both sides are measured, and they measure the same."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch_fidelity")


def test_both_sides_are_measured_and_agree(tmp_path, capsys) -> None:
    from benchmarks.frechet import main

    main(["--toy", "--output", str(tmp_path / "deep" / "results.json")])
    results = json.loads((tmp_path / "deep" / "results.json").read_text())
    (part,) = results["features"]
    assert results["num"] == 300 and part["dim"] == 16
    rows = {row["what"]: row for row in part["compared"]}
    assert rows["frechet"]["ours"] == pytest.approx(rows["frechet"]["theirs"], rel=1e-4)
    assert rows["kernel"]["ours"] == pytest.approx(rows["kernel"]["theirs"], rel=1e-3)
    assert rows["precision"]["ours"] == pytest.approx(rows["precision"]["theirs"], abs=1e-6)
    for row in rows.values():
        assert row["ratio"] == pytest.approx(row["theirs_s"] / row["ours_s"]) and row["ours_s"] > 0
    assert "theirs / ours" in capsys.readouterr().out
