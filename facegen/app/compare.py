"""The tab that compares: the baseline and several guidance values, the same seeds and attributes in every row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from facegen.app.attributes import attribute_controls
from facegen.app.events import METADATA_KEY, MODEL_EVENT, new_folder, one_line, seed_controls
from facegen.app.generate import PROGRESS, clear_button
from facegen.app.models import Models, asked_states, make_request
from facegen.artifacts import canonical_json
from facegen.grids import image_grid, save_png
from facegen.sample_sets import TILE_PX

GUIDANCE_CHOICES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
GUIDANCE_CHOSEN = (1.0, 2.0, 4.0)
MAX_COLUMNS = 12


def compare_tab(models: Models, files: Path) -> None:
    """Draw the tab where it is called.

    Args:
        models: what to compute with.
        files: the folder of pictures that were made.
    """
    facts = models.facts
    with gr.Row(equal_height=False, elem_classes="sides"):
        with gr.Column(scale=4, min_width=340):
            gr.Markdown("One row for each choice; a column starts from the same seed.", elem_classes="hint")
            controls = attribute_controls(facts.attribute_names, open_word="any", prefix="compare", strengths=False)
            clear_button(controls, "compare")
        with gr.Column(scale=6, min_width=340):
            guidances = gr.CheckboxGroup(
                [(f"{g:g}", g) for g in GUIDANCE_CHOICES], value=list(GUIDANCE_CHOSEN), label="Guidance of the DiT",
                elem_id="compare-guidances",
            )  # fmt: skip
            gan = gr.Checkbox(facts.has_gan, label="With the DCGAN baseline", visible=facts.has_gan,
                              container=False, elem_id="compare-gan")  # fmt: skip
            with gr.Row():
                seed = seed_controls("compare")
                number = gr.Slider(1, MAX_COLUMNS, value=6, step=1, label="Pictures in a row", buttons=[],
                                   elem_id="compare-number", min_width=120)  # fmt: skip
                steps = gr.Slider(1, 100, value=facts.num_steps, step=1, label="Steps", buttons=[],
                                  elem_id="compare-steps", min_width=120)  # fmt: skip
            run = gr.Button("Compare", variant="primary", elem_id="compare-run")
            grid = gr.Image(show_label=False, interactive=False, type="filepath", format="png", height=430,
                            buttons=["download", "fullscreen"], elem_id="compare-grid")  # fmt: skip
            download = gr.DownloadButton("Download (PNG)", interactive=False, size="sm", elem_id="compare-download")
    run.click(
        _comparer(models, files), [guidances, gan, seed, number, steps, *controls.components], [grid, download],
        show_progress_on=grid, **MODEL_EVENT,
    )  # fmt: skip


def _comparer(models: Models, files: Path) -> Callable[..., Any]:
    names = models.facts.attribute_names

    @one_line
    def compare(
        guidances: Sequence[float], gan: bool, seed: float, number: float, steps: float, *states: float,  # noqa: FBT001
        progress: gr.Progress = PROGRESS,
    ) -> tuple[str, gr.DownloadButton]:  # fmt: skip
        if not guidances and not gan:
            raise ValueError("Choose a guidance value, or the baseline: there is nothing to compare")
        seeds, chosen = list(range(int(seed), int(seed) + int(number))), sorted(guidances)
        rows, labels = [], []
        for i, guidance in enumerate(chosen):
            request = make_request(names, states, [0.0] * len(names), steps=steps, guidance=guidance)

            def on_step(done: int, total: int, before: int = i) -> None:
                progress((before + done / total) / len(chosen), desc=f"guidance {chosen[before]:g}, step {done}")

            rows.append(models.generate(request, seeds, on_step=on_step))
            labels.append(f"DiT\nguidance {guidance:g}")
        attributes = asked_states(names, states)
        if gan:
            rows.append(models.generate_gan(attributes, seeds))
            labels.append("DCGAN")
        about = {"attributes": attributes, "guidance": chosen, "gan": gan, "steps": int(steps), "seeds": seeds}
        path = str(new_folder(files) / f"compare-{seeds[0]:06d}.png")
        picture = image_grid(
            np.stack(rows), row_labels=labels, column_labels=[f"seed {s}" for s in seeds],
            scale=max(1, TILE_PX // rows[0].shape[1]),
        )  # fmt: skip
        save_png(path, picture, metadata={METADATA_KEY: canonical_json(about)})
        return path, gr.DownloadButton(value=path, interactive=True)

    return compare
