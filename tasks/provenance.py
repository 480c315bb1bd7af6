"""Where a run happened and with what code: tags every MLflow run carries."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from tasks import store

SERVED_WITH = ("mlflow", "torch", "transformers", "safetensors", "pydantic", "numpy", "pandas")
"""What a registered model imports."""


def tags() -> dict[str, str]:
    """Code version, commit, lock digest, hardware, versions."""
    root = Path(__file__).resolve().parent.parent
    lock = root / "requirements.lock"
    found = {
        "graft.code": store.code_version()[:16],
        "graft.lock": store.file_digest(lock)[:16] if lock.is_file() else None,
        "graft.commit": _commit(root),
        "graft.hardware": hardware(),
        "graft.python": platform.python_version(),
    }
    return {name: value for name, value in found.items() if value}


def hardware() -> str:
    """The processor and how many cores, and the GPU if there is one (without importing torch)."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        name = lines[0].partition(":")[2].strip() if lines else name
    gpu = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return f"{name} x {os.cpu_count()}" + (f", {gpu}" if gpu else "")


def graphics_watts() -> float | None:
    """What the GPU may draw at most, if it says so."""
    said = _output("nvidia-smi", "--query-gpu=power.limit", "--format=csv,noheader,nounits")
    try:
        return float(said.splitlines()[0])
    except (IndexError, ValueError):
        return None


def serving_requirements() -> list[str]:
    """Pinned versions of what the registered model imports."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in SERVED_WITH]


def _commit(root: Path) -> str | None:
    commit = _output("git", "-C", str(root), "rev-parse", "HEAD")
    if not commit:
        return None
    changed = _output("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no")
    return f"{commit[:12]}{' (changed)' if changed else ''}"


def _output(*command: str) -> str:
    """What a command prints, or nothing where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
