"""`facegen app`: the page in the browser."""

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from facegen.cli_options import Device, ModelFolder, ParamsPath

QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}


def app(
    model: ModelFolder = Path("data/models"),
    params: ParamsPath = Path("params.yaml"),
    device: Device = "auto",
    host: Annotated[str, typer.Option("--host", help="Where to listen; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="Else the first free one from 7860 on.")
    ] = None,
    detector: Annotated[
        Path | None, typer.Option("--detector", metavar="FOLDER", help="An insightface detection model (SCRFD, .onnx).")
    ] = None,
    max_megapixels: Annotated[
        float | None, typer.Option("--max-megapixels", min=0.01, max=500, help="Of a photograph (else as in training).")
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page here.")] = False,
) -> None:
    """Make, edit and compare faces in the browser, on this machine alone."""
    from facegen.app.models import Models

    models = Models(model, params=params, device=device, detector=detector)
    with tempfile.TemporaryDirectory(prefix="facegen-app-") as files:
        os.environ.update(QUIET, GRADIO_TEMP_DIR=files)  # gradio reads it on import
        from facegen.app.page import launch

        launch(models, files=Path(files), host=host, port=port, open_browser=open_browser, max_megapixels=max_megapixels,
               say=lambda text: typer.echo(text, err=True))  # fmt: skip
