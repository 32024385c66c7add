"""Editing a photograph with untrained networks: what is asked of them, and what of the photograph stays."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from facegen import editing, sampling
from facegen.artifacts import read_json
from facegen.attributes import UNKNOWN
from facegen.data.regions import box_mask, region_mask, regions_of
from facegen.editing import AUTO, edit_photograph, open_editor, requested_states, upscale_photograph
from facegen.errors import DamagedArtifactError
from facegen.photo_face import take_mask
from facegen.photograph import photograph_of
from tests.made_editor import NAMES, SIDE, STATES, face_points, photograph, write_models

PARAMS = Path(__file__).resolve().parents[1] / "params.yaml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("models")
    write_models(made)
    return made


@pytest.fixture(scope="module")
def bundle(folder):
    return open_editor(folder, params=PARAMS, device="cpu")


def edited(bundle, photo=None, **changes):
    request = {"set": {"Mustache": 1}, "seeds": [3], "landmarks": face_points(), "num_steps": 2, "method": "blend"}
    return edit_photograph(bundle, photo or photograph_of(photograph()), **{**request, **changes})


class Recorder:
    """The editor, with what it was asked for written down."""

    def __init__(self, editor):
        self._editor, self.asked = editor, []

    def __getattr__(self, name):
        return getattr(self._editor, name)

    def edit(self, images, **arguments):
        self.asked.append({"images": images, **arguments})
        return self._editor.edit(images, **arguments)


def test_everything_is_opened(bundle):
    assert bundle.editor.resolution == SIDE and bundle.editor.inpainter is not None
    assert bundle.judge is not None and bundle.embedder is not None and bundle.upscaler.scale == 4
    assert bundle.max_megapixels > 1 and bundle.editor.settings.num_steps > 1


def test_states_are_read_where_the_judge_is_sure(bundle):
    images = np.stack([photograph(SIDE, SIDE, seed=k) for k in range(3)])
    assert np.array_equal(bundle.states_of(images), np.tile(np.array(STATES, np.int8), (3, 1)))
    with pytest.raises(ValueError, match="--keep-unknown"):
        replace(bundle, judge=None).states_of(images)


def test_a_judge_of_other_attributes_says_nothing_of_the_rest(bundle, monkeypatch):
    monkeypatch.setattr(type(bundle.editor), "attribute_names", ["Bald", "Smiling", "Male"])
    assert bundle.states_of(photograph(SIDE, SIDE)[None]).tolist() == [[-1, 0, 1]]


def test_what_is_asked_for(bundle):
    recorder = Recorder(bundle.editor)
    edited(replace(bundle, editor=recorder), set={"Mustache": 1, "Blond_Hair": 1})
    (asked,) = recorder.asked
    wanted = dict(zip(NAMES, STATES, strict=True)) | {"Mustache": 1, "Blond_Hair": 1, "Black_Hair": 0}
    assert asked["states"][0].tolist() == [wanted[name] for name in NAMES]
    assert asked["changed"][0].tolist() == [name in ("Mustache", "Blond_Hair") for name in NAMES]
    parts = [*regions_of("Mustache"), *regions_of("Blond_Hair")]
    assert np.array_equal(asked["masks"][0], region_mask(parts, asked["landmarks"][0], size=SIDE))
    person = bundle.embedder.embed(asked["images"], asked["landmarks"])
    assert np.array_equal(asked["identity"], person) and person.shape == (1, 12)


def test_states_that_the_user_does_not_know_stay_open(bundle):
    recorder = Recorder(bundle.editor)
    edited(replace(bundle, editor=recorder, judge=None), keep_unknown=True)
    assert recorder.asked[0]["states"][0].tolist() == [1 if name == "Mustache" else UNKNOWN for name in NAMES]


def test_requested_states_keep_what_the_user_says():
    seen = np.array([STATES], np.int8)
    both = requested_states(seen, {"Blond_Hair": 1, "Black_Hair": 1}, NAMES)
    assert both[0].tolist() == [1, 0, -1, -1, 1, 1]  # asked for in so many words
    assert requested_states(seen, {"Male": -1}, NAMES)[0, 0] == UNKNOWN
    with pytest.raises(ValueError, match="did you mean Mustache"):
        requested_states(seen, {"Mustach": 1}, NAMES)


@pytest.mark.parametrize("method", ["blend", "conditioned", "zoom", "sdedit", "invert", "resample"])
def test_outside_the_part_the_photograph_is_untouched(bundle, method):
    made = edited(bundle, method=method, region=("mouth",))
    before, after = photograph(), made.photos[0].pixels
    assert made.method == method and after.shape == before.shape
    touched = np.flatnonzero((after != before).any(axis=(1, 2)))
    assert len(touched) > 10 and touched.min() > 85 and touched.max() < 110  # its corners lie in rows 93 and 102
    assert np.array_equal(made.edited.images[0][~made.edited.masks[0]], made.face.image[~made.edited.masks[0]])


def test_invert_takes_the_whole_face_where_no_part_is_named(bundle):
    assert edited(bundle, method="invert").edited.masks.all()
    assert not edited(bundle, method="invert", region=("eyes",)).edited.masks.all()


def test_variants_do_not_depend_on_their_batch(bundle, monkeypatch):
    together = edited(bundle, seeds=[3, 4, 5])
    monkeypatch.setattr(editing, "BATCH", 1)
    apart = edited(bundle, seeds=[3, 4, 5])
    assert len(together.photos) == 3
    for one, other in zip(together.photos, apart.photos, strict=True):
        assert np.abs(one.pixels.astype(int) - other.pixels).max() <= 1
    assert (together.photos[0].pixels != together.photos[1].pixels).any()
    assert together.edited.images.shape == apart.edited.images.shape == (3, SIDE, SIDE, 3)


def test_a_mask_or_a_box_of_the_photograph(bundle):
    brush = np.zeros((150, 200), bool)
    brush[70:95, 80:120] = True
    by_mask, by_box = edited(bundle, mask=brush, set={}), edited(bundle, box=(80, 70, 120, 95), set={})
    assert np.array_equal(by_mask.photos[0].pixels, by_box.photos[0].pixels)
    changed = (by_mask.photos[0].pixels != photograph()).any(axis=-1)
    assert not (changed & ~brush).any() and changed.any()
    with pytest.raises(ValueError, match="does not touch"):
        edited(bundle, box=(0, 0, 5, 5))
    with pytest.raises(ValueError, match="nothing to edit"):
        edited(bundle, set={})


def test_marks_and_named_parts_are_repainted_together(bundle):
    brush, other = np.zeros((150, 200), bool), box_mask((110, 70, 130, 90), size=(150, 200))
    brush[70:95, 80:100] = True
    both = edited(bundle, mask=brush, box=(110, 70, 130, 90), set={})
    changed = (both.photos[0].pixels != photograph()).any(axis=-1)
    assert (changed & brush).any() and (changed & other).any() and not (changed & ~(brush | other)).any()
    mouth, more = edited(bundle, region=["mouth"], set={}), edited(bundle, region=["mouth"], mask=brush, set={})
    face = more.face
    assert np.array_equal(more.edited.masks[0], mouth.edited.masks[0] | take_mask(brush, face))
    beyond = (more.photos[0].pixels != photograph()).any(axis=-1) & ~brush
    assert beyond.any()  # a named part is repainted where nothing is marked, too
    alone = edited(bundle, region=[AUTO], mask=brush, set={"Smiling": 1})  # auto counts where nothing is named
    assert np.array_equal(alone.edited.masks[0], take_mask(brush, face))


def test_an_upscaled_face_is_put_back(bundle):
    plain, fine = edited(bundle), edited(bundle, upscale=True)
    assert np.array_equal(plain.edited.images, fine.edited.images)
    assert (plain.photos[0].pixels != fine.photos[0].pixels).any()
    small = np.abs(plain.photos[0].pixels.astype(int) - fine.photos[0].pixels)
    assert small.mean() < 2  # an untrained upscaler is the interpolation


def test_without_an_upscaler(bundle, folder, tmp_path):
    with pytest.raises(ValueError, match="holds no upscaler: train it"):
        edited(replace(bundle, upscaler=None, folder=tmp_path), upscale=True)
    assert editing.enlarger(tmp_path, None, device="cpu")(photograph()[None]).shape == (1, 150, 200, 3)
    assert editing.enlarger(folder, 4, device="cpu")(photograph(8, 6)[None]).shape == (1, 32, 24, 3)
    with pytest.raises(ValueError, match="was trained for 4"):
        editing.enlarger(folder, 2, device="cpu")


def test_a_photograph_enlarged_keeps_its_kind(bundle):
    grey = photograph_of(np.repeat(photograph(20, 30)[..., :1], 3, axis=-1))
    large = upscale_photograph(bundle.upscaler, replace(grey, alpha=np.full((20, 30), 77, np.uint8), mode="L"))
    assert large.size == (80, 120) and large.grey and large.alpha.shape == (80, 120) and (large.alpha == 77).all()
    expected = bundle.upscaler.upscale(photograph(20, 30)[None])[0]
    assert np.array_equal(upscale_photograph(bundle.upscaler, photograph_of(photograph(20, 30))).pixels, expected)


def test_an_exported_folder_edits_as_the_models_do(bundle, folder, tmp_path):
    output = tmp_path / "exported"
    sampling.open_model(folder, params=PARAMS, device="cpu").save_pretrained(output)
    found = editing.export_editing(folder, output, params=PARAMS)
    assert sorted(found) == ["inpainter", "judge-a", "recognizer-condition", "upscaler"]
    assert read_json(output / "edit.json")["max_megapixels"] == bundle.max_megapixels
    other = open_editor(output, params=tmp_path / "none.yaml", device="cpu")
    assert other.editor.settings == bundle.editor.settings
    one, two = (edited(b, method="zoom").photos[0].pixels for b in (bundle, other))
    assert np.array_equal(one, two)
    assert bundle.about_model("blend")["sha256"] == other.about_model("blend")["sha256"]
    assert bundle.about_model("zoom")["sha256"] != bundle.about_model("blend")["sha256"]
    again = tmp_path / "again"
    again.mkdir()
    assert sorted(editing.export_editing(output, again, params=tmp_path / "none.yaml")) == sorted(found)
    (output / "edit.json").unlink()
    with pytest.raises(ValueError, match="export it again"):
        open_editor(output, params=PARAMS, device="cpu")


def test_a_generator_alone_edits_too(folder, tmp_path):
    for name in ("dit", "autoencoder"):
        (tmp_path / name).symlink_to(folder / name)
    alone = open_editor(tmp_path, params=PARAMS, device="cpu")
    assert alone.judge is alone.embedder is alone.upscaler is alone.editor.inpainter is None
    assert (edited(alone, keep_unknown=True).photos[0].pixels != photograph()).any()
    with pytest.raises(ValueError, match="needs the inpainting model"):
        edited(alone, keep_unknown=True, method="conditioned")


def test_a_damaged_inpainter_is_said_in_one_line(folder, tmp_path):
    copy = tmp_path / "models"
    shutil.copytree(folder, copy)
    weights = copy / "inpainter" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DamagedArtifactError, match="inpainter: the weights do not load"):
        open_editor(copy, params=PARAMS, device="cpu")
