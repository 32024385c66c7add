"""The benchmark of two stages, at toy size: all ways are measured on one batch, and the published one agrees."""

from __future__ import annotations

import json

import pytest


def test_every_way_is_timed_and_the_published_one_gives_the_same_pictures(tmp_path, capsys) -> None:
    from benchmarks.two_stage import WAYS, main

    arguments = ["--toy", "--images", "6", "--runs", "6", "--repeats", "1"]
    main([*arguments, "--output", str(tmp_path / "deep" / "results.json")])
    results = json.loads((tmp_path / "deep" / "results.json").read_text())
    rows = {row["way"]: row for row in results["ways"]}
    assert tuple(rows) == WAYS and results["difference"] < 1e-3
    for row in rows.values():
        assert row["seconds_per_image"] > 0
        assert row["ratio"] == pytest.approx(row["seconds_per_image"] / rows["one_stage"]["seconds_per_image"])
    assert rows["one_stage"]["evaluations"] == rows["published"]["evaluations"] == 16
    assert 8 < rows["adaptive_injection"]["evaluations"] == rows["adaptive"]["evaluations"] < 16
    assert "of one_stage" in capsys.readouterr().out


def test_pictures_that_differ_are_no_comparison(monkeypatch) -> None:
    from benchmarks import two_stage

    monkeypatch.setattr(two_stage, "TOLERANCE", -1.0)
    with pytest.raises(AssertionError, match="gives other pictures"):
        two_stage.main(["--toy", "--images", "3", "--runs", "4", "--repeats", "0"])
