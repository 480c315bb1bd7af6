"""A refusal by pydantic as one line: the place, the offending value, what is accepted."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import ErrorDetails

from tasks.config import Pipeline
from tasks.document import Place, one_line
from tasks.domain import Conflict

UNTAGGED = ("union_tag_invalid", "union_tag_not_found")
"""pydantic's errors about a union's `kind`."""


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
    if error["type"] in UNTAGGED:
        place = (*place, error["ctx"]["discriminator"].strip("'"))
    cause = error.get("ctx", {}).get("error")
    return (*place, *cause.place) if isinstance(cause, Conflict) else place


def explain(error: ErrorDetails, place: Place, data: Any) -> str:
    """One line: the place, the offending value of `data`, what is accepted."""
    name = ".".join(map(str, place)) or "pipeline"
    if error["type"] == "extra_forbidden":
        return f"unknown key '{name}'; accepted: {', '.join(_keys_beside(place, data))}"
    if error["type"] in ("missing", "union_tag_not_found"):
        return f"'{name}' is missing"
    if error["type"] == "union_tag_invalid":
        tags = error["ctx"]
        return f"'{name}' is \"{tags['tag']}\": input should be one of {tags['expected_tags']}"
    message = one_line(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "value_error":
        return (
            message
            if not place or isinstance(error["ctx"]["error"], Conflict)
            else f"'{name}': {message}"
        )
    shown = json.dumps(error["input"], default=str, ensure_ascii=False)
    return f"'{name}' is {shown[:80]}: {message[0].lower()}{message[1:]}"


def _keys_beside(place: Place, data: Any) -> list[str]:
    """The keys that are accepted where `place` ends in `data`, read off the schema."""
    document = Pipeline.model_json_schema()
    node: dict[str, Any] = document
    for part in place[:-1]:
        node = _follow(node, document, data)
        named = [*node.get("patternProperties", {}).values(), node.get("additionalProperties")]
        node = node.get("properties", {}).get(part) or named[0] or {}
        data = data[part]
    return sorted(_follow(node, document, data).get("properties", {}))


def _follow(node: dict[str, Any], document: dict[str, Any], value: Any) -> dict[str, Any]:
    """The object schema that `value` is meant for, through references and unions."""
    while "properties" not in node:
        if "discriminator" in node:
            tags = node["discriminator"]
            reference = tags["mapping"].get(value.get(tags["propertyName"]))
            return document["$defs"][reference.rsplit("/", 1)[-1]] if reference else {}
        options = [node, *node.get("anyOf", []), *node.get("oneOf", [])]
        objects = [
            o for o in options if "$ref" in o or "discriminator" in o or o.get("type") == "object"
        ]
        if not objects or (objects[0] is node and "$ref" not in node):
            return node
        node = objects[0]
        if "$ref" in node:
            node = document["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return node
