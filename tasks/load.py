"""From `pipelines.yaml` and `--set` to a checked `Pipeline`; every refusal names file and line."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from tasks.config import NAME, Conflict, Pipeline, Pipelines
from tasks.errors import ConfigError

Place = tuple[str | int, ...]
VARIABLE = re.compile(r"\$\{(\w+)\}")


class Document:
    """A parsed `pipelines.yaml` that knows the line of each value."""

    def __init__(self, path: Path) -> None:
        """Read and parse.

        Raises:
            ConfigError: the file is missing, not UTF-8, or not YAML.
        """
        self.path = path
        try:
            self.root = YAML(typ="rt", pure=True).load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such file; name one with --file") from None
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not UTF-8 (byte {error.start})") from error
        except MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise ConfigError(f"{path}:{line}: {_one_line(error.problem or error)}") from error
        except YAMLError as error:
            raise ConfigError(f"{path}: {_one_line(error)}") from error
        if not isinstance(self.root, CommentedMap) or not isinstance(
            self.root.get("pipelines"), CommentedMap
        ):
            raise ConfigError(f"{path}:1: expected a mapping with the key 'pipelines'")
        if not isinstance(self.root.get("defaults") or {}, CommentedMap | dict):
            raise ConfigError(f"{path}:{self.line(('defaults',))}: 'defaults' must be a mapping")
        if extra := sorted(map(str, set(self.root) - {"defaults", "pipelines"})):
            raise ConfigError(
                f"{path}:{self.line((extra[0],))}: unknown key '{extra[0]}'; "
                "accepted: defaults, pipelines"
            )

    def line(self, place: Place) -> int:
        """1-based line of the deepest part of `place` that the file has."""
        node, line = self.root, 1
        for part in place:
            if isinstance(node, CommentedMap) and part in node:
                at = (node.lc.data or {}).get(part)  # none: brought in by a merge key
                line, node = (at[0] if at else node.lc.line) + 1, node[part]
            elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
                line, node = node.lc.item(part)[0] + 1, node[part]
        return int(line)

    def has(self, place: Place) -> bool:
        """Whether the file has exactly this place."""
        node = self.root
        for part in place:
            if not isinstance(node, CommentedMap) or part not in node:
                return False
            node = node[part]
        return True


def names(path: Path) -> list[str]:
    """The pipelines a file declares."""
    return [str(name) for name in Document(path).root["pipelines"]]


def load(path: Path, name: str, overrides: Sequence[str] = ()) -> Pipeline:
    """One pipeline, `defaults` merged under it and `--set` values over it.

    Args:
        path: pipelines.yaml.
        name: the pipeline's key.
        overrides: `training.epochs=2`; the value is YAML.

    Raises:
        ConfigError: anything unknown, missing, mistyped or out of range, with file and line.
    """
    document = Document(path)
    pipelines = {str(key): value for key, value in document.root["pipelines"].items()}
    if name not in pipelines:
        raise ConfigError(f"{path}: no pipeline '{name}'; accepted: {', '.join(pipelines)}")
    where = f"{path}:{document.line(('pipelines', name))}"
    if not re.fullmatch(NAME, name):
        raise ConfigError(f"{where}: pipeline '{name}': a name should match pattern '{NAME}'")
    if not isinstance(pipelines[name], CommentedMap):
        raise ConfigError(f"{where}: pipeline '{name}' must be a mapping")
    merged = merge(_plain(document.root.get("defaults") or {}), _plain(pipelines[name]))
    expanded = _expand(merged, lambda place: _where(document, name, place))
    for override in overrides:
        _override(expanded, override)
        expanded = _expand(expanded, lambda _place, override=override: f"--set {override}")
    overridden = [tuple(o.partition("=")[0].split(".")) for o in overrides]
    try:
        return Pipeline.model_validate_json(json.dumps(expanded, default=str), strict=True)
    except ValidationError as error:
        found = [(_yaml_place(e, expanded), e) for e in error.errors()]
        places = [place for place, _ in found]
        # An error inside a value says more than one about the value (a union's other branch).
        found = [f for f in found if not any(p[: len(f[0])] == f[0] != p for p in places)]
        place, first = min(found, key=lambda f: _line(document, name, f[0]))
        by_set = any(place[: len(o)] == o or o[: len(place)] == place for o in overridden if place)
        origin = f"--set {'.'.join(map(str, place))}" if by_set else _where(document, name, place)
        raise ConfigError(f"{origin}: {_explain(first, place)}") from error


def resolve(config: str) -> Pipeline:
    """A pipeline from the JSON that an earlier run recorded.

    Raises:
        ConfigError: this version of Graft does not accept it.
    """
    try:
        return Pipeline.model_validate_json(config, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = tuple(first["loc"])
        raise ConfigError(f"recorded configuration: {_explain(first, place)}") from error


def schema() -> str:
    """The JSON Schema of pipelines.yaml, for editors."""
    document = Pipelines.model_json_schema()
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    # `defaults` may supply any key, so a pipeline on its own need not be complete.
    document["$defs"]["Pipeline"].pop("required", None)
    document["properties"]["defaults"] = {
        **document["properties"]["defaults"],
        "$ref": "#/$defs/Pipeline",
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` on top of `under`, mappings merged key by key."""
    result = dict(under)
    for key, value in over.items():
        below = result.get(key)
        both = isinstance(below, dict) and isinstance(value, dict)
        result[key] = merge(below, value) if both else value  # type: ignore[arg-type]
    return result


