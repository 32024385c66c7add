"""The gan stage: networks, log and grid whole, the same after a stop, and what it does without attributes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from facegen.artifacts import check_manifest
from facegen.config import load_params
from facegen.data.images import encode_png
from facegen.data.shards import FacesWriter
from facegen.errors import StoppedError
from facegen.gan_sampling import load_generator
from facegen.models.dcgan import DCGANDiscriminator
from facegen.rng import numpy_generator
from pipelines.gan import run
from pipelines.stage import Stage


@pytest.fixture(autouse=True)
def torch_as_before():
    threads, exact = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(exact)


def write_faces(root: Path, names: list[str]) -> None:
    with FacesWriter(
        root / "data/faces", "train", resolution=16, attribute_names=names, sources={}, rows_per_shard=64
    ) as writer:
        for number in range(24):
            image = numpy_generator(0, "face", number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            states = np.array([number % 2] * len(names), np.int8)
            writer.add(f"{number}.png", encode_png(image), states, -1, np.zeros((5, 2)))


def stage_in(root: Path, checkout: Path, name: str) -> Stage:
    params = load_params(checkout / "params.yaml")
    small = {
        "width": 8, "noise_dim": 4, "total_images": 64, "batch_size": 8, "log_images": 16, "checkpoint_images": 32,
    }  # fmt: skip
    gan = params.gan.model_copy(
        update={item: getattr(params.gan, item).model_copy(update=small) for item in ("unconditional", "conditional")}
    )
    machine = params.machine.model_copy(update={"device": "cpu", "threads": 1})
    base = params.base.model_copy(update={"precision": "fp32"})  # Accelerate keeps one precision a process
    (root / "scratch").mkdir(exist_ok=True)
    params = params.model_copy(update={"base": base, "gan": gan, "machine": machine})
    return Stage(
        name=name, params=params, root=root, home=root, key="k", scratch=root / "scratch", parameters={}, inputs={},
        tracker=None,
    )  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_stopped_stage_ends_as_one_that_ran_through(root, tmp_path):
    made = {}
    for way in ("through", "stopped"):
        place = tmp_path / way
        write_faces(place, ["Male"])
        stage = stage_in(place, root, "gan@conditional")
        shown = []
        stage.picture = lambda path, shown=shown: shown.append(Path(path).name)
        if way == "stopped":
            stage.log = lambda record, *, step, stage=stage: stage.stop.set() if step == 32 else None
            with pytest.raises(StoppedError, match="stopped at 32 images"):
                run(stage)
            assert not (place / "data/models").exists()
            stage = stage_in(place, root, "gan@conditional")
            stage.picture = lambda path, shown=shown: shown.append(Path(path).name)
        run(stage)
        assert shown == [*(f"grid-{n:012d}.png" for n in (16, 32, 48)), "samples.png"]
        made[way] = files(place / "data/models/gan-conditional")
    assert made["through"] == made["stopped"]
    folder = tmp_path / "through/data/models/gan-conditional"
    assert set(check_manifest(folder)["files"]) == {
        "generator/config.json", "generator/diffusion_pytorch_model.safetensors", "discriminator/config.json",
        "discriminator/diffusion_pytorch_model.safetensors", "samples.png", "log.csv",
    }  # fmt: skip
    header, *lines = (folder / "log.csv").read_text().splitlines()
    assert {"images", "d_loss", "g_loss", "d_real", "d_fake"} <= set(header.split(","))
    assert [line.split(",")[0] for line in lines] == ["16", "32", "48", "64"]
    assert list(load_generator(folder).config.attribute_names) == ["Male"]
    assert list(DCGANDiscriminator.from_pretrained(folder / "discriminator").config.attribute_names) == ["Male"]


@pytest.mark.parametrize(("names", "item", "noted"), [(["Male"], "unconditional", False), ([], "conditional", True)])
def test_without_attributes_it_is_the_unconditional_one(root, tmp_path, capfd, names, item, noted):
    write_faces(tmp_path, names)
    run(stage_in(tmp_path, root, f"gan@{item}"))
    assert list(load_generator(tmp_path / f"data/models/gan-{item}").config.attribute_names) == []
    assert ("the data name no attributes" in capfd.readouterr().err) == noted


def test_another_item_is_refused(root, tmp_path):
    write_faces(tmp_path, [])
    with pytest.raises(ValueError, match="there are: unconditional, conditional"):
        run(stage_in(tmp_path, root, "gan@styled"))
