"""Figures of pictures of given people as eval/metrics.json and eval/msid.json have them, from values that are made up."""

from __future__ import annotations

from typing import Any

from tests.made_identities import figure

GIVEN = {  # identity, minimum identity, prompt, faces found
    "class_word": (0.052, 0.052, 0.861, 0.993),
    "class_word_two": (0.094, 0.031, 0.802, 0.985),
    "single_plain": (0.571, 0.571, 0.612, 0.971),
    "single": (0.564, 0.564, 0.741, 0.983),
    "naive": (0.382, 0.214, 0.553, 0.951),
    "mf2d_unlocalized": (0.401, 0.287, 0.681, 0.962),
    "mf2d": (0.433, 0.341, 0.704, 0.972),
}
DIFFERENT = {  # (method, other): identity, minimum identity, prompt; the spread of all is 0.02
    ("single", "class_word"): (0.512, 0.512, -0.12),
    ("single", "single_plain"): (-0.007, -0.007, 0.129),
    ("mf2d", "class_word_two"): (0.339, 0.31, -0.098),
    ("mf2d", "naive"): (0.051, 0.127, 0.151),
    ("mf2d", "mf2d_unlocalized"): (0.032, 0.054, 0.023),
}
CURVE = {0.0: (0.031, 0.802), 0.3: (0.152, 0.781), 0.6: (0.341, 0.704), 0.8: (0.352, 0.643), 1.0: (0.357, 0.571)}
PROMPTS = {"<id:0> smiling": 1, "<id:0>": 1, "<id:0> and <id:1>": 2, "<id:0> smiling and <id:1> with eyeglasses": 2}
FEATURES = {  # identity, yaw, pitch, smiling
    "depth_1": (0.845, 0.212, 0.084, 0.786),
    "depth_3": (0.861, 0.141, 0.061, 0.742),
    "depth_5": (0.874, 0.083, 0.042, 0.711),
    "depth_7": (0.881, 0.052, 0.033, 0.688),
    "joined": (0.876, 0.233, 0.091, 0.793),
    "output": (0.879, 0.094, 0.047, 0.731),
}
SCALED = {"recognizer": (0.41, 0.61, 0.72), "dit_mapped": (0.33, 0.52, 0.66), "dit_mapped_plain": (0.54,)}
SCALES = {"recognizer": (1.0, 2.0, 4.0), "dit_mapped": (1.0, 2.0, 4.0), "dit_mapped_plain": (2.0,)}
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def made_given(identity: float, least: float, prompt: float, found: float, **more: Any) -> dict[str, Any]:
    """All figures of one method."""
    harmonic = 2 * least * prompt / (least + prompt)
    return {
        "pictures": 72, "identity": figure(identity, 0.02, 24), "min_identity": figure(least, 0.02, 24),
        "prompt": figure(prompt, 0.03, 24), "harmonic": figure(round(harmonic, 6), 0.02, 24),
        "detection_rate": figure(found, 0.004, 24),
    } | more  # fmt: skip


def made_personalize_figures() -> dict[str, Any]:
    """`personalize` of eval/metrics.json, with `dit`."""
    difference: dict[str, dict[str, Any]] = {}
    for (method, other), values in DIFFERENT.items():
        keys = ("identity", "min_identity", "prompt")
        told: dict[str, Any] = {k: figure(v, 0.02, 24) for k, v in zip(keys, values, strict=True)}
        told |= {"pictures": 72, "harmonic": figure(0.077, 0.02, 24), "detection_rate": None}
        difference.setdefault(method, {})[other] = told
    methods = {1: ("class_word", "single_plain", "single"), 2: ("class_word_two", "naive", "mf2d_unlocalized", "mf2d")}
    prompts = [
        {"prompt": prompt, "methods": {
            name: {"min_identity": GIVEN[name][1], "prompt": GIVEN[name][2] if " " in prompt else None}
            for name in methods[num]
        }}
        for prompt, num in PROMPTS.items()
    ]  # fmt: skip
    given = {name: made_given(*values) for name, values in GIVEN.items()}
    return given | {
        "difference": difference,
        "alpha": [{"alpha": alpha, **made_given(a, a, p, 0.97)} for alpha, (a, p) in CURVE.items()],
        "prompts": prompts,
        "real": {"same": figure(0.774, 0.03, 24), "strangers": figure(0.182, 0.03, 24), "pictures": 72,
                 "detection_rate": figure(0.998, 0.002, 24), "scenes": made_given(0.772, 0.724, 0.981, 0.996, pictures=200)},
        "about": {"alpha": 0.6, "alphas": [0.3, 0.6, 0.8, 1.0], "class_word": "a person", "fusion": "replace_input",
                  "base": None, "scheduler": "dpm++", "num_steps": 15, "guidance_scale": 3.0, "negative": "",
                  "judge": "judge-b-384", "recognizer": "recognizer-judge", "clip": None, "people": 24, "pairs": 23,
                  "pictures": 1234, "faces": 1500, "unusable_faces": 0},
        "dit": made_dit_figures(),
    }  # fmt: skip


