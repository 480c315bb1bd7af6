"""From `pipelines.yaml` and `--set` to a checked `Pipeline`; every refusal names file and line."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from tasks.config import NAME, Pipeline, Pipelines
from tasks.document import Document, Place
from tasks.errors import ConfigError
from tasks.explain import explain, yaml_place

VARIABLE = re.compile(r"\$\{(\w+)\}")


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
    expanded = _expand(merged, lambda place: document.where(name, place))
    for override in overrides:
        _override(expanded, override)
        expanded = _expand(expanded, lambda _place, override=override: f"--set {override}")
    overridden = [tuple(o.partition("=")[0].split(".")) for o in overrides]
    try:
        return Pipeline.model_validate_json(json.dumps(expanded, default=str), strict=True)
    except ValidationError as error:
        found = [(yaml_place(e, expanded), e) for e in error.errors()]
        places = [place for place, _ in found]
        # An error inside a value says more than one about the value (a union's other branch).
        found = [f for f in found if not any(p[: len(f[0])] == f[0] != p for p in places)]
        place, first = min(found, key=lambda f: document.line_in(name, f[0]))
        by_set = any(place[: len(o)] == o or o[: len(place)] == place for o in overridden if place)
        origin = f"--set {'.'.join(map(str, place))}" if by_set else document.where(name, place)
        raise ConfigError(f"{origin}: {explain(first, place, expanded)}") from error


def resolve(config: str, source: str = "recorded configuration") -> Pipeline:
    """A pipeline from JSON: an earlier run's, unless another source is named.

    Raises:
        ConfigError: this version of Graft does not accept it.
    """
    try:
        return Pipeline.model_validate_json(config, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = tuple(first["loc"])
        raise ConfigError(f"{source}: {explain(first, place, json.loads(config))}") from error


def resolved(pipeline: Pipeline | dict[str, Any]) -> Pipeline:
    """A pipeline from what a form sent; one that is resolved stays as it is.

    Raises:
        ConfigError: what no field of the form could refuse alone.
    """
    return pipeline if isinstance(pipeline, Pipeline) else resolve(json.dumps(pipeline), "pipeline")


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
    except (YAMLError, RecursionError) as error:
        raise ConfigError(f"--set {override}: the value is not YAML") from error
    *parents, last = place.split(".")
    node = data
    for part in parents:
        child = node.get(part)
        node[part] = dict(child) if isinstance(child, dict) else {}
        node = node[part]
    node[last] = value
