"""A conversation with a registered dialogue model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from tasks.errors import ConfigError

Partner = Callable[[Sequence[str]], Iterator[str]]
"""What has been said, a turn each, the last one by the user -> the pieces of the response."""

SILENCE = "…"
"""A turn too."""
SIDES = ("speaker", "partner")
"""Whose names the application knows: the model's, and that of who types."""


def load_partner(name: str) -> Partner:
    """The model as a partner.

    Raises:
        SourceUnavailable: no such model.
        ConfigError: it is not one of dialogue.
    """
    import pandas as pd

    from tasks.registry import load_model

    model = load_model(name)
    application = (model.metadata.metadata or {}).get("application", {})
    if application.get("kind") != "dialogue":
        raise ConfigError(
            f"graft chat: '{name}' is no dialogue model; `graft predict {name} TEXT` asks it"
        )
    names = [f"{application[side]}: " if application.get(side) else "" for side in SIDES]

    def respond(turns: Sequence[str]) -> Iterator[str]:
        said = "\n".join(named(turns, *names))
        for piece in model.predict_stream(pd.DataFrame({"context": [said]})):
            yield piece["response"]

    return respond


def named(turns: Sequence[str], speaker: str, partner: str) -> Iterator[str]:
    """Each turn behind its side's name, the last one being the partner's; who types the speaker's
    name does not speak as it."""
    for i, turn in enumerate(turns):
        if (len(turns) - i) % 2 == 0:
            yield speaker + turn
        else:
            own, said = speaker.strip(), turn
            while own and said.startswith(own):
                said = said.removeprefix(own).strip()
            yield partner + (said or SILENCE)


def converse(partner: Partner, asked: TextIO, answered: TextIO) -> None:
    """Read a turn a line and write the response, piece by piece, until nothing is left to read."""

    def say(text: str) -> None:
        answered.write(text)
        answered.flush()

    turns: list[str] = []
    say("> ")
    for line in asked:
        turn = line.strip()
        if turn:
            response = ""
            for piece in partner([*turns, turn]):
                say(piece if response else piece.lstrip())
                response += piece
            turns += [turn, " ".join(response.split()) or SILENCE]
        else:
            turns = []
        say("\n> " if turn else "> ")
    say("\n")