def made_dit_figures() -> dict[str, Any]:
    """`personalize.dit` of eval/metrics.json."""

    def at(identity: float, attributes: float, change: float) -> dict[str, Any]:
        return {"identity": figure(identity, 0.02, 48), "identity_others": figure(identity - 0.06, 0.02, 48),
                "attributes": figure(attributes, 0.01, 48), "outside": figure(change, 0.002, 48),
                "inside": figure(3 * change, 0.002, 48)}  # fmt: skip

    found: dict[str, Any] = {
        method: [{"scale": s, **at(v, 0.94 - 0.02 * s, 0.03 * s)} for s, v in zip(SCALES[method], values, strict=True)]
        for method, values in SCALED.items()
    }
    pairs = {
        method: [
            {"share": s, "first": figure(0.6 * s, 0.03, 24), "second": figure(round(0.6 - 0.55 * s, 6), 0.03, 24)}
            for s in SHARES
        ]
        for method in ("recognizer", "dit_mapped")
    }
    return found | {
        "none": at(0.11, 0.951, 0.0), "pairs": pairs,
        "difference": [
            {"method": "dit_mapped", "baseline": "none", "scale": 2.0, **at(0.41, -0.051, 0.06)},
            {"method": "dit_mapped", "baseline": "dit_mapped_plain", "scale": 2.0, **at(-0.013, 0.001, -0.021)},
        ],
        "real": {"identity_others": figure(0.812, 0.02, 48), "strangers": figure(0.163, 0.02, 48)},
        "about": {"people": 48, "pairs": 24, "scale": 2.0, "pair_scale": 4.0, "judge": "judge-b-384",
                  "recognizer": "recognizer-judge", "guidance_scale": 2.0, "num_steps": 50},
    }  # fmt: skip


def made_probes(*, plain: bool = False) -> dict[str, Any]:
    """eval/msid.json."""

    def told(identity: float, yaw: float, pitch: float, smiling: float) -> dict[str, Any]:
        return {"size": 96, "identity_auc": identity, "yaw_r2": figure(yaw, 0.02, 1800),
                "pitch_r2": figure(pitch, 0.02, 1800), "smiling_auc": figure(smiling, 0.02, 1800)}  # fmt: skip

    msid = {name: told(*values) for name, values in FEATURES.items()}
    more = {name: told(a, y + 0.1, p + 0.1, s + 0.05) for name, (a, y, p, s) in FEATURES.items()}
    return {"depths": [1, 3, 5, 7], "pictures": 1800, "people": 300, "msid": msid, "plain": more if plain else None}


def made_encoder(*, plain: bool = False) -> dict[str, Any]:
    """`msid` of eval/metrics.json."""
    return {
        "probes": made_probes(plain=plain),
        "verification": {"msid": made_accuracy(0.907), "condition": made_accuracy(0.927)},
    }


def made_accuracy(accuracy: float) -> dict[str, Any]:
    """A recogniser's accuracy.json, as eval/metrics.json has it."""
    rates = {"tar_at_far_1e-2": figure(0.553, 0.03, 104500), "tar_at_far_1e-3": None}
    return {"accuracy": figure(accuracy, 0.007, 6000), "auc": figure(accuracy + 0.04, 0.003, 104500),
            "equal_error_rate": figure(1 - accuracy, 0.006, 104500), "people": 300, "pairs": 104500, **rates}  # fmt: skip


def made_detector() -> dict[str, Any]:
    """The content of data/models/detector/detector.json."""

    def test(recall: float) -> dict[str, Any]:
        return {"recall": figure(recall, 0.004, 480), "precision": figure(0.987, 0.004, 470),
                "landmark_error": figure(0.061, 0.003, 470), "pictures": 300}  # fmt: skip

    return {"source": None, "licence": "x", "test": test(0.983), "test_soft": test(0.961)}
