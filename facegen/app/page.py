"""The page in the browser: `facegen app`. It talks to no host but its own, and keeps nothing once it has ended.

facegen.cli_app sets the environment that gradio reads when it is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gradio as gr
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from facegen.app.compare import compare_tab
from facegen.app.edit import edit_tab
from facegen.app.generate import generate_tab
from facegen.app.models import Models
from facegen.app.personalize import personalize_tab
from facegen.app.style import CSS, theme

MAX_UPLOAD = "32mb"


def build(models: Models, files: Path, *, max_megapixels: float | None) -> gr.Blocks:
    """Return the page.

    Args:
        models: what to compute with.
        files: an existing folder for the pictures that are made; gradio serves it.
    """
    with gr.Blocks(title="facegen", analytics_enabled=False) as page:
        gr.HTML("<h1>facegen</h1><p>Faces from attributes. Equal settings and seed give equal pictures.</p>",
                elem_id="title", container=False)  # fmt: skip
        with gr.Tabs() as tabs:
            with gr.Tab("Generate", id="generate"):
                generated = generate_tab(models, files)
            if edit := models.facts.edit:
                with gr.Tab("Edit", id="edit"):
                    edit_tab(
                        models, files, generated, tabs, edit=edit,
                        max_megapixels=edit.max_megapixels if max_megapixels is None else max_megapixels,
                    )  # fmt: skip
            if people := models.facts.people:
                with gr.Tab("Personalise", id="personalize"):
                    personalize_tab(
                        models, files, people=people,
                        max_megapixels=people.max_megapixels if max_megapixels is None else max_megapixels,
                    )  # fmt: skip
            with gr.Tab("Compare", id="compare"):
                compare_tab(models, files)
        if models.facts.no_people:
            gr.Markdown(
                f"There is no tab for given people: {models.facts.no_people}", elem_classes="hint", elem_id="missing"
            )
    page.queue(default_concurrency_limit=1, max_size=64)
    return page


async def gone(request: Request, error: Exception) -> Response:
    """Answer nobody: a page that is closed during an upload is no error of the server's."""
    return Response(status_code=499)


def launch(
    models: Models,
    *,
    files: Path,
    host: str,
    port: int | None,
    open_browser: bool,
    max_megapixels: float | None,
    say: Callable[[str], None],
) -> None:
    """Serve the page until the process is interrupted; the generator opens while the page is there already.

    Args:
        models: what to compute with.
        files: see `build`.
        host, port: where to listen; None is the first free port from 7860 on.
        open_browser: open the page on this machine.
        say: told the address, and when the model is open.

    Raises:
        ValueError: if the port is in use, or the model cannot be opened.
    """
    page = build(models, files, max_megapixels=max_megapixels)
    try:
        _, address, _ = page.launch(
            server_name=host, server_port=port, inbrowser=open_browser, share=False, quiet=True, prevent_thread_lock=True,
            show_error=False, footer_links=[], run_history=False, max_file_size=MAX_UPLOAD, enable_monitoring=False,
            ssr_mode=False, pwa=False, mcp_server=False, theme=theme(), css=CSS,
            app_kwargs={"exception_handlers": {ClientDisconnect: gone}},
        )  # fmt: skip
    except OSError as error:
        raise ValueError(f"port {port} of {host} cannot be had ({error}); name another with --port") from None
    say(f"facegen app at {address}")
    try:
        models.open()
        say("the model is open; stop with Ctrl-C")
        page.block_thread()
    finally:
        page.close(verbose=False)
