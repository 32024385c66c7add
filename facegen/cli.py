"""The command line: `facegen`. Each command is thin; what it does stands in the module that it calls.

Imports of torch, diffusers and the like stay inside the commands: `facegen --help` must start at once.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from facegen import __version__, cli_app, cli_identities, cli_personalize, cli_photos, cli_scenes, cli_verify
from facegen.cli_options import FAILED, USER_ERROR, Device, Guidance, ModelFolder, ParamsPath, Seed, Steps
from facegen.errors import FacegenError

ProfilesFolder = Annotated[Path, typer.Option("--profiles", help="The folder of profiles.", metavar="FOLDER")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One value more, as in data.root=/data/celeba; may be repeated."),
]


class OneLineErrors(TyperGroup):
    """A user's mistake ends in one message on stderr; a traceback is left to our own bugs."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; ValueError and its like are the user's, FacegenError is a damaged or busy artifact."""
        try:
            return super().invoke(ctx)
        except (ValueError, FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
            typer.echo(f"facegen: {error}", err=True)
            raise typer.Exit(USER_ERROR) from None
        except FacegenError as error:
            typer.echo(f"facegen: {error}", err=True)
            raise typer.Exit(FAILED) from None


app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Faces from attributes: samples, edits, synthetic people, scores, a page. The pipeline is run by `dvc repro`.",
)
profile_app = typer.Typer(no_args_is_help=True, help="Sets of changes to params.yaml.")
config_app = typer.Typer(no_args_is_help=True, help="The parameters of the pipeline.")
app.add_typer(profile_app, name="profile")
app.add_typer(config_app, name="config")
app.add_typer(cli_scenes.scenes_app, name="scenes")
for module in (cli_photos, cli_identities, cli_verify, cli_personalize):
    for command in module.COMMANDS:
        app.command()(command)
app.command()(cli_app.app)


def _print_version(wanted: bool) -> None:  # noqa: FBT001  (typer calls it so)
    if wanted:
        typer.echo(f"facegen {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say the version and stop.")
    ] = False,
) -> None:
    pass


@profile_app.command("list")
def profile_list(profiles: ProfilesFolder = Path("profiles")) -> None:
    """Name the profiles and say what each is for."""
    from facegen.profiles import list_profiles

    _print_table(("profile", "for"), list(list_profiles(profiles).items()))


@profile_app.command("show")
def profile_show(
    name: str, params: ParamsPath = Path("params.yaml"), profiles: ProfilesFolder = Path("profiles")
) -> None:
    """Show what a profile would change in the parameter file."""
    from facegen.profiles import changes_of, read_profile

    _print_changes(changes_of(read_profile(profiles, name), params), nothing=f"{params} holds all of profile {name}")


@profile_app.command("apply")
def profile_apply(
    name: str,
    settings: Settings = None,
    params: ParamsPath = Path("params.yaml"),
    profiles: ProfilesFolder = Path("profiles"),
) -> None:
    """Write a profile's values into the parameter file: comments kept, all of it or nothing.

    Values that the profile does not name stay as they are; `git checkout params.yaml` goes back to the defaults.
    """
    from facegen.profiles import apply_values, parse_settings, read_profile

    values = {**read_profile(profiles, name), **parse_settings(settings or [])}
    _print_changes(apply_values(values, params), nothing=f"{params} held all of it already")


@config_app.command("check")
def config_check(params: ParamsPath = Path("params.yaml")) -> None:
    """Say everything that is wrong with the parameter file, or that nothing is."""
    from facegen.config import load_params

    load_params(params)
    typer.echo(f"{params}: no fault")


@config_app.command("show")
def config_show(
    section: Annotated[str | None, typer.Argument(help="One section only, as in dit.")] = None,
    params: ParamsPath = Path("params.yaml"),
) -> None:
    """Print the checked parameters as YAML."""
    from ruamel.yaml import YAML

    from facegen.config import load_params

    values = load_params(params).model_dump(mode="json")
    if section is not None and section not in values:
        raise ValueError(f"{params} has no section {section!r}; there are {', '.join(values)}")
    stream, writer = StringIO(), YAML(typ="rt")
    writer.width = 120
    writer.representer.add_representer(
        list, lambda representer, items: representer.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)
    )
    writer.dump(values if section is None else {section: values[section]}, stream)
    typer.echo(stream.getvalue().rstrip())


@config_app.command("set")
def config_set(
    settings: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="As in dit.depth=4.")],
    params: ParamsPath = Path("params.yaml"),
) -> None:
    """Write single values into the parameter file, checked and with comments kept."""
    from facegen.profiles import apply_values, parse_settings

    _print_changes(apply_values(parse_settings(settings), params), nothing=f"{params} held all of it already")


@app.command()
def doctor(params: ParamsPath = Path("params.yaml")) -> None:
    """Say what is installed, which device there is, what is missing and how to get it."""
    from facegen.doctor import State, examine

    checks = list(examine(Path.cwd(), params))
    colours = {State.OK: "[green]ok[/]", State.NOTE: "[yellow]note[/]", State.MISSING: "[bold red]missing[/]"}
    rows = [(c.group, c.name, colours[c.state], _plain(c.found), _plain(c.remedy)) for c in checks]
    _print_table(("", "what", "state", "found", "how to get it"), rows, markup=True)
    missing = [check.name for check in checks if check.state is State.MISSING]
    if missing:
        typer.echo(f"facegen: missing: {', '.join(missing)}", err=True)
        raise typer.Exit(FAILED)


Enlarge = Annotated[int | None, typer.Option("--upscale", metavar="4", help="Enlarge with the trained upscaler.")]


@app.command()
def sample(
    attr: Annotated[str, typer.Option("--attr", "-a", metavar="NAME=0|1,...", help="As in Male=1,Smiling=0.")] = "",
    seed: Seed = 0,
    num: Annotated[int, typer.Option("--num", "-n", min=1, max=100_000, help="How many pictures.")] = 16,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A grid (.png), a data set (.parquet), or a folder of pictures.")
    ] = Path("grid.png"),
    strength: Annotated[
        list[str] | None, typer.Option("--strength", metavar="NAME=X", help="Extra guidance on one attribute.")
    ] = None,
    steps: Steps = None,
    guidance: Guidance = None,
    columns: Annotated[int | None, typer.Option("--columns", min=1, help="Pictures in a row of the grid.")] = None,
    upscale: Enlarge = None,
    model: ModelFolder = Path("data/models"),
    params: ParamsPath = Path("params.yaml"),
    device: Device = "auto",
) -> None:
    """Sample faces with the attributes that you name; what you do not name is left open.

    facegen sample --attr Male=1,Smiling=1 --seed 3 --num 16 -o grid.png
    """
    from facegen import editing, sampling
    from facegen.attributes import parse_attributes, parse_strengths

    pipe = sampling.open_model(model, params=params, device=device)
    names = pipe.attribute_names
    wanted, strengths = parse_attributes(attr, names), parse_strengths(strength or [], names)
    states, seeds = sampling.repeated(wanted, names, num), list(range(seed, seed + num))
    enlarge = editing.enlarger(model, upscale, device=pipe.device)
    images = enlarge(sampling.sample(pipe, states, seeds=seeds, steps=steps, guidance=guidance, strengths=strengths))
    about = {"attributes": wanted, "strengths": strengths, "steps": steps, "guidance": guidance, "upscale": upscale}
    sampling.write_pictures(output, images, states=states, seeds=seeds, names=names, columns=columns, about=about)
    typer.echo(str(output))


@app.command()
def grid(
    output: Annotated[Path, typer.Option("--output", "-o", help="The PNG to write.")] = Path("attributes.png"),
    seed: Seed = 0,
    num: Annotated[int, typer.Option("--num", "-n", min=1, max=64, help="Pictures in a row.")] = 8,
    steps: Steps = None,
    guidance: Guidance = None,
    upscale: Enlarge = None,
    model: ModelFolder = Path("data/models"),
    params: ParamsPath = Path("params.yaml"),
    device: Device = "auto",
) -> None:
    """Show what each attribute does: two rows each, without and with it, from the same noise."""
    from facegen import editing, sampling

    pipe = sampling.open_model(model, params=params, device=device)
    enlarge = editing.enlarger(model, upscale, device=pipe.device)
    sampling.attribute_grid(pipe, output, seed=seed, num=num, steps=steps, guidance=guidance, enlarge=enlarge)
    typer.echo(str(output))


@app.command()
def score(
    generated: Annotated[str, typer.Argument(metavar="GENERATED", help="First the images to judge.")],
    reference: Annotated[str, typer.Argument(metavar="REAL", help="Then the real ones (held out from training).")],
    features: Annotated[
        str | None, typer.Option("--features", metavar="NAME", help="random, inception, or a judge's folder.")
    ] = None,
    inception: Annotated[
        str | None,
        typer.Option("--inception", metavar="FILE|download", help="Weights of torch-fidelity's InceptionV3."),
    ] = None,
    num: Annotated[int | None, typer.Option("--num", "-n", min=2, help="Images of both sets at most.")] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="Neighbour of precision, recall, density, coverage.")] = 5,
    size: Annotated[
        int | None, typer.Option("--size", min=8, max=4096, metavar="PX", help="Bring all images to this side.")
    ] = None,
    train: Annotated[
        str | None, typer.Option("--train", metavar="SET", help="The training images: adds memorisation.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the choice of images and of the intervals.")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="A copy of the JSON.")] = None,
    device: Device = "auto",
) -> None:
    """Compare two sets of images: first the GENERATED ones to judge, then the REAL ones. Prints JSON.

    A set is a folder or a zip of pictures, or Parquet with an image column: photos/, photos.zip, data/faces#test,
    eval/samples/dit.parquet#prior.

    facegen score eval/samples/dit.parquet#prior data/faces#test --train data/faces#train
    """
    import json

    from facegen import set_scoring
    from facegen.artifacts import write_json
    from facegen.image_sets import open_images

    figures = set_scoring.score_sets(
        open_images(generated, size=size), open_images(reference, size=size),
        set_scoring.open_extractor(features, inception=inception, device=device), num=num, seed=seed, k=k,
        train=open_images(train, size=size) if train else None,
        progress=_image_bar, note=lambda text: typer.echo(f"facegen: {text}", err=True),
    )  # fmt: skip
    if output is not None:
        write_json(output, figures)
    typer.echo(json.dumps(figures, indent=2, allow_nan=False))


@app.command()
def export(
    output: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the pipeline goes.")],
    model: ModelFolder = Path("data/models"),
    params: ParamsPath = Path("params.yaml"),
) -> None:
    """Write the trained model as one diffusers pipeline, for FacePipeline.from_pretrained(FOLDER) and facegen edit."""
    from facegen import editing, sampling

    if output.exists() and any(output.iterdir()):
        raise ValueError(f"{output} is not empty; name a new folder")
    sampling.open_model(model, params=params, device="cpu").save_pretrained(output)
    editing.export_editing(model, output, params=params)
    typer.echo(str(output))


@app.command()
def record(
    revision: Annotated[str, typer.Option("--from-git", metavar="REV", help="The commit whose dvc.lock to read.")],
) -> None:
    """Make the MLflow runs that a commit's dvc.lock speaks of, where the store has lost them."""
    from facegen.record import record_from_git

    states = record_from_git(Path.cwd(), revision)
    _print_table(("stage", "run"), list(states.items()))


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def flow(context: typer.Context) -> None:
    """Run the pipeline through Prefect, in parallel or on a schedule: facegen flow --help."""
    if not Path("pipelines/flow.py").is_file():
        raise FileNotFoundError("no pipelines/flow.py here; run this from the repository's root")
    os.execv(sys.executable, [sys.executable, "-m", "pipelines.flow", *context.args])


def _image_bar(batches: Iterable[Any], num_images: int, what: str) -> Iterator[Any]:
    """Pass batches on, with a progress bar in images on stderr where that is a terminal."""
    from tqdm import tqdm

    with tqdm(total=num_images, desc=what, unit="img", file=sys.stderr, dynamic_ncols=True, disable=None) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch[0]))


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _print_changes(changes: Sequence[Any], *, nothing: str) -> None:
    from facegen.config_faults import shown
    from facegen.profiles import MISSING

    def cell(value: Any) -> str:
        return "-" if value is MISSING else str(value) if isinstance(value, str | bool) else shown(value)

    if not changes:
        typer.echo(nothing)
        return
    _print_table(("parameter", "before", "after"), [(c.path, cell(c.before), cell(c.after)) for c in changes])


def _print_table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, markup: bool = False) -> None:
    from rich.console import Console
    from rich.table import Table

    show: Callable[[str], str] = str if markup else _plain
    table = Table(*titles, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(show(cell) for cell in row))
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width to fit
        console = Console(width=200)
    console.print(table)


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")  # it warns of the key that its own AutoencoderTiny writes
    app(prog_name="facegen")


if __name__ == "__main__":
    main()
