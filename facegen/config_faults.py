"""Reading YAML with line numbers, and saying in words what is wrong with a configuration.

YAML 1.2 through ruamel.yaml: `1e-4` is a number, `no` is a word, and a key that stands twice is a fault.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

Keys = tuple[str | int, ...]

SHOWN_CHARACTERS = 60  # of a faulty value


@dataclass(frozen=True, order=True)
class Fault:
    """One thing that is wrong, at a dotted path; line 0 where the file has no line for it."""

    line: int
    path: str
    message: str

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
        return f"{place}{self.path}: {self.message}" if self.path else f"{place}{self.message}"


@dataclass
class Document:
    """Plain data of one YAML file, the line of each path, and what was wrong on the level of YAML."""

    data: Any = None
    lines: dict[Keys, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def line(self, keys: Keys) -> int:
        """Line of a path, or of the nearest thing above it that has one; 0 if none has."""
        return next((self.lines[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in self.lines), 0)


def dotted(keys: Iterable[str | int]) -> str:
    """`("dit", "betas", 1)` -> `dit.betas[1]`."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    return text.removeprefix(".")


def keys_of(path: str) -> Keys:
    """`dit.betas[1]` -> `("dit", "betas", 1)`."""
    return tuple(int(key) if key.isdigit() else key for key in re.findall(r"[^.\[\]]+", path))


