"""One page that shows what a run made and how good it is: eval/report.html, which needs nothing but itself.

It reads what score, sample, edit, identities, personalize and dit_mapper wrote (eval/metrics.json, eval/preprocess.json,
eval/plots, eval/samples, eval/edits, eval/identities, eval/personalize, eval/personalize-dit). Every figure comes with its
number of images, its interval, the floor it is to be read against, and a sentence that says how.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from facegen.artifacts import read_json
from facegen.attributes import ABSENT, UNKNOWN
from facegen.charts import drawn_curves, figure_svg, interval_chart, loss_chart, read_csv, time_chart
from facegen.data.samples import COMBINATION, FLIP, PRIOR, STRENGTH, Samples, read_samples
from facegen.report_edits import TEMPLATE as PHOTOGRAPHS
from facegen.report_edits import edit_section, upscale_section
from facegen.report_identities import PEOPLE_HEADLINES, PEOPLE_READINGS, PEOPLE_TABLES, people_section
from facegen.report_identities import TEMPLATE as PEOPLE
from facegen.report_personalize import (
    DIT_GRIDS,
    GIVEN_GRIDS,
    PERSONALIZE_HEADLINES,
    PERSONALIZE_READINGS,
    PERSONALIZE_TABLES,
    personalize_section,
)
from facegen.report_personalize import TEMPLATE as GIVEN
from facegen.report_tables import GENERATORS, comparison, control_table, judge_table
from facegen.report_text import HEADLINES, READINGS
from facegen.score_charts import gan_figures, guidance_chart, point_chart, reliability_chart, roc_chart

TEMPLATE = "templates/report.html"
GAP_PX = 2
PRIOR_COLUMNS, PRIOR_ROWS = 16, 5
CURVES = {"frechet_by_images": ("thousand images seen", 1e-3), "frechet_by_steps": ("solver steps", 1.0)}
WEBP = {"quality": 92, "method": 4}
ALL_READINGS = READINGS | PEOPLE_READINGS | PERSONALIZE_READINGS
ALL_HEADLINES = (*HEADLINES, *PEOPLE_HEADLINES, *PERSONALIZE_HEADLINES)
PEOPLE_GRIDS = {
    "identities/people": "People of the data set",
    "identities/stages": "The methods, from the same noise",
}
EDIT_TABLE = re.compile(r"edit\.\w+\.(directions|attributes|regions|areas)")  # of eval/metrics.json


@dataclass(frozen=True)
class Figure:
    """One figure of eval/metrics.json in words."""

    name: str  # dotted
    label: str
    value: str
    interval: str  # "low to high", or empty
    n: str
    reading: str


@dataclass(frozen=True)
class Strip:
    """One picture of tiles in rows, with its label."""

    label: str
    uri: str
    columns: int
    rows: int


def build_report(folder: Path) -> str:
    """Return the page.

    Args:
        folder: eval/, with metrics.json, preprocess.json, plots/, samples/, edits/ and identities/; where they were
            made, personalize/ and personalize-dit/, too.

    Raises:
        FileNotFoundError: if one of the first is missing.
        DamagedArtifactError: if one is not what it should be.
    """
    metrics, data = read_json(folder / "metrics.json"), read_json(folder / "preprocess.json")
    parameters = read_json(folder / "plots/parameters.json") | read_json(folder / "plots/manifest.json")["parameters"]
    samples = read_samples(folder / "samples/dit.parquet")
    figures = list(all_figures(metrics))
    by_name = {figure.name: figure for figure in figures}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template(TEMPLATE)
    return page.render(
        facts=run_facts(parameters, data, read_json(folder / "plots/models.json"), num_prior=len(samples.of(PRIOR))),
        headlines=[by_name[name] for name in ALL_HEADLINES if name in by_name],
        ratio=metrics["dit"]["frechet"]["value"] / max(metrics["floor"]["frechet"]["value"], 1e-12),
        figures=figures,
        extractor=metrics["extractors"]["frechet"],
        generator_names=list(GENERATORS.values()),
        comparison=comparison(metrics),
        control=control_table(metrics),
        judges=judge_table(metrics),
        recognizer=metrics["recognizer"],
        heat_map=embedded_png(folder / "plots/interventions.png"),
        generators=embedded_png(folder / "plots/generators.png"),
        closest=embedded_png(folder / "plots/closest.png"),
        charts=charts(folder / "plots", gan_figures(metrics)),
        photographs=PHOTOGRAPHS,
        edit=edit_section(metrics["edit"], folder),
        edit_grids=[(readable(path.stem), embedded_png(path)) for path in sorted((folder / "edits").glob("*.png"))],
        upscale=upscale_section(metrics["upscale"]),
        upscaling_strip=embedded_png(folder / "plots/upscaling.png"),
        people_template=PEOPLE,
        people=people_section(metrics["identities"], metrics["verification"], folder),
        people_grids=embedded_grids(folder, PEOPLE_GRIDS),
        given_template=GIVEN,
        given=personalize_section(metrics, folder),
        given_grids=embedded_grids(folder, GIVEN_GRIDS),
        dit_grids=embedded_grids(folder, DIT_GRIDS),
        flips=flip_strips(samples, columns=parameters["sample.grid_columns"]),
        combinations=combination_strips(samples),
        strengths=strength_strips(samples, num_scales=len(parameters["sample.strengths"])),
        scales=parameters["sample.strengths"],
        guidance=parameters["sample.guidance_scale"],
        prior=sheet("", fold(samples.of(PRIOR).images()[: PRIOR_COLUMNS * PRIOR_ROWS], PRIOR_COLUMNS)),
        pairs=pair_strips(folder / "plots/reconstruction_pairs.png", size=samples.resolution),
        data=data,
        attribute_names=[readable(name) for name in data["attribute_names"]],
        parameters=by_section(parameters),
    )


def all_figures(metrics: Mapping[str, Any], prefix: str = "") -> list[Figure]:
    """Return every number of eval/metrics.json by dotted name; {value, low, high, n} is one figure.

    The tables of the methods of editing, of synthetic people and of given ones are left out: hundreds of figures, which
    their sections show.
    """
    found: list[Figure] = []
    for key, item in metrics.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping) and "value" in item:
            interval = f"{number(item['low'])} to {number(item['high'])}" if "low" in item else ""
            n = f"{item['n']:,}" if "n" in item else ""
            label, reading = ALL_READINGS.get(name, (readable(name.replace(".", ": ")), ""))
            found.append(Figure(name, label, number(item["value"]), interval, n, reading))
        elif isinstance(item, Mapping) and name != "extractors" and not _is_table(name):
            found += all_figures(item, f"{name}.")
        elif isinstance(item, int | float):
            label, reading = ALL_READINGS.get(name, (readable(name.replace(".", ": ")), ""))
            found.append(Figure(name, label, number(item), "", "", reading))
    return found


def _is_table(name: str) -> bool:
    return any(table.fullmatch(name) for table in (EDIT_TABLE, PEOPLE_TABLES, PERSONALIZE_TABLES))


def run_facts(
    parameters: Mapping[str, Any], data: Mapping[str, Any], models: Mapping[str, Any], *, num_prior: int
) -> list[tuple[str, str]]:
    """Return what was run, as (name, sentence)."""
    faces, p = data["faces"], parameters
    people = f" of {data['identities']:,} people" if data["identities"] else ""
    side, factor = data["resolution"], models["factor"]
    low, high = p["sample.guidance_interval"]
    trained = (
        f", {p['autoencoder.total_images']:,} images seen"
        if p["autoencoder.mode"] != "pretrained"
        else ", as published"
    )
    return [
        ("Data", f"{sum(faces.values()):,} faces{people} at {side} px, {len(data['attribute_names'])} attributes; "
                 f"{faces['train']:,} train, {faces['val']:,} validation, {faces['test']:,} test"),
        ("Autoencoder", f"{millions(models['parameters']['autoencoder'])} parameters, factor {factor}, latents "
                        f"{side // factor} × {side // factor} × {models['latent_channels']}{trained}"),
        ("LatentDiT", f"{millions(models['parameters']['dit'])} parameters, {p['dit.hidden_size']} wide, "
                      f"{p['dit.depth']} deep, {p['dit.total_images']:,} images seen"),
        ("Samples", f"{p['sample.scheduler']}, {p['sample.num_steps']} steps, guidance {p['sample.guidance_scale']:g} "
                    f"for t in [{low:g}, {high:g}]; {num_prior:,} for the score"),
    ]  # fmt: skip


def charts(plots: Path, gan: Mapping[str, float]) -> dict[str, Markup]:
    """Return the charts that eval/plots has tables for, as SVG, by name; gan: figures to draw beside the guidance curve."""
    drawn = {}
    for name in ("dit_loss", "autoencoder_loss", "gan_loss"):
        if (plots / f"{name}.csv").is_file():
            log = read_csv(plots / f"{name}.csv")
            drawn[name] = loss_chart(log["images"], drawn_curves(log), ylabel="loss")
    if (plots / "dit_loss_by_time.csv").is_file():
        table = read_csv(plots / "dit_loss_by_time.csv")
        drawn["dit_loss_by_time"] = time_chart({name: values for name, values in table.items() if name != "t"})
    for name, (xlabel, scale) in CURVES.items():
        table = read_csv(plots / f"{name}.csv")
        x = next(iter(table))
        drawn[name] = point_chart(
            table | {x: table[x] * scale}, x=x, xlabel=xlabel, ylabel=f"Fréchet distance, N = {table['n'][0]:,.0f}",
            floor=None, logarithmic=True,
        )  # fmt: skip
    drawn["guidance"] = guidance_chart(read_csv(plots / "guidance.csv"), baselines=gan)
    drawn["roc"] = roc_chart(read_csv(plots / "roc.csv"))
    drawn["reliability"] = reliability_chart(read_csv(plots / "reliability.csv"))
    table = read_csv(plots / "frechet.csv")
    drawn["frechet"] = interval_chart(
        list(table["set"]), table["value"], table["low"], table["high"], xlabel="Fréchet distance to test images"
    )
    return {name: Markup(figure_svg(figure, name=name)) for name, figure in drawn.items()}


def flip_strips(samples: Samples, *, columns: int) -> list[Strip]:
    """Return, for each attribute, its images without it above those with it, the same noise in each column."""
    strips = []
    for name in samples.set_names:
        if name.startswith(FLIP):
            images = samples.of(name).images()
            pairs = images.reshape(-1, 2, *images.shape[1:])[:columns]
            strips.append(sheet(readable(name.removeprefix(FLIP)), pairs.swapaxes(0, 1)))
    return strips


def combination_strips(samples: Samples) -> list[Strip]:
    """Return one row of images for each combination of attributes, the same noise in each column."""
    if COMBINATION not in samples.set_names:
        return []
    rows = samples.of(COMBINATION)
    blocks = groupby(zip(rows.attributes, rows.images(), strict=True), key=lambda pair: pair[0].tolist())
    names = samples.attribute_names
    return [
        sheet(request_label(states, names), np.stack([image for _, image in block])[None]) for states, block in blocks
    ]


def strength_strips(samples: Samples, *, num_scales: int) -> list[Strip]:
    """Return, for each attribute, its images at rising guidance from left to right, one row a seed."""
    strips = []
    for name in samples.set_names:
        if name.startswith(STRENGTH):
            images = samples.of(name).images()
            blocks = images.reshape(num_scales, -1, *images.shape[1:])
            strips.append(sheet(readable(name.removeprefix(STRENGTH)), blocks.swapaxes(0, 1)))
    return strips


def pair_strips(path: Path, *, size: int) -> Strip:
    """Return the reconstructions of eval/plots as a strip: images above, reconstructions below."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    return sheet("", pixels.reshape(2, size, -1, size, 3).swapaxes(1, 2))


