"""Write the page that shows the results: eval/metrics.json, eval/plots, eval/samples -> eval/report.html."""

from __future__ import annotations

from facegen.artifacts import atomic_write_bytes
from facegen.report import build_report
from pipelines.stage import Stage, main


def run(stage: Stage) -> None:
    """Build the page."""
    atomic_write_bytes(stage.root / "eval/report.html", build_report(stage.root / "eval").encode())


if __name__ == "__main__":
    main(run)
