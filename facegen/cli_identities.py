"""`facegen identities`: a data set of synthetic people, of any size, drawn by any number of processes and hosts.

All processes name the same folder OUT, each its own --shard. What is done is kept: the same command goes on after a kill,
and whichever shard finds all chunks there screens the people and writes the set. OUT/.work holds the chunks until then.
"""

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facegen.cli_options import Device, Guidance, ModelFolder, ParamsPath, Steps

if TYPE_CHECKING:
    from facegen.config_sections import Identities
    from facegen.identities.dataset import PeopleSettings, Prepared, RealPeople
    from facegen.identities.generation import Plan

WORK = ".work"

Out = Annotated[Path, typer.Argument(metavar="OUT", help="The folder of the data set; all shards share it.")]
People = Annotated[int | None, typer.Option("--people", "-k", min=1, help="How many people are wanted.")]
Images = Annotated[int | None, typer.Option("--images", "-m", min=1, help="Pictures of each.")]
Shard = Annotated[str, typer.Option("--shard", metavar="I/N", help="Which part of the drawing this process does.")]
Source = Annotated[
    str | None,
    typer.Option(
        "--source",
        metavar="gaussian|whitened|FILE",
        help="Where identities come from; a FILE (.npy, .safetensors) has one a row.",
    ),
]
Attributes = Annotated[
    str, typer.Option("--attributes", "-a", metavar="NAME=0|1,...", help="What all pictures shall show, as in Male=1.")
]
Method = Annotated[
    str | None,
    typer.Option("--method", help="one_stage, fixed, fixed_injection, adaptive or adaptive_injection."),
]
DataFolder = Annotated[
    Path, typer.Option("--data", metavar="FOLDER", help="latents/ and faces/ that the model was trained on.")
]


def identities(
    out: Out,
    people: People = None,
    images: Images = None,
    shard: Shard = "1/1",
    source: Source = None,
    attributes: Attributes = "",
    method: Method = None,
    guidance: Guidance = None,
    steps: Steps = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of the whole set (else base.seed).")] = None,
    spare: Annotated[
        float | None, typer.Option("--spare", min=0, max=10, help="Further people, as a share, for those sorted out.")
    ] = None,
    max_cosine: Annotated[
        float | None,
        typer.Option(
            "--max-cosine", min=-1, max=1, help="Of two people's identities; higher leaves room for more people."
        ),
    ] = None,
    folder: Annotated[
        bool, typer.Option("--folder/--no-folder", help="Also write the pictures as a folder per person.")
    ] = True,
    unscreened: Annotated[
        bool, typer.Option("--unscreened", help="Do not compare with training people: their data are not here.")
    ] = False,
    data: DataFolder = Path("data"),
    model: ModelFolder = Path("data/models"),
    params: ParamsPath = Path("params.yaml"),
    device: Device = "auto",
) -> None:
    """Draw a data set of people who do not exist: people.parquet, people.json and a folder per person.

    facegen identities people --people 300 --images 20 --shard 1/2
    """
    number, num_shards = _shard(shard)
    from facegen.config import load_params

    every = load_params(params)
    p = _settings(every.identities, people, images, source, method, guidance, steps, spare, max_cosine)
    seed = every.base.seed if seed is None else seed
    from facegen.artifacts import read_json
    from facegen.attributes import attribute_vector, parse_attributes
    from facegen.data.face_embedder import FaceEmbedder, available
    from facegen.device import autocast_dtype
    from facegen.identities import dataset
    from facegen.identities.generation import generate, missing
    from facegen.sampling import open_model

    pipe = open_model(model, params=params, device=device)
    pipe.set_progress_bar_config(disable=True)
    wanted = parse_attributes(attributes, pipe.attribute_names)
    states = attribute_vector(wanted, pipe.attribute_names) if wanted else None
    if not available(model / "recognizer-condition"):
        raise ValueError(f"{model} holds no recognizer-condition; pictures of people cannot be told apart without it")
    threads = every.machine.threads
    embedder = FaceEmbedder.load(model / "recognizer-condition", threads=threads)
    real = None if unscreened else dataset.real_people(data, embedder, threads=threads)
    sampler = dataset.open_sampler(pipe, p, dtype=autocast_dtype(every.base.precision))
    networks = _networks(model) | {"recognizer-condition": embedder.sha256}
    prepared = dataset.prepare(
        out / WORK, sampler, p, seed=seed, training=None if real is None else real.training,
        contexts=None if p.contexts is None else Path(p.contexts), model_sha256=networks["dit"], calibrate=dataset.adapts(p.method),
    )  # fmt: skip
    methods = dataset.ablation_settings(p, sampler, prepared.calibration)
    plan, draw = dataset.plan_of(
        prepared, sampler, method=p.method, settings=methods[p.method], num_people=len(prepared.vectors),
        images_per_person=p.images_per_person, seed=seed, batch_size=p.batch_size, states=states, networks=networks,
    )  # fmt: skip
    manifest = out / dataset.MANIFEST
    if manifest.is_file():
        if read_json(manifest)["plan"] != plan.described:
            raise ValueError(f"{out} holds another set of people; name a new folder")
        typer.echo(f"{out} is complete")
        return
    with _bar(plan.share(number, num_shards)) as bar:
        generate(
            plan, out / WORK / "chunks", draw, embed=lambda images: embedder.embed(images, None), shard=number,
            num_shards=num_shards, on_pictures=bar.update,
        )  # fmt: skip
    left = missing(plan, out / WORK / "chunks")
    if left:
        typer.echo(f"shard {shard} is done; {left} of {plan.num_chunks} chunks are left to other shards")
        return
    _finish(out, plan, p, prepared, real, images=folder, threads=threads)


