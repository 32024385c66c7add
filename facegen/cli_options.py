"""Options and exit codes that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

USER_ERROR = 2  # also what typer exits with for wrong options
FAILED = 1

ParamsPath = Annotated[Path, typer.Option("--params", help="The parameter file.", metavar="FILE")]
ModelFolder = Annotated[
    Path, typer.Option("--model", metavar="FOLDER", help="data/models, or what `facegen export` wrote.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Steps = Annotated[int | None, typer.Option("--steps", min=1, max=1000, help="Solver steps (else the model's own).")]
Guidance = Annotated[
    float | None, typer.Option("--guidance", min=0, max=100, help="Guidance scale; 1 is none (else the model's own).")
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the first picture; the next ones count on.")]