def _plain(node: Any) -> Any:
    if isinstance(node, dict):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    return node


def _expand(node: Any, where: Any, place: Place = ()) -> Any:
    """Replace ${NAME} in strings by the environment's value; unset is an error."""
    if isinstance(node, dict):
        return {key: _expand(value, where, (*place, key)) for key, value in node.items()}
    if isinstance(node, list):
        return [_expand(value, where, (*place, i)) for i, value in enumerate(node)]
    if not isinstance(node, str):
        return node

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise ConfigError(f"{where(place)}: environment variable {match[1]} is not set")
        return os.environ[match[1]]

    return VARIABLE.sub(value, node)


def _override(data: dict[str, Any], override: str) -> None:
    place, equals, text = override.partition("=")
    if not equals or not place:
        raise ConfigError(f"--set {override}: expected PATH=VALUE, such as training.epochs=2")
    try:
        value = _plain(YAML(typ="safe", pure=True).load(text))
    except YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not YAML") from error
    *parents, last = place.split(".")
    node = data
    for part in parents:
        child = node.get(part)
        node[part] = dict(child) if isinstance(child, dict) else {}
        node = node[part]
    node[last] = value


def _where(document: Document, name: str, place: Place) -> str:
    """`file:line` of a place in a merged pipeline: its own line, else the one in defaults."""
    return f"{document.path}:{_line(document, name, place)}"


def _line(document: Document, name: str, place: Place) -> int:
    own, default = ("pipelines", name, *place), ("defaults", *place)
    chosen = default if document.has(default) and not document.has(own) else own
    return document.line(chosen)


def _yaml_place(error: ErrorDetails, data: Any) -> Place:
    """pydantic's location without the union tags it puts between keys."""
    place: Place = ()
    for index, part in enumerate(error["loc"]):
        inside = (isinstance(data, dict) and part in data) or (
            isinstance(data, list) and isinstance(part, int) and part < len(data)
        )
        if inside:
            data, place = data[part], (*place, part)
        elif index == len(error["loc"]) - 1 and error["type"] in ("missing", "extra_forbidden"):
            place = (*place, part)
    cause = error.get("ctx", {}).get("error")
    return (*place, *cause.place) if isinstance(cause, Conflict) else place


def _explain(error: ErrorDetails, place: Place) -> str:
    """One line: the place, the offending value, what is accepted."""
    name = ".".join(map(str, place)) or "pipeline"
    if error["type"] == "extra_forbidden":
        return f"unknown key '{name}'; accepted: {', '.join(_keys_beside(place))}"
    if error["type"] == "missing":
        return f"'{name}' is missing"
    message = _one_line(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "value_error":
        return (
            message
            if not place or isinstance(error["ctx"]["error"], Conflict)
            else f"'{name}': {message}"
        )
    shown = json.dumps(error["input"], default=str, ensure_ascii=False)
    return f"'{name}' is {shown[:80]}: {message[0].lower()}{message[1:]}"


def _keys_beside(place: Place) -> list[str]:
    """The keys that are accepted where `place` ends, read off the schema."""
    document = Pipeline.model_json_schema()
    node: dict[str, Any] = document
    for part in place[:-1]:
        node = _follow(node, document)
        named = [*node.get("patternProperties", {}).values(), node.get("additionalProperties")]
        node = node.get("properties", {}).get(part) or named[0] or {}
    return sorted(_follow(node, document).get("properties", {}))


def _follow(node: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    while "properties" not in node:
        options = [node, *node.get("anyOf", []), *node.get("oneOf", [])]
        objects = [o for o in options if "$ref" in o or o.get("type") == "object"]
        if not objects or (objects[0] is node and "$ref" not in node):
            return node
        node = objects[0]
        if "$ref" in node:
            node = document["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return node


def _one_line(value: object) -> str:
    return " ".join(str(value).split())
