"""Every kind of fault in params.yaml, alone and several at once; and that the loader reads YAML 1.2."""

from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from facegen.config import Params, find_faults, load_params
from facegen.config_faults import parse_yaml
from facegen.config_sections import FaceAttribute
from facegen.profiles import edited, parse_settings


@pytest.fixture
def text(root: Path) -> str:
    return (root / "params.yaml").read_text(encoding="utf-8")


def with_values(text: str, *settings: str) -> str:
    return edited(text, parse_settings(settings), name="params.yaml")


def faults(text: str) -> list[str]:
    return [str(fault) for fault in find_faults(parse_yaml(text))]


def test_the_repository_parameters_are_free_of_faults(root: Path) -> None:
    params = load_params(root / "params.yaml")
    assert params.dit.hidden_size % params.dit.num_heads == 0
    assert params.machine.device == "auto"
    assert params.sample.guidance_interval == (0.0, 1.0)


def test_params_are_frozen_and_closed(root: Path) -> None:
    params = load_params(root / "params.yaml")
    with pytest.raises(ValidationError):
        params.dit.depth = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Params.model_validate({**params.model_dump(), "extra": {}})


def test_an_object_that_breaks_a_rule_cannot_be_made(root: Path) -> None:
    values = load_params(root / "params.yaml").model_dump()
    values["dit"]["num_heads"] = 5
    with pytest.raises(ValidationError, match="num_heads"):
        Params.model_validate(values)


def test_dump_and_load_agree(root: Path, text: str) -> None:
    params = load_params(root / "params.yaml")
    assert Params.model_validate(params.model_dump(mode="json")) == params


# setting, what the message says of it
BAD_VALUES = [
    ("base.seed=-1", "base.seed: got -1; must be a whole number from 0 to 2147483647"),
    ("base.seed=1.0", "base.seed: got 1.0; must be a whole number"),
    ("base.seed='1'", "base.seed: got '1' (text); must be a whole number"),
    ("base.precision=fp16", "base.precision: got 'fp16' (text); must be one of bf16, fp32"),
    ("machine.device=gpu", "machine.device: got 'gpu' (text); must be auto, cpu, cuda or cuda:N"),
    ("machine.threads=0", "machine.threads: got 0; must be a whole number from 1 to 512"),
    ("dit.depth=true", "dit.depth: got true (true or false); must be a whole number from 1 to 100"),
    ("dit.depth=null", "dit.depth: got null; must be a whole number from 1 to 100"),
    ("dit.depth={a: 1}", "dit.depth: got a section with a; must be a whole number from 1 to 100"),
    ("dit.learning_rate=.inf", "dit.learning_rate: got inf; must be a number above 0 and up to 1"),
    ("dit.learning_rate=.nan", "dit.learning_rate: got nan; must be a number above 0 and up to 1"),
    ("dit.learning_rate=0", "dit.learning_rate: got 0; must be a number above 0"),
    ("dit.learning_rate=fast", "dit.learning_rate: got 'fast' (text); must be a number"),
    ("dit.betas=[0.9]", "dit.betas: got [0.9]; must be a list of 2, each a number from 0 and below 1"),
    ("dit.betas=[0.9, 1.0]", "dit.betas[1]: got 1.0; must be a number from 0 and below 1"),
    ("dit.betas=0.9", "dit.betas: got 0.9; must be a list of 2"),
    ("dit.ema_sigma_rel=[0.1, .inf]", "dit.ema_sigma_rel[1]: got inf; must be a number above 0 and up to 0.28"),
    ("data.root=''", "data.root: got '' (text); must be text"),
    ("data.attributes=none", "data.attributes: got 'none' (text); must be a list of 1 to 256"),
    ("data.attributes=[]", "data.attributes: got []; must be a list of 1 to 256"),
    ("data.attributes=[Male, 3]", "data.attributes: got ['Male', 3]; must be a list of 1 to 256, each a name"),
    ("autoencoder.source=3", "autoencoder.source: got 3; must be text, or null"),
    ("autoencoder.channels=[20]", "autoencoder.channels[0]: got 20; must be a whole number from 8 to 2048, a"),
    ("preprocess.crop=top", "preprocess.crop: got 'top' (text); must be one of full, center, landmarks"),
    ("render.prevalence.Male=2", "render.prevalence.Male: got 2; must be a number above 0 and below 1"),
    ("render.correlations=[[Male, Yong, 0.1]]", "render.correlations[0][1]: got 'Yong' (text); must be one of Male"),
    ("render.correlations=[[Male, Young]]", "render.correlations[0][2]: missing; it must be a number above -1"),
    ("sample=3", "sample: got 3; must be a section"),
    ("inpainter.zoom_side=0", "inpainter.zoom_side: got 0; must be a number from 0.1 to 1"),
    ("edit.method=paint", "edit.method: got 'paint' (text); must be one of blend, guided"),
]  # fmt: skip

