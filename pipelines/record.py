"""Write the pipeline's MLflow run and eval/run.json: the last stage of the DAG."""

from __future__ import annotations

import sys

from facegen import dag
from facegen.artifacts import write_json
from facegen.record import pipeline_facts, write_pipeline_run
from pipelines.stage import Stage, main


def run(stage: Stage) -> None:
    """Tie the stages' runs together; what MLflow cannot take is no reason to fail."""
    facts = pipeline_facts(dag.load_dag(stage.root), dag.read_lock(stage.root))
    if stage.tracker:
        lost = write_pipeline_run(stage.tracker, stage.home, stage.root, facts)
        if lost:
            remedy = "`facegen record --from-git HEAD` makes them from dvc.lock once it is committed"
            sys.stderr.write(f"record: MLflow has no run of {', '.join(lost)}; {remedy}\n")
    write_json(stage.root / "eval/run.json", {**facts, "key": stage.key})


if __name__ == "__main__":
    main(run)
