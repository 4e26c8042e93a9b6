"""Who imports whom: no circle but that of the registry, whose methods register themselves."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
REGISTRY = {"fewhertz.method", "fewhertz.methods"}


def modules() -> dict[str, Path]:
    """All modules by name: of the library, the recipes and the benches."""
    found = {}
    for root, package in ((ROOT / "src", "fewhertz"), (ROOT, "recipes"), (ROOT, "bench")):
        for file in (root / package).rglob("*.py"):
            parts = file.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imported(name: str, file: Path, known: dict[str, Path]) -> set[str]:
    """Modules that one imports, wherever in its text, but for what only type checkers read."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (base, node.module) if part)
            inner = {f"{base}.{alias.name}" for alias in node.names}
            # a name of a package's __init__ is the package; a module of it is that module
            found |= {one if one in known else base for one in inner}
    return {one for one in found if one in known} - {name}


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Sets of modules that reach one another."""
    reach = {name: set(links) for name, links in graph.items()}
    for middle in graph:  # Warshall
        for links in reach.values():
            if middle in links:
                links |= reach[middle]
    found = {frozenset({b for b in reach[a] if a in reach[b]} | {a}) for a in graph if a in reach[a]}
    return sorted(map(set, found), key=sorted)


def test_no_circle_but_the_registrys() -> None:
    known = modules()
    assert {"fewhertz.attach", "recipes.research.reproduce", "bench.prefill"} <= known.keys()
    found = circles({name: imported(name, file, known) for name, file in known.items()})
    left = [one for one in found if not (one >= REGISTRY and all(name.startswith("fewhertz.method") for name in one))]
    assert left == []


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]