BROKEN_RULES = [
    ("preprocess.resolution=96", "preprocess.resolution: got 96; the DCGAN baselines need a power of two"),
    ("judge.a.architecture=convnext", "judge.a.architecture: got convnext; the autoencoder's perceptual loss needs"),
    ("sample.curve_pairs=100000", "sample.curve_pairs: got 100000; the curve's are the first of sample.num_pairs"),
    ("sample.curve_images=9999999", "sample.curve_images: got 9999999; the curve's are the first of"),
    ("score.num_neighbors=1000", "score.num_neighbors: got 1000; must be at most 899 with score.num_reference of 1800"),
    ("autoencoder.mode=pretrained", "autoencoder.source: mode pretrained needs a hub id"),
    ("autoencoder.mode=finetune-decoder", "autoencoder.source: mode finetune-decoder needs a hub id"),
    ("autoencoder.source=some/where", "autoencoder.source: mode train reads no source"),
    ("autoencoder.channels=[48, 48, 64]", "autoencoder.channels: architecture tiny needs the same width"),
    ("preprocess.resolution=66", "preprocess.resolution: got 66; must be a multiple of 4"),
    ("dit.patch_size=3", "dit.patch_size: got 3; must divide the latent side of 16: one of 1, 2, 4, 8, 16"),
    ("dit.num_heads=5", "dit.num_heads: got 5; must divide dit.hidden_size of 192"),
    ("dit.warmup_images=120001", "dit.warmup_images: got 120001; must be at most dit.total_images"),
    ("autoencoder.warmup_images=99999999", "autoencoder.warmup_images: got 99999999; must be at most"),
    ("dit.ema_release=0.07", "dit.ema_release: got 0.07; must be one of dit.ema_sigma_rel: 0.05, 0.1"),
    ("dit.ema_sigma_rel=[0.1, 0.1]", "dit.ema_sigma_rel: got [0.1, 0.1]; each width may stand once"),
    ("dit.drop_all=0.8", "dit.drop_some: got 0.3; dit.drop_all and dit.drop_some together must be at most 1"),
    ("sample.guidance_interval=[0.8, 0.2]", "sample.guidance_interval: got [0.8, 0.2]; low must be below high"),
    ("sample.guidance_interval=[0.8, 0.8]", "sample.guidance_interval: got [0.8, 0.8]; low must be below high"),
    ("flow.path=cosine", "sample.scheduler: got euler; with flow.path cosine it must be ddim"),
    ("sample.scheduler=ddim", "sample.scheduler: got ddim; with flow.path linear it must be euler, heun or dpm++"),
    ("render.val_fraction=0.9", "render.test_fraction: got 0.15; with val_fraction 0.9 nothing is left"),
    ("preprocess.test_fraction=0.95", "preprocess.test_fraction: got 0.95; with val_fraction"),
    ("render.num_identities=5", "render.val_fraction: got 0.08; of 5 identities not one would be in that split"),
    ("data.attributes=[Male, Young, Male]", "data.attributes: each name may stand once; repeated: Male"),
    ("data.attributes=[Male, Goatee]", "data.attributes: Goatee: not drawn by render; known are Male, Young"),
    ("render.correlations=[[Male, Male, 0.1]]", "render.correlations[0]: got Male twice"),
    ("render.correlations=[[Male, Bald, 0.1], [Bald, Male, 0.2]]", "render.correlations[1]: the pair Bald, Male"),
    ("preprocess.large_resolution=80", "upscaler.patch_px: its crops have 20 px, a quarter of preprocess.large_resolution"),
    ("preprocess.large_resolution=72", "preprocess.large_resolution: got 72; must be a multiple of 16, so that a quarter"),
    ("inpainter.empty_share=0.8", "inpainter.empty_share and inpainter.zoom_share together must be at most 1"),
    ("edit.num_compared=99", "edit.num_compared: got 99; must be at most edit.num_photos of 12"),
    ("edit.num_swept=99", "edit.num_swept: got 99; must be at most edit.num_photos of 12"),
    ("edit.method=invert", "edit.method: got invert; the default needs a mask: guided, resample, sdedit, conditioned or zoom"),
    ("identities.source=file", "identities.contexts: got None with source file; source file, and no other, reads a file"),
    ("identities.contexts=some.npy", "identities.contexts: got 'some.npy' with source whitened"),
    ("identities.target=0.5", "identities.target: got 0.5; must lie between identities.late (0.5) and early (0.98)"),
    ("identities.inject_window=[0.5, 0.25]", "identities.inject_window: got [0.5, 0.25]; low must be at most high"),
    ("identities.ablation_people=9999", "identities.ablation_people: got 9999; must be at most identities.num_people"),
    ("identities.inject_blocks=[0, 6]", "identities.inject_blocks: got 6; the dit has blocks 0 to 5"),
    ("scenes.width=104", "scenes.width: got 104; must be a multiple of 16, so that"),
    ("msid.patch_size=10", "msid.patch_size: got 10; must divide 112"),
    ("msid.num_heads=5", "msid.num_heads: got 5; must divide msid.width of 96"),
    ("msid.depths=[1, 8]", "msid.depths: got [1, 8]; must be rising numbers of blocks, 0 to 3"),
    ("text_to_image.num_heads=5", "text_to_image.num_heads: got 5; must divide text_to_image.text_width of 96"),
    ("text_to_image.warmup_images=999999999", "text_to_image.warmup_images: got 999999999; must be at most"),
    ("personalize.prompts_two=['<id:0> alone']", "personalize.prompts_two[0]: got '<id:0> alone'; must name <id:0> and"),
    ("personalize.prompts_one=['<id:0> with <id:1>']", "personalize.prompts_one[0]: got '<id:0> with <id:1>'; must"),
    ("dit.other_mean_share=0.9", "dit.other_mean_share: got 0.9; dit.other_picture_share and dit.other_mean_share"),
]  # fmt: skip


