"""Profiles: what they change, that comments live, and that a wrong one changes nothing."""

from pathlib import Path

import pytest

from facegen.config import load_params
from facegen.profiles import MISSING, apply_values, changes_of, edited, list_profiles, parse_settings, read_profile

NAMES = ["casia", "celeba", "faces", "mf2d", "tiny", "uiface"]


@pytest.fixture
def params_path(tmp_path: Path, root: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_bytes((root / "params.yaml").read_bytes())
    return path


def comments(text: str) -> list[str]:
    return [line.split("#", 1)[1].strip() for line in text.splitlines() if "#" in line]


def test_every_profile_is_listed_with_a_sentence(root: Path) -> None:
    found = list_profiles(root / "profiles")
    assert list(found) == NAMES
    assert all(len(sentence) > 20 for sentence in found.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_applies_cleanly_and_says_only_what_differs(name: str, root: Path, params_path: Path) -> None:
    values = read_profile(root / "profiles", name)
    before = params_path.read_text()
    changes = apply_values(values, params_path)
    load_params(params_path)
    assert comments(params_path.read_text()) == comments(before)
    same = set(values) - {change.path for change in changes}
    allowed = {"preprocess.resolution", "preprocess.crop", "preprocess.crop_size_px", "autoencoder.architecture",
               "autoencoder.latent_channels", "dit.ema_sigma_rel", "dit.ema_release",
               "judge.a.batch_size", "dit.batch_size", "render.test_fraction"}  # fmt: skip
    assert same <= allowed, "a profile names differences only"
    assert apply_values(values, params_path) == [], "a second time changes nothing"


def test_the_celeba_profile_is_the_full_network(root: Path, params_path: Path) -> None:
    apply_values(read_profile(root / "profiles", "celeba"), params_path)
    params = load_params(params_path)
    dit = params.dit
    assert (dit.patch_size, dit.hidden_size, dit.depth, dit.num_heads) == (2, 1024, 15, 16)
    assert (dit.batch_size, dit.learning_rate, dit.total_images) == (512, 2e-4, 19_200_000)
    assert (params.preprocess.crop, params.preprocess.crop_size_px, params.preprocess.resolution) == (
        "center",
        178,
        128,
    )
    assert params.autoencoder.source == "stabilityai/sd-vae-ft-mse"


def test_the_casia_profile_is_the_full_network_for_people_without_attributes(root: Path, params_path: Path) -> None:
    apply_values(read_profile(root / "profiles", "casia"), params_path)
    params = load_params(params_path)
    dit, verify, condition = params.dit, params.verify, params.recognizer.condition
    assert (dit.patch_size, dit.hidden_size, dit.depth, dit.num_heads, dit.batch_size) == (2, 1024, 15, 16, 512)
    assert (params.data.attributes, params.preprocess.crop, params.preprocess.resolution) == ("all", "full", 128)
    assert dit.other_picture_share > 0 and dit.drop_components > 0, "identity is not that of the picture alone"
    assert params.autoencoder.mode == "pretrained", "there is no judge a for a perceptual loss"
    assert (verify.width, verify.depths, verify.embedding_size) == (64, (3, 4, 14, 3), condition.embedding_size)
    shift, late = params.identities.time_shift, params.identities.late
    assert shift * 0.5 / (1 + (shift - 1) * 0.5) == pytest.approx(late, abs=0.005), "half of the steps lie above late"


def test_the_uiface_profile_trains_nothing_and_sweeps_on_the_grid(root: Path, params_path: Path) -> None:
    values = read_profile(root / "profiles", "uiface")
    assert {path.split(".")[0] for path in values} == {"identities"}
    apply_values(values, params_path)
    p = load_params(params_path).identities
    assert p.time_shift == 1 and all(round(t * p.num_steps, 6).is_integer() for t in p.sweep), "between two steps"
    assert p.fixed_time not in p.sweep and p.guidance_scale not in p.sweep_guidance, "a row would stand twice"
    assert min(p.sweep) < p.late < p.early <= max(p.sweep)


@pytest.mark.parametrize("below", [None, "celeba", "casia"])
def test_the_mf2d_profile_has_the_published_sizes_on_top_of_any_set_of_people(
    below: str | None, root: Path, params_path: Path
) -> None:
    for name in [below, "mf2d"] if below else ["mf2d"]:
        apply_values(read_profile(root / "profiles", name), params_path)
    params, people = load_params(params_path), f"data/{below or 'procedural'}"
    msid, scenes, mapper = params.msid, params.scenes, params.mapper
    assert (msid.patch_size, msid.width, msid.depth, msid.num_heads) == (8, 384, 12, 12)
    assert msid.depths == (2, 5, 8, 11) and mapper.hidden_size == 1536 == len(msid.depths) * msid.width
    assert (scenes.height, scenes.width) == (512, 512) and scenes.root is not None and scenes.detector is not None
    assert params.personalize.base is not None and params.data.root == people, "whom FFHQ does not name"


def test_nothing_but_the_named_values_changes(params_path: Path) -> None:
    before = params_path.read_text().splitlines()
    apply_values(parse_settings(["dit.depth=4"]), params_path)
    after = params_path.read_text().splitlines()
    differing = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert differing == [("  depth: 6", "  depth: 4")]


def test_reading_and_writing_without_a_change_keeps_every_byte(root: Path) -> None:
    text = (root / "params.yaml").read_text(encoding="utf-8")
    assert edited(text, {}, name="params.yaml") == text


def test_settings_are_yaml() -> None:
    values = parse_settings(
        ["dit.betas=[0.9, 0.99]", "dit.learning_rate=1e-4", "autoencoder.source=null", "data.root=a=b"]
    )
    assert values == {
        "dit.betas": [0.9, 0.99],
        "dit.learning_rate": 1e-4,
        "autoencoder.source": None,
        "data.root": "a=b",
    }


@pytest.mark.parametrize("setting", ["dit.depth", "=4", "dit.betas=[0.9"])
def test_settings_that_are_none(setting: str) -> None:
    with pytest.raises(ValueError, match="--set"):
        parse_settings([setting])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["dit.depht=4"], "did you mean depth"),
        (["dit.depth=0", "base.seed=-1"], r"base.seed: got -1(.|\n)*dit.depth: got 0"),
        (["dit.depth.x=4"], "dit.depth is one value, not a section"),
        (["dit.num_heads=5"], "must divide dit.hidden_size"),
        (["nothing.here=3"], "nothing: unknown key"),
    ],
)
def test_wrong_values_are_refused_and_nothing_is_written(settings: list[str], message: str, params_path: Path) -> None:
    before = params_path.read_bytes()
    with pytest.raises(ValueError, match=message):
        apply_values(parse_settings(settings), params_path)
    assert params_path.read_bytes() == before
    assert list(params_path.parent.iterdir()) == [params_path]


def test_a_fault_that_was_there_before_is_reported_too(params_path: Path) -> None:
    params_path.write_text(params_path.read_text().replace("  depth: 6", "  depth: -8"))
    with pytest.raises(ValueError, match=r"dit\.depth: got -8"):
        apply_values({"base.seed": 3}, params_path)


def test_true_is_not_one_when_changes_are_counted(params_path: Path) -> None:
    (change,) = changes_of({"base.seed": 1, "latents.batch_size": 64}, params_path)
    assert (change.path, change.before, change.after) == ("base.seed", 0, 1)
    assert changes_of({"base.seed": False}, params_path)
    assert changes_of({"base.zzz": 1}, params_path)[0].before is MISSING


def test_a_profile_that_does_not_exist(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean celeba"):
        read_profile(root / "profiles", "celebra")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_profile(tmp_path / "none", "celeba")


@pytest.mark.parametrize("content", ["- 1\n", "dit:\n  depth: 1\n  depth: 2\n", "dit: [\n", ""])
def test_a_profile_that_is_not_one(content: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"own\.yaml"):
        read_profile(tmp_path, "own")
