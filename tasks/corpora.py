"""Formats of data sets: each reader yields (line or record number, column -> value) of one file."""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Iterable, Sequence
from email.parser import Parser
from typing import Any

from tasks.errors import DataError
from tasks.files import File, Records, content, data, jsonl

TURNS = 6
"""So many turns before a response are its context."""
UNMARKABLE = "overlapping-or-outside"
"""Stands in place of the tags of a row whose mentions no tags can say."""


class Unmarkable(Exception):
    """A mention overlaps another or is outside its text."""


def cluener(file: File, _header: Sequence[str] | None) -> Records:
    """CLUENER (Xu et al. 2020): {"text": …, "label": {type: {mention: [[first, last], …]}}}.

    Each character is a token; `first` and `last` are its characters, both included. Tags can say
    neither of two mentions that overlap nor of one outside the text: the gate rejects such a row.
    """
    for number, record in jsonl(file, None):
        try:
            characters = list(record["text"])
            tags = ["O"] * len(characters)
            for label, mentions in record["label"].items():
                for first, last in itertools.chain.from_iterable(mentions.values()):
                    places = range(first, last + 1)
                    if not places or any(tags[i : i + 1] != ["O"] for i in places):
                        raise Unmarkable
                    tags[first : last + 1] = [f"B-{label}", *[f"I-{label}"] * (last - first)]
        except Unmarkable:
            tags = [UNMARKABLE]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{file.place}:{number}: not CLUENER's format ({error!r})") from error
        yield number, {"tokens": characters, "tags": tags}


def po(file: File, _header: Sequence[str] | None) -> Records:
    """Gettext's strings and their translations; what is not translated, or guessed, is left out."""
    import polib

    try:  # the new line keeps polib from taking the content for a file's name
        entries = polib.pofile(content(file) + "\n").translated_entries()
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{file.place}: damaged gettext file ({error})") from error
    yield from _gettext(entries)


def mo(file: File, _header: Sequence[str] | None) -> Records:
    """The same, compiled."""
    import polib

    try:
        entries = polib.mofile(data(file))
    except (OSError, ValueError, IndexError, struct.error) as error:
        raise DataError(f"{file.place}: damaged gettext file ({error})") from error
    yield from _gettext(entries)


def _gettext(entries: Iterable[Any]) -> Records:
    """`text` and `translation` of each entry but those with a plural or a context, whose text alone
    does not say which translation is meant."""
    for number, entry in enumerate(entries, 1):
        plain = not (entry.msgid_plural or entry.msgctxt)
        if plain and entry.msgid and entry.msgstr:
            line = getattr(entry, "linenum", number)  # a .mo file has no lines
            yield line, {"text": entry.msgid, "translation": entry.msgstr}


def chatterbot(file: File, _header: Sequence[str] | None) -> Records:
    """ChatterBot's corpora: YAML whose `conversations` are lists of turns."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        found = YAML(typ="base").load(content(file))["conversations"]  # every scalar is a text
    except (YAMLError, KeyError, TypeError, ValueError) as error:
        first = str(error).partition("\n")[0]
        raise DataError(f"{file.place}: not ChatterBot's format ({first})") from error
    for number, turns in enumerate(found if isinstance(found, list) else [found], 1):
        if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
            raise DataError(
                f"{file.place}: not ChatterBot's format (conversation {number} is no list of texts)"
            )
    yield from responses(file.name, found)


def chitchat(file: File, _header: Sequence[str] | None) -> Records:
    """The Chit-Chat data set (Myers et al. 2020): {id: {"messages": [[{"text": …}, …], …]}}, a list
    of messages a turn."""
    try:
        found = json.loads(content(file))
        said = [
            [" ".join(message["text"] for message in turn) for turn in one["messages"]]
            for one in found.values()
        ]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file.place}: not Chit-Chat's format ({error!r})") from error
    yield from responses(file.name, said)


def responses(name: str, conversations: Iterable[Sequence[str]]) -> Records:
    """Every turn but the first of each conversation as the response to those before it;
    `conversation` tells which: "health.yml 1". None for a conversation in which nobody responds."""
    number = 0
    for place, turns in enumerate(conversations, 1):
        said = [turn for turn in turns if turn.strip()]
        if len(said) < 2:
            yield place, None
        for i in range(1, len(said)):
            number += 1
            context = said[max(0, i - TURNS) : i]
            yield (
                number,
                {"context": context, "response": said[i], "conversation": f"{name} {place}"},
            )


def metadata(file: File, _header: Sequence[str] | None) -> Records:
    """What a Python package says of itself (METADATA in its .dist-info): `name`, `version`,
    `summary`, and `description`, which is most often its README. One row, or none where either of
    the last two is missing."""
    told = Parser().parsestr(content(file))
    row = {name: told[name] or "" for name in ("name", "version", "summary")}
    payload = told.get_payload()
    row["description"] = payload if isinstance(payload, str) and payload.strip() else ""
    row["description"] = row["description"] or told["description"] or ""
    if all(row[name].strip() not in ("", "UNKNOWN") for name in ("summary", "description")):
        yield 1, row