@pytest.mark.parametrize(("setting", "message"), BAD_VALUES + BROKEN_RULES, ids=lambda value: value.split(":")[0])
def test_one_fault_alone(text: str, setting: str, message: str) -> None:
    found = faults(with_values(text, setting))
    assert len([line for line in found if message in line]) == 1, found
    # A rule may be broken in two places by one value (a hidden size, a number of people); nothing else is reported.
    assert len(found) <= 2
    assert all(line.startswith("line ") for line in found)


def test_a_width_can_break_two_rules(text: str) -> None:
    found = faults(with_values(text, "dit.hidden_size=250"))
    assert [line.split(": ")[1] for line in found] == ["dit.hidden_size", "dit.num_heads"]


@pytest.mark.parametrize(
    "setting",
    ["dit.learning_rate=1e-4", "dit.learning_rate=1", "data.attributes=all", "dit.ema_sigma_rel=[0.1]",
     "machine.device=cuda:3", "autoencoder.channels=[32, 32, 32]", "sample.guidance_interval=[0, 1]",
     "identities.inject_blocks=[1, 3]", "identities.inject_window=[0, 1]"],
)  # fmt: skip
def test_right_values_are_taken(text: str, setting: str) -> None:
    assert faults(with_values(text, setting)) == []


def test_a_plain_1e_minus_4_is_a_number(tmp_path: Path, text: str) -> None:
    changed = text.replace("weight_decay: 0.0\n", "weight_decay: 1e-4\n")
    (tmp_path / "params.yaml").write_text(changed)
    assert changed != text
    assert load_params(tmp_path / "params.yaml").dit.weight_decay == 1e-4


def test_a_word_like_no_stays_a_word(text: str) -> None:
    assert any("got 'no' (text)" in line for line in faults(with_values(text, "base.precision=no")))


def test_a_misspelt_key_is_reported_once_with_the_right_one(text: str) -> None:
    found = faults(text.replace("  hidden_size:", "  hiden_size:", 1))
    assert len(found) == 1
    assert "dit.hiden_size: unknown key; did you mean hidden_size?" in found[0]