def read_yaml(path: str | Path) -> Document:
    """Parse one YAML file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not text in UTF-8.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; run this from the folder that holds params.yaml") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8 ({error.reason} at byte {error.start})") from None
    return parse_yaml(text)


def parse_yaml(text: str) -> Document:
    """Parse YAML text; faults are collected, not raised."""
    document = Document()
    parser = YAML(typ="safe", pure=True)
    try:
        node = parser.compose(text)
        if node is not None:
            document.data = _plain(node, (), parser, document)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        document.faults.append(Fault(line, "", f"not valid YAML: {error.problem or error.context}"))
    except (YAMLError, RecursionError) as error:
        document.faults.append(Fault(0, "", f"not valid YAML: {str(error).splitlines()[0]}"))
    return document


def _plain(node: Node, keys: Keys, parser: YAML, document: Document) -> Any:
    """Plain Python value of one node; the first of two equal keys counts, the second is a fault."""
    if keys:
        document.lines.setdefault(keys, node.start_mark.line + 1)
    if isinstance(node, SequenceNode):
        return [_plain(item, (*keys, n), parser, document) for n, item in enumerate(node.value)]
    if isinstance(node, MappingNode):
        return _plain_mapping(node, keys, parser, document)
    assert isinstance(node, ScalarNode)
    return parser.constructor.construct_object(node, deep=True)


def _plain_mapping(node: MappingNode, keys: Keys, parser: YAML, document: Document) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line, name = key_node.start_mark.line + 1, key_node.value
        if not isinstance(name, str) or not key_node.tag.endswith(":str"):
            document.faults.append(Fault(line, dotted(keys), f"got the key {name!r}; keys must be words"))
        elif name in values:
            first = document.lines[(*keys, name)]
            message = f"stands twice, in lines {first} and {line}; keep one of them"
            document.faults.append(Fault(line, dotted((*keys, name)), message))
        else:
            document.lines[(*keys, name)] = line
            values[name] = _plain(value_node, (*keys, name), parser, document)
    return values


def shown(value: Any) -> str:
    """A value as a message shows it: as in YAML where that is short, with its type where that could mislead."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"{str(value).lower()} (true or false)"
    if isinstance(value, str):
        text = repr(value) + " (text)"
    elif isinstance(value, Mapping):
        text = f"a section with {', '.join(map(str, value)) or 'nothing'}"
    else:
        text = str(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."


def resolve(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow one `$ref` of a JSON schema."""
    if "$ref" in schema:
        target: Mapping[str, Any] = root["$defs"][schema["$ref"].rsplit("/", 1)[-1]]
        return target
    return schema


def schema_at(keys: Keys, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """JSON schema of the value at a path; empty where there is none."""
    node = root
    for key in keys:
        node = resolve(node, root)
        if isinstance(key, int):
            lists = [option for option in (node, *node.get("anyOf", [])) if option.get("type") == "array"]
            node = _item(lists[0], key) if lists else {}
        elif key in node.get("properties", {}):
            node = node["properties"][key]
        else:
            node = node.get("additionalProperties") or {}
    return resolve(node, root)


def _item(schema: Mapping[str, Any], index: int) -> Mapping[str, Any]:
    places = schema.get("prefixItems", [])
    return places[index] if index < len(places) else schema.get("items") or {}


def allowed(schema: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    """What a JSON schema admits, in words: "a whole number from 1 to 64"."""
    schema = resolve(schema, root)
    if "anyOf" in schema:
        return ", or ".join(allowed(option, root) for option in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        options = schema.get("enum", [schema.get("const")])
        return f"one of {', '.join(map(str, options))}" if len(options) > 1 else str(options[0])
    match schema.get("type"):
        case "integer":
            step = f", a multiple of {schema['multipleOf']}" if "multipleOf" in schema else ""
            return f"a whole number{_bounds(schema)}{step}"
        case "number":
            return f"a number{_bounds(schema)}"
        case "string":
            return schema.get("description", "text")
        case "array" if "prefixItems" in schema:
            return f"a list: {'; '.join(allowed(place, root) for place in schema['prefixItems'])}"
        case "array":
            return f"a list of {_count(schema)}, each {allowed(schema['items'], root)}"
        case "null":
            return "null"
    return "a section"


def _bounds(schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f" from {low} to {high}"
    parts = [f"{word} {bound}" for word, bound in (("from", low), ("above", above)) if bound is not None]
    parts += [f"{word} {bound}" for word, bound in (("up to", high), ("below", below)) if bound is not None]
    return f" {' and '.join(parts)}" if parts else ""


def _count(schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minItems", 0), schema.get("maxItems")
    if high is None:
        return f"{low} or more"
    return str(low) if low == high else f"{low} to {high}"


def unknown_key(name: str, here: Keys, root: Mapping[str, Any]) -> str:
    """Message for a key that does not exist: the nearest right one, or the section it belongs to."""
    schema = schema_at(here, root)
    known = list(schema.get("properties", {})) or schema.get("propertyNames", {}).get("enum", [])
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"unknown key; did you mean {near[0]}?"
    elsewhere = [section for section in root["properties"] if name in schema_at((section,), root).get("properties", {})]
    if elsewhere:
        return f"unknown key here; it belongs in section {' or '.join(elsewhere)}"
    return f"unknown key; allowed are {', '.join(known)}"


def type_faults(error: ValidationError, data: Mapping[str, Any], root: Mapping[str, Any]) -> dict[Keys, str]:
    """One message per faulty path. A key that is missing because it was misspelt is not named a second time."""
    found: dict[Keys, str] = {}
    missing: dict[Keys, str] = {}
    taken: set[Keys] = set()
    for detail in error.errors(include_url=False, include_context=False):
        keys: Keys = detail["loc"]
        if not keys:
            continue  # rules: checked apart, so that they are reported beside the faults of type
        if detail["type"] == "missing":
            missing[keys] = f"missing; it must be {allowed(schema_at(keys, root), root)}"
        elif detail["type"] == "extra_forbidden" or keys[-1] == "[key]":
            keys = keys[:-1] if keys[-1] == "[key]" else keys
            found[keys] = unknown_key(str(keys[-1]), keys[:-1], root)
            if "did you mean " in found[keys]:
                taken.add((*keys[:-1], found[keys].split("did you mean ")[1].rstrip("?")))
        else:
            keys, value = _existing(keys, data)
            found[keys] = f"got {shown(value)}; must be {allowed(schema_at(keys, root), root)}"
    missing = {keys: message for keys, message in missing.items() if keys not in taken}
    parents = {
        keys[:n] for keys in found for n in range(len(keys))
    }  # a list with a faulty item also counts as too short
    return {keys: message for keys, message in {**found, **missing}.items() if keys not in parents}


def _existing(keys: Keys, data: Any) -> tuple[Keys, Any]:
    """The part of a pydantic location that is in the data (it also names branches of unions), and the value there."""
    for n, key in enumerate(keys):
        inside = isinstance(key, int) and isinstance(data, list) and key < len(data)
        if not inside and not (isinstance(data, Mapping) and key in data):
            return keys[:n], data
        data = data[key]
    return keys, data
