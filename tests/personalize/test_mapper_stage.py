"""The mapper stage: its variants, what they share and start from, what their folders say, and its absence."""

import csv
import json
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from facegen.artifacts import write_json
from facegen.errors import StoppedError
from facegen.personalize.injection import class_start
from facegen.personalize.mapping import load_mapper
from facegen.personalize.opening import absence, trained_with
from pipelines import mapper as stage_module
from pipelines.mapper import VARIANTS
from tests.personalize.made_subjects import small_base, small_msid, write_faces, write_scenes

NAMES = [variant.name for variant in VARIANTS]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class FakeStage:
    """What the mapper stage uses of a stage."""

    name, device, dtype, key, is_main = "mapper", torch.device("cpu"), torch.float32, "key", True

    def __init__(self, root, **changes):
        self.root, self.scratch, self.stop = root, root / "scratch", threading.Event()
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.logged, self.models = [], []
        mapper = dict(
            start=None, hidden_size=16, dropout=0.1, class_word="a person", drop_expression=0.2,
            fusion="replace_input", max_subjects=2, mask="segment", background_weight=1.0, cgdr_share=1.0,
            localization_weight=0.5, mask_share=0.0, other_picture_share=0.8, drop_caption=0.1, object_share=0.9,
            single_images=16, multi_images=8, batch_size=4, learning_rate=1e-3, weight_decay=0.01, grad_clip=1.0,
        )  # fmt: skip
        self.params = SimpleNamespace(
            mapper=SimpleNamespace(**{**mapper, **changes}), base=SimpleNamespace(seed=0),
            machine=SimpleNamespace(threads=1),
        )  # fmt: skip

    @contextmanager
    def output(self, path):
        (self.root / path).mkdir(parents=True, exist_ok=True)
        yield self.root / path

    def log(self, figures, *, step):
        self.logged.append((step, figures))

    def model(self, folder):
        self.models.append(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Inputs of the stage."""
    root = tmp_path_factory.mktemp("project")
    write_scenes(root / "data/scenes", [[0, 1], [2], [1, 2], [0]])
    write_faces(root / "data/faces", [0, 0, 1, 1, 2, 2])
    small_msid().save_pretrained(root / "data/models/msid")
    small_base(root / "tokenizer").save(root / "data/models/text-to-image")
    return root


@pytest.fixture
def inputs(made, tmp_path):
    (tmp_path / "data/models").mkdir(parents=True)
    for name in ("data/scenes", "data/faces", "data/models/msid", "data/models/text-to-image"):
        (tmp_path / name).symlink_to(made / name)
    return tmp_path


@pytest.fixture(scope="module")
def finished(made, tmp_path_factory):
    """The stage's folder after a run, and the stage."""
    root = tmp_path_factory.mktemp("finished")
    (root / "data/models").mkdir(parents=True)
    for name in ("data/scenes", "data/faces", "data/models/msid", "data/models/text-to-image"):
        (root / name).symlink_to(made / name)
    stage = FakeStage(root)
    stage_module.run(stage)
    return root / "data/models/mapper", stage


def test_every_variant_has_its_folder(finished):
    folder, stage = finished
    assert sorted(p.name for p in folder.iterdir()) == sorted(NAMES)
    assert stage.models == ["data/models/mapper"]
    for name in NAMES:
        mapper = load_mapper(folder / name)
        assert (mapper.config.out_dim, mapper.config.hidden_size, mapper.config.expression) == (16, 16, "none")
        assert mapper.config.identity_dim == small_msid().embedding_size
        with (folder / name / "log.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert int(rows[-1]["images"]) == (8 if name.startswith("mf2d") else 16)
        assert ("localization" in rows[-1]) == (name == "mf2d")
        known = trained_with(folder / name)
        assert (known["class_word"], known["fusion"]) == ("a person", "replace_input")
        assert absence([folder / name / "mapper.json"]) is None
    assert {key.split("/")[0] for _, figures in stage.logged for key in figures} == set(NAMES)


def test_what_the_folders_say(finished):
    folder, _ = finished
    about = {name: json.loads((folder / name / "mapper.json").read_text()) for name in NAMES}
    assert [about[name]["cgdr_share"] for name in NAMES] == [1.0, 0.0, 1.0, 1.0]
    assert [about[name]["localization_weight"] for name in NAMES] == [0.0, 0.0, 0.5, 0.0]
    assert [about[name]["max_subjects"] for name in NAMES] == [1, 1, 2, 2]
    assert [about[name]["start"] for name in NAMES] == [None, None, "single", "single"]
    assert about["single"]["base"] is None and len(about["single"]["msid"]) == 1
    assert str(folder) not in json.dumps(about)  # nothing of where it ran


def test_variants_differ_and_begin_where_they_should(finished):
    folder, _ = finished
    mappers = {name: load_mapper(folder / name) for name in NAMES}
    identity = torch.randn(5, mappers["single"].config.identity_dim, generator=torch.Generator().manual_seed(0))
    vectors = {name: mapper(identity) for name, mapper in mappers.items()}
    for n, one in enumerate(NAMES):
        for other in NAMES[n + 1 :]:
            assert not torch.allclose(vectors[one], vectors[other], atol=1e-5), (one, other)

    def apart(one, other):
        return float((mappers[one].i2t_first.layers[0][0].weight - mappers[other].i2t_first.layers[0][0].weight).norm())

    assert apart("mf2d", "single") < apart("mf2d", "single_plain")
    assert apart("mf2d_unlocalized", "single") < apart("mf2d_unlocalized", "single_plain")


def test_the_first_words_are_the_class_word(inputs, monkeypatch):
    starts = []

    def note(learner, **_):
        starts.append(learner.models["mapper"])
        raise StoppedError("enough")

    monkeypatch.setattr(stage_module, "train", note)
    for fusion in ("replace_input", "add_output"):
        with pytest.raises(StoppedError):
            stage_module.run(FakeStage(inputs, fusion=fusion))
    base = small_base(inputs / "tokenizer")
    expected = class_start(base.text_encoder, base.tokenizer, "a person")
    identity = torch.randn(3, starts[0].config.identity_dim, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(starts[0].eval()(identity), expected.expand(3, -1, -1), atol=0.03)
    assert starts[1].eval()(identity).abs().max() < 0.03  # what is added begins with nothing


def test_training_goes_on_from_a_given_mapper(finished, inputs):
    folder, _ = finished
    given = load_mapper(folder / "single_plain")
    given.save(inputs / "mapping.pt")
    stage = FakeStage(inputs, start=str(inputs / "mapping.pt"), learning_rate=1e-9, weight_decay=0.0)
    stage_module.run(stage)
    for name in NAMES:
        made = load_mapper(inputs / "data/models/mapper" / name)
        for key, value in given.state_dict().items():
            assert torch.allclose(made.state_dict()[key], value, atol=1e-6), key


def test_a_killed_stage_ends_with_the_same_bytes(finished, inputs, monkeypatch):
    folder, _ = finished
    first, train = FakeStage(inputs), stage_module.train

    def stopped(learner, **options):
        if options["scratch"].name == "mf2d":
            options["stop"].set()
        train(learner, **options)

    monkeypatch.setattr(stage_module, "train", stopped)
    with pytest.raises(StoppedError):
        stage_module.run(first)
    monkeypatch.setattr(stage_module, "train", train)
    stage_module.run(FakeStage(inputs))
    for name in NAMES:
        for file in sorted((folder / name).iterdir()):
            assert file.read_bytes() == (inputs / "data/models/mapper" / name / file.name).read_bytes(), file


@pytest.mark.parametrize("said_by", ["data/scenes/scenes.json", "data/models/msid/recognizer.json"])
def test_without_an_input_there_is_no_mapper(tmp_path, said_by):
    (tmp_path / said_by).parent.mkdir(parents=True)
    write_json(tmp_path / said_by, {"absent": "nobody is known"})
    stage = FakeStage(tmp_path)
    stage_module.run(stage)
    folder = tmp_path / "data/models/mapper"
    assert json.loads((folder / "mapper.json").read_text()) == {"absent": "nobody is known"}
    assert [p.name for p in folder.iterdir()] == ["mapper.json"] and not stage.models
    assert absence([folder / "mapper.json"]) == "nobody is known"
