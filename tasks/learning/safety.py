"""Refuse a model folder that could run code when it is loaded."""

from __future__ import annotations

import json
from pathlib import Path


class UnsafeBackbone(ValueError):
    """A folder whose weights are pickled, or that asks to run its own code."""


def check_safe(folder: Path) -> None:
    """Accept a transformers folder with safetensors and no code of its own.

    Raises:
        UnsafeBackbone: no config.json, pickled weights only, or `auto_map` (remote code).
    """
    config = folder / "config.json"
    if not config.is_file():
        raise UnsafeBackbone(f"{folder}: no config.json; expected a transformers model folder")
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnsafeBackbone(f"{config}: not JSON") from error
    if "auto_map" in settings:
        raise UnsafeBackbone(f"{config}: 'auto_map' asks to run the model's own code; refused")
    if not any(folder.glob("*.safetensors")):
        pickled = [p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".pkl")]
        what = f"pickled weights ({pickled[0]})" if pickled else "no weights"
        raise UnsafeBackbone(f"{folder}: {what}; only safetensors are accepted")
