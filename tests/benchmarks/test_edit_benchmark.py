"""The benchmark of edits, at toy size: every method is timed, and the ratios are those of the seconds."""

from __future__ import annotations

import json

import pytest

from facegen.edit import METHODS


def test_every_method_is_timed_beside_blend(tmp_path, capsys) -> None:
    from benchmarks.edit import main

    main(["--toy", "--repeats", "1", "--output", str(tmp_path / "deep" / "results.json")])
    results = json.loads((tmp_path / "deep" / "results.json").read_text())
    rows = {row["method"]: row for row in results["methods"]}
    assert tuple(rows) == METHODS and results["resolution"] == 16
    for row in rows.values():
        assert row["seconds"] > 0 and row["ratio"] == pytest.approx(row["seconds"] / rows["blend"]["seconds"])
    assert (
        rows["blend"]["evaluations"] == 8
        and rows["guided"]["evaluations"] == 12
        and rows["invert"]["evaluations"] == 24
    )
    assert results["default"] == "blend" and results["default_s"] == rows["blend"]["seconds"]
    said = capsys.readouterr().out
    assert "blend" in said and "(default)" in said and "allowed: 3 s" in said
