"""Refuse a model folder that could run code when it is loaded, or make a copy that cannot."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

PICKLE = "pytorch_model.bin"


class UnsafeBackbone(ValueError):
    """A folder whose weights are pickled, that asks to run its own code, or that holds no model."""


def check_safe(folder: Path) -> None:
    """Accept a transformers folder with safetensors and no code of its own.

    Raises:
        UnsafeBackbone: no config.json or no object in it, pickled weights only, or `auto_map`
            (remote code).
    """
    config = folder / "config.json"
    if not config.is_file():
        raise UnsafeBackbone(f"{folder}: no config.json; expected a transformers model folder")
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnsafeBackbone(f"{config}: not JSON") from error
    if not isinstance(settings, dict):
        raise UnsafeBackbone(f"{config}: expected an object")
    if "auto_map" in settings:
        raise UnsafeBackbone(f"{config}: 'auto_map' asks to run the model's own code; refused")
    if not any(folder.glob("*.safetensors")):
        pickled = [p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".pkl")]
        what = f"pickled weights ({pickled[0]})" if pickled else "no weights"
        raise UnsafeBackbone(f"{folder}: {what}; only safetensors are accepted")


def from_pickle(folder: Path, target: Path) -> None:
    """Write a copy of a pickled model's folder to `target`, its weights as safetensors.

    The pickle is read with `weights_only`: anything in it but tensors and plain containers is an
    error, and nothing in it is called.

    Raises:
        UnsafeBackbone: there is something else in it, or it is damaged.
    """
    import torch
    from safetensors.torch import save_file

    try:
        state = torch.load(folder / PICKLE, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        first = str(error).splitlines()[0][:150]
        raise UnsafeBackbone(f"{folder / PICKLE}: not tensors alone ({first})") from error
    if not isinstance(state, dict) or not all(isinstance(t, torch.Tensor) for t in state.values()):
        raise UnsafeBackbone(f"{folder / PICKLE}: expected a flat table of tensors")
    target.mkdir()
    for path in folder.iterdir():
        if path.suffix in (".json", ".txt", ".model", ".jinja"):
            shutil.copy(path, target)
    tensors = {
        name: tensor.clone().contiguous() for name, tensor in state.items()
    }  # none share memory
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
