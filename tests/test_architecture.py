"""The layers of imports, the public names, and names of files that say nothing."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import facegen

ROOT = Path(__file__).resolve().parents[1]

# From the bottom up; a module imports from its own layer and from those below. New top-level modules are added here.
LAYERS = (
    {
        "errors",
        "config_faults",
        "config_rules",
        "config_sections",
        "config_personalize",
        "config",
        "rng",
        "artifacts",
        "attributes",
        "locking",
        "device",
    },
    {"models", "flow", "metrics"},
    {"data", "train", "grids"},
    {
        "pipeline",
        "sample_sets",
        "gan_sampling",
        "edit",
        "edit_sets",
        "photograph",
        "photo_face",
        "upscaling",
        "identities",
        "personalize",
    },
    {
        "scoring",
        "charts",
        "score_plots",
        "score_charts",
        "score_control",
        "score_distances",
        "judging",
        "evaluation",
        "report_tables",
        "tracking",
        "mlflow_store",
        "record",
        "dag",
        "report",
        "report_text",
        "profiles",
        "doctor",
        "sampling",
        "image_sets",
        "set_scoring",
        "measured_edits",
        "score_edits",
        "score_edit_charts",
        "score_edit_plots",
        "score_inputs",
        "score_photographs",
        "score_upscaling",
        "report_edits",
        "score_identities",
        "score_leakage",
        "score_equal_diversity",
        "score_identity_charts",
        "score_identity_plots",
        "report_identities",
        "verification_pairs",
        "score_personalize",
        "measured_personalize",
        "report_personalize",
        "score_personalize_charts",
        "score_personalize_plots",
        "score_dit_identity",
        "cli_scenes",
        "cli_personalize",
        "editing",
        "face_detector",
        "photo_jobs",
        "cli",
        "cli_options",
        "cli_identities",
        "cli_verify",
        "cli_photos",
        "cli_app",
        "app",
    },
)
LEAVES, MATHS = LAYERS[:2]
FORBIDDEN_NAMES = {"utils.py", "util.py", "helpers.py", "helper.py", "common.py", "misc.py", "tools.py", "base.py"}
# Maths knows no configuration, no files of ours, no environment, no command line, no logger.
FORBIDDEN_IN_MATHS = {
    "facegen.config",
    "facegen.config_rules",
    "facegen.config_faults",
    "facegen.config_personalize",
    "logging",
    "argparse",
    "mlflow",
}
EDGE_ONLY = {"mlflow", "gradio", "typer", "prefect", "dvc"}

PUBLIC = ["FacePipeline", "FacegenError", "Faces", "LatentDiT", "Latents", "Params", "__version__", "load_params"]


def modules() -> dict[str, Path]:
    """Dotted names and files of the package."""
    found = {}
    for path in sorted((ROOT / "facegen").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path) -> set[str]:
    """Everything that a file imports anywhere, as dotted names; `from a import b` counts as a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: line {node.lineno}: relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer_of(name: str) -> int:
    """Number of the layer that a dotted name of the package belongs to."""
    part = name.split(".")[1]
    found = [n for n, layer in enumerate(LAYERS) if part in layer]
    assert found, f"facegen/{part} belongs to no layer; add it to LAYERS in {__file__}"
    return found[0]


INNER = [name for name in modules() if name != "facegen"]


@pytest.mark.parametrize("name", INNER)
def test_imports_go_down_only(name: str) -> None:
    known, own = modules(), layer_of(name)
    for imported in imports(known[name]):
        if imported in known and imported != "facegen":
            assert layer_of(imported) <= own, f"{name} imports {imported}, which lies above it"


@pytest.mark.parametrize("name", INNER)
def test_the_package_never_imports_the_stages(name: str) -> None:
    assert not {i for i in imports(modules()[name]) if i.split(".")[0] in {"pipelines", "tests", "benchmarks"}}


@pytest.mark.parametrize("name", [name for name in INNER if name.split(".")[1] in MATHS])
def test_maths_sees_no_surroundings(name: str) -> None:
    path = modules()[name]
    assert not imports(path) & FORBIDDEN_IN_MATHS
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in {("os", "environ"), ("os", "getenv"), ("sys", "argv")}, name


@pytest.mark.parametrize("name", INNER)
def test_tools_of_the_edge_stay_there(name: str) -> None:
    used = {imported.split(".")[0] for imported in imports(modules()[name])} & EDGE_ONLY
    assert not used or layer_of(name) == len(LAYERS) - 1, f"{name} imports {used}"


@pytest.mark.parametrize("name", INNER)
def test_no_global_random_state(name: str) -> None:
    text = modules()[name].read_text(encoding="utf-8")
    found = re.findall(
        r"\b(?:torch\.manual_seed|np\.random\.seed|np\.random\.(?:rand|randn|randint|choice)|random\.seed)\(", text
    )
    assert not found, f"{name}: generators come from facegen/rng.py"


def test_no_file_name_that_says_nothing() -> None:
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    assert [name for name in files if Path(name).name in FORBIDDEN_NAMES] == []


def test_files_have_a_size_that_can_be_read() -> None:
    long = {
        name: n for name, path in modules().items() if (n := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert not long


def test_the_public_names_are_frozen() -> None:
    assert facegen.__all__ == PUBLIC
    assert set(dir(facegen)) == set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(facegen, name) is not None


def test_a_name_that_is_not_public() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = facegen.nothing


def test_importing_the_package_is_quick_and_light() -> None:
    code = "import sys, facegen; assert not {'torch', 'diffusers', 'pydantic', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def locked() -> dict[str, str]:
    found = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = line.split(";")[0].strip().split("==")
            found[name] = version
    return found


def test_the_lock_satisfies_the_project_file() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *project["optional-dependencies"]["test"],
        *project["optional-dependencies"]["dev"],
    ]
    pins = locked()
    for text in wanted:
        needed = Requirement(text)
        if needed.name != "facegen":
            assert needed.specifier.contains(pins[canonicalize_name(needed.name)]), f"{needed}: run make lock"


def test_torch_and_torchvision_are_a_pair() -> None:
    """torchvision 0.(n + 15) belongs to torch 2.n; another breaks `torchvision::nms`, and diffusers with it."""
    pins = locked()
    torch_minor, vision_minor = int(pins["torch"].split(".")[1]), int(pins["torchvision"].split(".")[1])
    assert vision_minor == torch_minor + 15