def _finish(
    out: Path,
    plan: "Plan",
    p: "PeopleSettings",
    prepared: "Prepared",
    real: "RealPeople | None",
    *,
    images: bool,
    threads: int,
) -> None:
    """Screen and write the set, unless another process does so or has done so; then remove the chunks."""
    from facegen.errors import BusyError
    from facegen.identities import dataset
    from facegen.locking import locked

    try:
        with locked(out / WORK / "finish.lock", "the last step"):
            if (out / dataset.MANIFEST).is_file():
                return
            if real is None:
                typer.echo("facegen: --unscreened: nobody was compared with training people", err=True)
            made = dataset.write_dataset(
                out, plan, out / WORK / "chunks", p=p, prepared=prepared, real=real, images=images, threads=threads,
                warn=lambda text: typer.echo(f"facegen: {text}", err=True),
            )  # fmt: skip
            shutil.rmtree(out / WORK / "chunks")
    except BusyError:
        typer.echo("another process is writing the set")
        return
    counts = ", ".join(f"{number} {reason}" for reason, number in made["counts"].items())
    typer.echo(f"{out}: {made['people']} people, {made['pictures']} pictures ({counts})")


def _settings(
    p: "Identities",
    people: int | None,
    images: int | None,
    source: str | None,
    method: str | None,
    guidance: float | None,
    steps: int | None,
    spare: float | None,
    max_cosine: float | None,
) -> "PeopleSettings":
    """Return the section identities with what the command line says instead."""
    from dataclasses import fields

    from facegen.identities.contexts import FILE, GAUSSIAN, WHITENED
    from facegen.identities.dataset import PeopleSettings
    from facegen.identities.sampler import METHODS

    if method is not None and method not in METHODS:
        raise ValueError(f"unknown method {method!r}; allowed: {', '.join(METHODS)}")
    values = {field.name: getattr(p, field.name) for field in fields(PeopleSettings)}
    changes: dict[str, Any] = {
        "num_people": people, "images_per_person": images, "method": method, "guidance_scale": guidance,
        "num_steps": steps, "spare": spare, "max_context_cosine": max_cosine, "sweep": (), "sweep_guidance": (),
    }  # fmt: skip
    if source is not None:
        known = source in (GAUSSIAN, WHITENED)
        changes["source"] = source if known else FILE
        values["contexts"] = None if known else source
    return PeopleSettings(**values | {name: value for name, value in changes.items() if value is not None})


def _shard(text: str) -> tuple[int, int]:
    """Return (number from 0, how many) of I/N."""
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ValueError(f"--shard {text}: write I/N with I from 1 to N, as in 1/4")
    return int(number) - 1, int(count)


def _networks(model: Path) -> dict[str, str]:
    """Return the digests of the generator's networks in data/models or an exported folder."""
    from facegen.artifacts import sha256_file

    exported = (model / "model_index.json").is_file()
    folders = {"dit": "transformer", "autoencoder": "vae"} if exported else {"dit": "dit", "autoencoder": "autoencoder"}
    return {name: sha256_file(model / place / "diffusion_pytorch_model.safetensors") for name, place in folders.items()}


def _bar(pictures: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=pictures, desc="people", unit="picture", file=sys.stderr, disable=None)


COMMANDS = (identities,)
"""What `facegen.cli` registers."""
