"""A parsed `pipelines.yaml` that knows the line of each value."""

from __future__ import annotations

from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from tasks.errors import ConfigError

Place = tuple[str | int, ...]


class Document:
    """The file as YAML, with lines."""

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
            raise ConfigError(f"{path}:{line}: {one_line(error.problem or error)}") from error
        except YAMLError as error:
            raise ConfigError(f"{path}: {one_line(error)}") from error
        except RecursionError as error:
            raise ConfigError(f"{path}: nested too deeply") from error
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

    def where(self, pipeline: str, place: Place) -> str:
        """`file:line` of a place in a merged pipeline: its own line, else the one in defaults."""
        return f"{self.path}:{self.line_in(pipeline, place)}"

    def line_in(self, pipeline: str, place: Place) -> int:
        """The line `where` names."""
        own, default = ("pipelines", pipeline, *place), ("defaults", *place)
        return self.line(default if self.has(default) and not self.has(own) else own)


def one_line(value: object) -> str:
    """A message without its line breaks."""
    return " ".join(str(value).split())