def sheet(label: str, images: np.ndarray) -> Strip:
    """Return images, uint8 (R, C, H, W, 3), as one WebP in a data URI; what is between them is transparent."""
    rows, columns, height, width, _ = images.shape
    canvas = np.zeros((rows * (height + GAP_PX) - GAP_PX, columns * (width + GAP_PX) - GAP_PX, 4), np.uint8)
    for r in range(rows):
        for c in range(columns):
            y, x = r * (height + GAP_PX), c * (width + GAP_PX)
            canvas[y : y + height, x : x + width, :3] = images[r, c]
            canvas[y : y + height, x : x + width, 3] = 255
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "WEBP", **WEBP)
    return Strip(label, f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}", columns, rows)


def embedded_png(path: Path) -> str | None:
    """Return a picture of eval/plots as a data URI, recompressed; None if it was not made."""
    if not path.is_file():
        return None
    buffer = io.BytesIO()
    with Image.open(path) as picture:
        picture.convert("RGB").save(buffer, "WEBP", **WEBP)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def embedded_grids(folder: Path, labels: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return (label, data URI) of the pictures that were made; labels are those of paths without their ending."""
    made = ((label, embedded_png(folder / f"{name}.png")) for name, label in labels.items())
    return [(label, uri) for label, uri in made if uri is not None]


def fold(images: np.ndarray, columns: int) -> np.ndarray:
    """Return N images as full rows of at most `columns`; what does not fill a last row is left out."""
    columns = min(columns, len(images))
    rows = len(images) // columns
    return images[: rows * columns].reshape(rows, columns, *images.shape[1:])


def by_section(parameters: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Return (key, value) pairs by the first part of the dotted name, sorted."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for name in sorted(parameters):
        section, _, key = name.partition(".")
        sections.setdefault(section, []).append((key, parameter_text(parameters[name])))
    return sections


def parameter_text(value: Any) -> str:
    """Return a parameter's value as it would stand in params.yaml, in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {parameter_text(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(parameter_text(item) for item in value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)


def request_label(states: Sequence[int], names: Sequence[str]) -> str:
    """Return what was asked for in words: "Male, not Smiling"."""
    parts = [("not " if s == ABSENT else "") + readable(n) for s, n in zip(states, names, strict=True) if s != UNKNOWN]
    return ", ".join(parts) or "anything"


def readable(name: str) -> str:
    """Return a name without underscores."""
    return name.replace("_", " ")


def number(value: float) -> str:
    """Return a figure with three significant digits, or all digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")


def millions(count: int) -> str:
    """Return a large count in millions, a small one in thousands."""
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.0f} k"
