"""What every tab's events have in common: errors in one line, pictures as files to download, seeds from the dice."""

from __future__ import annotations

import functools
import html
import inspect
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import typer
from PIL import Image

from facegen.artifacts import canonical_json
from facegen.errors import FacegenError
from facegen.grids import save_png

MAX_SEED = 2**31 - 1
KEPT_FOLDERS = 200  # of pictures that were made; older ones are deleted
METADATA_KEY = "facegen"  # of the text in each PNG

MODEL_EVENT: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
"""Of each event that computes with a network: one after the other, in all tabs together."""
LIGHT_EVENT: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""Of each event that is over at once."""
USER_ERRORS = (ValueError, FileNotFoundError, PermissionError, FacegenError)


def one_line(run: Callable[..., Any]) -> Callable[..., Any]:
    """Return the event handler (a function or a generator) that tells every error in the page, in one line.

    A user's mistake is told as it is; anything else is a fault of ours, and the terminal is told of it, too.
    """

    @functools.wraps(run)
    def call(*arguments: Any, **keywords: Any) -> Any:
        try:
            return run(*arguments, **keywords)
        except Exception as error:
            raise _told(error) from None

    @functools.wraps(run)
    def step(*arguments: Any, **keywords: Any) -> Iterator[Any]:
        try:
            yield from run(*arguments, **keywords)
        except Exception as error:
            raise _told(error) from None

    return step if inspect.isgeneratorfunction(run) else call


def said(error: Exception) -> str:
    """Return what an error says, in one line."""
    return " ".join(str(error).split())


def toast(text: str) -> str:
    """Return a text as a message of the page takes it: gradio reads it as HTML, and a prompt's <id:0> would be a tag."""
    return html.escape(text, quote=False)


def _told(error: Exception) -> gr.Error:
    if isinstance(error, gr.Error):
        return error
    text = said(error)
    if not isinstance(error, USER_ERRORS):
        text = f"This did not work: {type(error).__name__}: {text}"
        typer.echo(f"facegen: {text}", err=True)
    return gr.Error(toast(text), title="", print_exception=False)


def seed_controls(prefix: str) -> gr.Number:
    """Draw a seed and its dice where it is called; the dice is rolled in the browser."""
    with gr.Row(elem_classes="seed"):
        seed = gr.Number(
            0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, min_width=90, scale=4, elem_id=f"{prefix}-seed"
        )
        dice = gr.Button("Random", min_width=84, scale=0, elem_id=f"{prefix}-dice", elem_classes="dice")
    dice.click(None, None, seed, js=f"() => Math.floor(Math.random() * {MAX_SEED})", api_visibility="private")
    return seed


def new_folder(files: Path, kind: str = "made") -> Path:
    """Return a new folder for what one request makes; of the older ones of its kind the newest stay."""
    made = sorted(files.glob(f"{kind}-*"), key=lambda folder: folder.name)
    for folder in made[: max(0, len(made) + 1 - KEPT_FOLDERS)]:
        shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{kind}-{time.time_ns():020d}-", dir=files))


def shown_file(files: Path, picture: np.ndarray | Image.Image) -> str:
    """Write a picture that is only looked at, under a name of its own, and return its path.

    Gradio names a picture that it writes itself by its content, and so may write a file that it is just sending.
    """
    path = new_folder(files, "view") / "view.png"
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(path, "PNG", compress_level=1)
    return str(path)


def write_pictures(
    folder: Path, images: np.ndarray, seeds: Sequence[int], *, about: Mapping[str, object]
) -> list[Path]:
    """Write each of the images, uint8 (N, H, W, 3), as folder/face-SEED.png, with `about` and its seed as text."""
    paths = []
    for image, seed in zip(images, seeds, strict=True):
        paths.append(folder / f"face-{seed:06d}.png")
        text = canonical_json({**about, "seed": seed})
        save_png(paths[-1], Image.fromarray(image), metadata={METADATA_KEY: text})
    return paths


def write_zip(path: Path, pictures: Sequence[Path]) -> Path:
    """Write the pictures into one archive (stored: PNG does not shrink) and return its path."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for picture in pictures:
            archive.writestr(zipfile.ZipInfo(picture.name), picture.read_bytes())
    return path
