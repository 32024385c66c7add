"""Profiles: sets of changes to params.yaml, and the writing of them with every comment kept.

A profile is a YAML file that holds only what differs from the defaults; its first comment line says what it is for.
Changes are applied on top of what params.yaml holds, checked as a whole, and written in one move or not at all.
"""

import difflib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from facegen.artifacts import atomic_write_bytes
from facegen.config import find_faults
from facegen.config_faults import dotted, parse_yaml, read_yaml

MISSING = object()


@dataclass(frozen=True)
class Change:
    """One value that a profile or `--set` replaces; `before` is MISSING where the key was not there."""

    path: str
    before: Any
    after: Any


def list_profiles(folder: Path) -> dict[str, str]:
    """Names and first comment lines of the profiles in a folder, in the order of names.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; run this from the checkout of facegen")
    found = {}
    for path in sorted(folder.glob("*.yaml")):
        first, *_ = path.read_text(encoding="utf-8").splitlines() or [""]
        found[path.stem] = first.removeprefix("#").strip()
    return found


def read_profile(folder: Path, name: str) -> dict[str, Any]:
    """Values of one profile by dotted path.

    Raises:
        ValueError: no profile has this name, or its file is not a mapping in valid YAML.
    """
    names = list(list_profiles(folder))
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names) or 'none'}"
        raise ValueError(f"no profile {name!r} in {folder}/; {hint}")
    document = read_yaml(folder / f"{name}.yaml")
    if document.faults:
        raise ValueError(f"{folder / name}.yaml: " + "; ".join(map(str, document.faults)))
    if not isinstance(document.data, Mapping):
        raise ValueError(f"{folder / name}.yaml: must hold sections of params.yaml")
    return dict(_leaves(_round_trip().load((folder / f"{name}.yaml").read_text(encoding="utf-8")), ()))


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """`["data.root=/data/celeba", "dit.betas=[0.9, 0.99]"]` by dotted path; values are YAML.

    Raises:
        ValueError: one is not KEY=VALUE, or its value is not valid YAML.
    """
    values = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path.strip():
            raise ValueError(f"--set takes KEY=VALUE, as in --set data.root=/data/celeba; got {setting!r}")
        try:
            values[path.strip()] = _round_trip().load(text)
        except YAMLError as error:
            raise ValueError(f"--set {setting}: not valid YAML: {str(error).splitlines()[0]}") from None
    return values


def changes_of(values: Mapping[str, Any], params_path: Path) -> list[Change]:
    """What would change in a parameter file, values that stand there already left out."""
    document = read_yaml(params_path)
    changes = []
    for path, after in values.items():
        node: Any = document.data
        for key in path.split("."):
            node = node.get(key, MISSING) if isinstance(node, Mapping) else MISSING
        if node is MISSING or type(node) is not type(_plain(after)) or node != after:
            changes.append(Change(path, node, _plain(after)))
    return changes


def apply_values(values: Mapping[str, Any], params_path: Path) -> list[Change]:
    """Write values into a parameter file, its comments kept, if the result is free of faults.

    Returns:
        what changed; an empty list leaves the file untouched.

    Raises:
        ValueError: the result would break a rule; every fault is listed and nothing is written.
    """
    changes = changes_of(values, params_path)
    before = params_path.read_text(encoding="utf-8")
    text = edited(before, {change.path: values[change.path] for change in changes}, name=str(params_path))
    faults = find_faults(parse_yaml(text))
    if faults:
        listed = "\n".join(f"  {fault.path}: {fault.message}" for fault in faults)
        raise ValueError(f"{params_path} is left as it was; with these values it would have faults:\n{listed}")
    if changes:
        atomic_write_bytes(params_path, text.encode())
    return changes


def edited(text: str, values: Mapping[str, Any], *, name: str) -> str:
    """YAML text with values replaced by dotted path and everything else, comments included, as it was.

    Raises:
        ValueError: the text is not valid YAML, or a path runs through something that is not a section.
    """
    parser = _round_trip()
    try:
        tree = parser.load(text)
    except YAMLError as error:
        raise ValueError(f"{name}: not valid YAML: {' '.join(str(error).split())[:200]}") from None
    for path, value in values.items():
        *parents, last = path.split(".")
        node = tree
        for n, key in enumerate(parents):
            node = node.setdefault(key, CommentedMap()) if isinstance(node, CommentedMap) else None
            if not isinstance(node, CommentedMap):
                raise ValueError(f"{path}: {dotted(parents[: n + 1])} is one value, not a section")
        node[last] = value
    stream = io.StringIO()
    parser.dump(tree, stream)
    return stream.getvalue()


def _leaves(node: Any, keys: tuple[str, ...]) -> Iterable[tuple[str, Any]]:
    if not isinstance(node, Mapping):
        yield dotted(keys), node
        return
    for key, value in node.items():
        yield from _leaves(value, (*keys, key))


def _plain(value: Any) -> Any:
    """A round-trip value without the memory of how it was written."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def _round_trip() -> YAML:
    parser = YAML(typ="rt")
    parser.width = 4096
    parser.indent(mapping=2, sequence=4, offset=2)
    parser.preserve_quotes = True
    parser.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return parser
