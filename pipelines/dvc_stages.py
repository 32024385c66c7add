"""Single stages run by DVC: the graph that orders them, the command for one, and what its output says."""

from __future__ import annotations

import re
import sys
from pathlib import Path

_TAIL_LINES = 15


def stage_graph(root: Path, targets: list[str] | None = None) -> dict[str, set[str]]:
    """Return the stages that each stage waits for, in an order that can be run, from DVC's graph.

    Args:
        targets: stages to run with all that they need; all stages if None.
    """
    from dvc.repo import Repo
    from dvc.stage import PipelineStage
    from networkx import descendants, topological_sort

    with Repo(str(root)) as repo:
        graph = repo.index.graph
        wanted = set(graph)
        if targets:
            chosen = {stage for target in targets for stage in repo.stage.collect(target)}
            wanted = chosen.union(*(descendants(graph, stage) for stage in chosen))
        order = [s for s in reversed(list(topological_sort(graph))) if s in wanted and isinstance(s, PipelineStage)]
        known = {stage.addressing for stage in order}
        return {s.addressing: {d.addressing for d in graph.successors(s)} & known for s in order}


def state_of(output: str) -> str:
    """Return what DVC did, from what it printed: ran, restored (from its cache) or skipped."""
    if "is cached - skipping run" in output:
        return "restored"
    return "ran" if "Running stage" in output else "skipped"


def changed_stages(root: Path) -> set[str]:
    """Return the stages whose own code, parameters, inputs or outputs are not those of dvc.lock."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        return set(repo.status())


def repro_command(address: str) -> list[str]:
    """Return the command that runs one stage if it has to be; others may run beside it."""
    return [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "-s", address]


def exit_code(output: str) -> int | None:
    """Return the stage's own exit code, where DVC said it in this output."""
    found = re.findall(r"exited with (-?\d+)", output)
    return int(found[-1]) if found else None


def tail(output: str) -> str:
    """Return the last lines of a stage's output, of a progress bar its last state."""
    return "\n".join(re.split(r"[\r\n]+", output.strip())[-_TAIL_LINES:])
