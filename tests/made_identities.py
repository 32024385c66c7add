"""Figures of synthetic people as eval/metrics.json has them, from values that are made up."""

from __future__ import annotations

from typing import Any

METHODS = {  # consistency, diversity, evaluations, median of the switch
    "one_stage": (0.902, 0.121, 100.0, 1.0),
    "fixed": (0.893, 0.139, 94.0, 0.88),
    "fixed_injection": (0.889, 0.147, 94.0, 0.88),
    "adaptive": (0.896, 0.138, 93.8, 0.88),
    "adaptive_injection": (0.899, 0.146, 93.8, 0.88),
}
SWITCHED = {0.94: 0.04, 0.92: 0.13, 0.9: 0.24, 0.88: 0.27, 0.86: 0.15, 0.84: 0.09, 0.82: 0.05, 0.76: 0.03}
QUANTILES = ("0.05", "0.25", "0.5", "0.75", "0.95", "0.99", "1")


def figure(value: float, spread: float = 0.008, n: int = 360) -> dict[str, Any]:
    """A figure with an interval."""
    return {"value": value, "low": round(value - spread, 6), "high": round(value + 1.2 * spread, 6), "n": n}


def made_method(consistency: float, diversity: float, **more: Any) -> dict[str, Any]:
    """All figures of one set of people."""
    return {
        "people": 60, "pictures": 360, "consistency": figure(consistency),
        "consistency_left_out": figure(consistency - 0.05), "separation": figure(0.881, n=60),
        "separation_quantiles": {"0.05": 0.7, "0.25": 0.82, "0.5": 0.9, "0.75": 0.93, "0.95": 0.96, "1": 0.98},
        "eer": figure(0.071, n=20000), "fnmr_at_fmr_1e-3": figure(0.613, 0.03, 20000), "auc": figure(0.978, n=20000),
        "diversity": figure(diversity, 0.004), "recall": figure(0.644, 0.03), "precision": figure(0.912, 0.02),
        "condition_cosine": figure(0.842), "pose_spread": figure(3.91, 0.1), "yaw_spread": figure(3.2, 0.1),
        "pitch_spread": figure(2.1, 0.1), "brightness_spread": figure(0.052, 0.002),
        "brightness_entropy": figure(1.72, 0.05),
    } | more  # fmt: skip


def made_identity_figures(*, sweep: bool = False) -> dict[str, Any]:
    """`identities` of eval/metrics.json; adaptive_injection is the default method."""
    found: dict[str, Any] = {
        name: made_method(
            consistency, diversity, evaluations=evaluations,
            switch={"mean": median, "0.05": median - 0.04, "0.25": median - 0.02, "0.5": median, "0.75": median + 0.02,
                    "0.95": median + 0.04},
        )
        for name, (consistency, diversity, evaluations, median) in METHODS.items()
    }  # fmt: skip
    default = found["adaptive_injection"]
    swept = {"fixed@0.60": (0.81, 0.181), "fixed@0.95": (0.905, 0.128), "one_stage@2": (0.83, 0.149),
             "one_stage@16": (0.921, 0.113)}  # fmt: skip
    points = [
        made_method(*pair, method=name, evaluations=90.0, switch=default["switch"]) for name, pair in swept.items()
    ]
    real = made_method(0.861, 0.168, condition_cosine=None)
    leakage = {
        "quantile": 0.99, "threshold": 0.962, "pictures_per_centre": 2, "training_people": 1540,
        "threshold_people": 160, "threshold_from": "val",
        "synthetic": made_strangers(400, (0.62, 0.75, 0.83, 0.89, 0.93, 0.951, 0.958), above=0.0),
        "real": made_strangers(300, (0.65, 0.77, 0.85, 0.9, 0.945, 0.961, 0.97), above=0.0133),
        "copies": made_strangers(200, (0.88, 0.94, 0.961, 0.976, 0.988, 0.992, 0.995), above=0.482),
    }  # fmt: skip
    return found | {
        "sweep": points if sweep else [], "real": real,
        "dataset": made_method(0.898, 0.145, evaluations=93.9, switch=default["switch"], total_people=400,
                               total_pictures=2400),
        "difference": {"method": "adaptive_injection", "baseline": "one_stage",
                       "consistency": figure(-0.003, 0.004, 60),
                       "diversity": figure(0.025, 0.004, 60)},
        "equal_diversity": {"method": "adaptive_injection", "baseline": "one_stage", "weight": 0.4,
                            "sets": ["one_stage@2", "one_stage"], "diversity": 0.145,
                            "consistency": figure(0.011, 0.003, 60), "consistency_left_out": None,
                            "eer": -0.0123, "fnmr_at_fmr_1e-3": None},
        "leakage": leakage,
        "screening": {"counts": {"kept": 400, "training": 3, "twin": 7, "spare": 90}, "above": 0,
                      "thresholds": {"training": 0.9931, "each_other": 0.97},
                      "nearest_training": {"0.5": 0.961, "1": 0.9927}},
        "crowd": {"people": 300, "synthetic": {"0.5": 0.912, "0.95": 0.961, "1": 0.969},
                  "real": {"0.5": 0.924, "0.95": 0.967, "1": 0.983}},
        "switch_histogram": {"times": [*SWITCHED], "shares": [*SWITCHED.values()], "at_early": 0.0, "at_late": 0.03,
                             "median": 0.88, "n": 2400},
        "calibration": {"criterion": "attn_recv", "threshold": 0.0213, "target": 0.88, "median": 0.88, "num_runs": 256,
                        "num_steps": 50, "early": 0.98, "late": 0.775, "model_sha256": "ab" * 32},
        "pose_regression": {"r2_landmarks": 0.713, "r2_yaw": 0.8, "r2_pitch": 0.5, "train_pictures": 1500,
                            "test_pictures": 1440},
        "about": {"method": "adaptive_injection", "people": 60, "images_per_person": 6,
                  "recognizer": "recognizer-judge", "judge": "judge-b-384", "recall_k": 3, "recall_real": 1440},
    }  # fmt: skip


def made_strangers(people: int, cosines: tuple[float, ...], *, above: float) -> dict[str, Any]:
    """How near some people come to the training set."""
    return {"people": people, "mean": figure(cosines[2], n=people), "above": figure(above, 0.0, people),
            "quantiles": dict(zip(QUANTILES, cosines, strict=True))}  # fmt: skip


def made_verification(*, benchmarks: bool = False) -> dict[str, Any]:
    """eval/verification.json."""
    accuracy = {"synthetic": 0.889, "real": 0.911, "untrained": 0.606}
    rates = {"tar_at_far_1e-2": None, "tar_at_far_1e-3": None}
    found: dict[str, Any] = {
        name: {"accuracy": figure(value, 0.007, 6000), "auc": figure(value + 0.05, 0.004, 50000),
               "equal_error_rate": figure(0.95 - value, 0.006, 50000), **rates}
        for name, value in accuracy.items()
    }  # fmt: skip
    for name, pictures in {"synthetic": 2400, "real": 2397}.items():
        found[name]["trained_on"] = {"people": 400, "pictures": pictures}
    pairs = {"lfw": (0.741, 0.752, 0.55), "cfp_fp": (0.66, 0.68, 0.53)} if benchmarks else {}
    return found | {
        "above_chance_ratio": figure(0.946, 0.02, 300),
        "benchmarks": {
            name: {key: {"accuracy": figure(value, 0.01, 6000)} for key, value in zip(accuracy, values, strict=True)}
            for name, values in pairs.items()
        },
    }
