"""A refusal by pydantic as one line: the place, the offending value, what is accepted."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import ErrorDetails

from tasks.config import Conflict, Pipeline
from tasks.document import Place, one_line


def yaml_place(error: ErrorDetails, data: Any) -> Place:
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


def explain(error: ErrorDetails, place: Place) -> str:
    """One line: the place, the offending value, what is accepted."""
    name = ".".join(map(str, place)) or "pipeline"
    if error["type"] == "extra_forbidden":
        return f"unknown key '{name}'; accepted: {', '.join(_keys_beside(place))}"
    if error["type"] == "missing":
        return f"'{name}' is missing"
    message = one_line(error["msg"]).removeprefix("Value error, ")
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
