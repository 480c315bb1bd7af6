"""A conversation with a registered dialogue model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from tasks.errors import ConfigError

Partner = Callable[[Sequence[str]], Iterator[str]]
"""What has been said, a turn each, the last one by the user -> the pieces of the response."""


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
    own = "" if application["speaker"] is None else f"{application['speaker']}: "

    def respond(turns: Sequence[str]) -> Iterator[str]:
        mine = [(len(turns) - i) % 2 == 0 for i in range(len(turns))]
        said = [  # whoever types the model's name does not speak as the model
            f"{own}{turn}" if m else turn.removeprefix(own.strip()).strip() or turn
            for turn, m in zip(turns, mine, strict=True)
        ]
        for piece in model.predict_stream(pd.DataFrame({"context": ["\n".join(said)]})):
            yield piece["response"]

    return respond


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
            turns += [turn, " ".join(response.split()) or "…"]  # silence is a turn too
        else:
            turns = []
        say("\n> " if turn else "> ")
    say("\n")
