"""Who may import whom, read off the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(p for folder in ("flows", "tasks") for p in (ROOT / folder).rglob("*.py"))
HEAVY = ("torch", "transformers", "mlflow", "prefect", "great_expectations")


def module(path: Path) -> str:
    """tasks/learning/loop.py -> tasks.learning.loop"""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path, *, typing_too: bool = True) -> Iterator[str]:
    """The dotted name of everything a file imports: `from a import b` gives a.b."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        only_typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if only_typing and not typing_too:
            skipped |= {inner for statement in node.body for inner in ast.walk(statement)}
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module(path).split(".")
            if path.name != "__init__.py":
                package = package[:-1]
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{start}.{alias.name}" for alias in node.names)


def below(name: str, *packages: str) -> bool:
    """Whether a dotted name is one of these packages or inside one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def within(*packages: str) -> list[Path]:
    return [path for path in FILES if below(module(path), *packages)]


def breaches(paths: list[Path], *forbidden: str) -> list[str]:
    assert paths
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in imports(path)
        if below(name, *forbidden)
    ]


def test_the_walk_sees_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Imports in functions, relative ones and `from package import module` are all seen."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "tasks" / "learning" / "x.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import torch.nn\nfrom tasks import store\nfrom ..config import Pipeline\nfrom . import y\n"
        "if TYPE_CHECKING:\n    import pandas\ndef f():\n    import mlflow\n"
    )
    every = {"torch.nn", "tasks.store", "tasks.config.Pipeline", "tasks.learning.y", "mlflow"}
    assert set(imports(path)) == every | {"pandas"}
    assert set(imports(path, typing_too=False)) == every


def test_tasks_do_not_import_flows() -> None:
    """flows → tasks, never back."""
    assert breaches(within("tasks"), "flows") == []


def test_learning_stands_alone() -> None:
    """tasks/learning imports nothing of tasks outside itself."""
    own = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in within("tasks.learning")
        for name in imports(path)
        if below(name, "tasks", "flows") and not below(name, "tasks.learning")
    ]
    assert own == []


def test_learning_is_pure() -> None:
    """tasks/learning knows no orchestrator, tracker or validator."""
    assert breaches(within("tasks.learning"), "prefect", "mlflow", "great_expectations") == []


def test_what_and_how_are_apart() -> None:
    """Applications never import paradigms, nor the reverse."""
    what, how = "tasks.learning.applications", "tasks.learning.paradigms"
    assert breaches(within(what), how) == []
    assert breaches(within(how), what) == []


def test_loop_learner_contracts() -> None:
    """Inside learning: loop → learner → contracts, types aside."""
    order = [f"tasks.learning.{name}" for name in ("contracts", "learner", "loop")]
    for i, name in enumerate(order):
        (path,) = (p for p in FILES if module(p) == name)
        above = [
            found for found in imports(path, typing_too=False) if below(found, *order[i + 1 :])
        ]
        assert above == [], path


def test_who_imports_mlflow() -> None:
    """Only what keeps runs, models and the history of models imports mlflow."""
    assert {module(p) for p in FILES if any(below(n, "mlflow") for n in imports(p))} == {
        "flows.migrate",
        "tasks.ledger",
        "tasks.registry",
        "tasks.tracking",
    }


@pytest.mark.parametrize("name", ["flows.cli", "tasks.load", "tasks.config", "tasks.store"])
def test_heavy_imports_are_late(name: str) -> None:
    """`graft --help` and a refused configuration do not wait for torch."""
    code = f"import sys, {name}; print(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_serving_needs_nothing_that_trains() -> None:
    """What a registered model imports leaves the training loop, and so accelerate, out."""
    script = "import sys, tasks.learning.serving; assert 'tasks.learning.loop' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
