"""`facegen verify`: how well a recogniser tells people apart on published pairs, folders of people, or Parquet."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

Recognizer = Annotated[
    Path, typer.Argument(metavar="RECOGNIZER", help="A recogniser's folder (data/models/recognizer-judge) or an .onnx.")
]
Data = Annotated[
    list[Path],
    typer.Argument(
        metavar="DATA...", help="NAME.bin (LFW and the like), a folder per person, a faces folder, or people.parquet."
    ),
]
Framing = Annotated[
    Literal["aligned", "face"],
    typer.Option(
        "--framing",
        help="Pictures of a folder per person, of each the largest centred square. aligned: the recogniser's own crop, "
        "five points on its template; face: framed as the faces it was trained on.",
    ),
]
Split = Annotated[Literal["train", "val", "test"], typer.Option("--split", help="Of a faces folder.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the pairs that are drawn where the data name people.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads (else all).")]
AsJson = Annotated[bool, typer.Option("--json", help="All figures as JSON instead of a table.")]

PIPE_WIDTH = 250  # a file or a pipe has no width to fit
TITLES = ("data", "kind", "pictures", "pairs", "accuracy %", "AUC %", "EER %", "TAR@FAR 1e-2 %", "TAR@FAR 1e-3 %")


def verify(
    recognizer: Recognizer,
    data: Data,
    framing: Framing = "aligned",
    split: Split = "test",
    seed: Seed = 0,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Verify a recogniser: accuracy over ten folds, AUC, EER, TAR at FAR, with 95 % intervals.

    facegen verify data/models/recognizer-judge lfw.bin data/faces
    """
    missing = [str(place) for place in data if not place.exists()]
    if missing:
        raise FileNotFoundError(f"{', '.join(missing)} does not exist")
    from facegen.verification_pairs import PairEmbedder, table_rows, verified

    count = threads or os.cpu_count() or 1
    embedder = PairEmbedder.load(recognizer, threads=count)
    assert isinstance(embedder, PairEmbedder)
    results = {
        str(place): verified(
            embedder, place, framing=framing, split=split, threads=count, seed=seed, on_done=_bar(place.name)
        )
        for place in data
    }
    if as_json:
        about = {"recognizer": {"name": embedder.name, "sha256": embedder.sha256}, "data": results}
        typer.echo(json.dumps(about, indent=2, allow_nan=False))
        return
    _print_table(table_rows(results))


def _print_table(rows: list[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*TITLES, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*map(escape, row))
    console = Console()
    (console if console.is_terminal else Console(width=PIPE_WIDTH)).print(table)


def _bar(name: str) -> Callable[[int], object]:
    """Return a callback that counts pictures on stderr where that is a terminal."""
    from tqdm import tqdm

    return tqdm(desc=name, unit="img", file=sys.stderr, dynamic_ncols=True, disable=None, leave=False).update


COMMANDS = (verify,)