def test_a_misspelt_section_is_reported_once(text: str) -> None:
    found = faults(text.replace("\nsample:", "\nsamples:"))
    assert len(found) == 1
    assert "samples: unknown key; did you mean sample?" in found[0]


def test_a_misspelt_attribute_of_the_render_tables(text: str) -> None:
    found = faults(text.replace("    Bald: 0.06", "    Balt: 0.06"))
    assert ["render.prevalence.Balt: unknown key; did you mean Bald?" in line for line in found] == [True]


def test_an_attribute_that_one_render_table_lacks(text: str) -> None:
    found = faults(text.replace("    Bald: 0.06\n", ""))
    assert any(
        "render.prevalence: must have a value for each attribute" in line and "missing: Bald" in line for line in found
    )


def test_a_key_in_the_wrong_section(text: str) -> None:
    found = faults(text.replace("\nscore:\n", "\nscore:\n  grid_columns: 4\n"))
    assert len(found) == 1
    assert "score.grid_columns: unknown key here; it belongs in section sample" in found[0]


def test_a_key_like_nothing_lists_the_allowed_ones(text: str) -> None:
    assert "allowed are path, time_mean" in faults(text.replace("\nflow:\n", "\nflow:\n  zzz: 4\n"))[0]


def test_a_missing_key_and_a_missing_section(text: str) -> None:
    assert faults(text.replace("  time_std: 1.0", "")) != []
    found = faults(text[: text.index("\nscore:")] + "\n")
    assert found == ["score: missing; it must be a section"]


def test_a_duplicate_key_names_both_lines(text: str) -> None:
    line = text[: text.index("  num_steps:")].count("\n") + 1
    found = faults(text.replace("  num_steps:", "  num_steps: 4\n  num_steps:", 1))
    assert found == [
        f"line {line + 1}: sample.num_steps: stands twice, in lines {line} and {line + 1}; keep one of them"
    ]


def test_a_duplicate_section(text: str) -> None:
    found = faults(text + "\nflow:\n  path: cosine\n")
    assert len(found) == 1
    assert "flow: stands twice" in found[0]


def test_many_faults_at_once_are_all_in_one_error(tmp_path: Path, text: str) -> None:
    bad = with_values(
        text, *(setting for setting, _ in (BAD_VALUES[0], BAD_VALUES[6], BROKEN_RULES[7], BROKEN_RULES[17]))
    )
    bad = bad.replace("  time_std:", "  time_sdt:").replace("  grid_columns:", "  num_pairs: 1\n  grid_columns:", 1)
    path = tmp_path / "params.yaml"
    path.write_text(bad)
    with pytest.raises(ValueError, match="has 6 faults") as caught:
        load_params(path)
    for part in (
        "base.seed",
        "dit.depth",
        "autoencoder.source",
        "sample.guidance_interval",
        "flow.time_sdt",
        "sample.num_pairs",
    ):
        assert part in str(caught.value)
    lines = [int(line.split()[1].rstrip(":")) for line in str(caught.value).splitlines()[1:]]
    assert lines == sorted(lines)


def test_a_faulty_value_does_not_hide_rules_of_others_nor_break_its_own(text: str) -> None:
    found = faults(with_values(text, "dit.hidden_size=wide", "dit.warmup_images=200000"))
    assert [line.split(": ")[1] for line in found] == ["dit.hidden_size", "dit.warmup_images"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must hold the sections machine"),
        ("- 1\n- 2\n", "must hold the sections machine"),
        ("dit: [1\n", "not valid YAML"),
        ("dit: 1\n---\ndit: 2\n", "not valid YAML"),
        ("dit: !!python/object:os.system x\n", "not valid YAML"),
        ("1: 2\n", "keys must be words"),
        ("a: &a [*a]\n", "not valid YAML"),
    ],
)
def test_files_that_are_not_parameters(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        load_params(path)


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_params(tmp_path / "none.yaml")
    (tmp_path / "params.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not text in UTF-8"):
        load_params(tmp_path / "params.yaml")


def test_render_draws_the_attributes_that_the_configuration_knows() -> None:
    from facegen.data.face_parameters import FACE_ATTRIBUTES

    assert get_args(FaceAttribute) == FACE_ATTRIBUTES
