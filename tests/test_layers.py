"""Imports point downwards only (design: packages), and only the shell touches the outside world."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = frozenset({"rsl", "protocol", "jobmanager", "gatekeeper", "gram"})

MAY_IMPORT: dict[str, frozenset[str]] = {
    "rsl": frozenset({"rsl"}),
    "protocol": frozenset({"protocol"}),
    "jobmanager": frozenset({"jobmanager", "protocol", "rsl"}),
    "gatekeeper": frozenset({"gatekeeper", "jobmanager", "protocol", "rsl"}),
    "gram/client": frozenset({"gram", "protocol", "rsl"}),
    "gram": OURS,
}
"""Our packages that the modules below a folder may import; the longest folder counts."""

LIBRARIES: dict[str, frozenset[str]] = {
    "rsl": frozenset({"lark"}),
    "protocol": frozenset({"cryptography", "OpenSSL"}),
}
"""The only libraries from outside the standard library that pure packages may import."""

OUTSIDE_WORLD = frozenset(
    {"asyncio", "socket", "socketserver", "selectors", "select", "ssl", "subprocess", "http",
     "urllib.request", "multiprocessing", "concurrent", "threading", "signal"}
)  # fmt: skip
SHELL = ("protocol/aio", "jobmanager", "gatekeeper", "gram")
LOCK_OF = frozenset({"protocol/gsi/directory.py"})
"""A cache that several threads use needs a lock; that is no contact with the outside."""


def modules() -> list[str]:
    return sorted(
        str(path.relative_to(ROOT))
        for package in OURS
        for path in (ROOT / package).rglob("*.py")
        if "__pycache__" not in path.parts
    )


def imports(module: str) -> Iterator[str]:
    """Every dotted name a module imports, also inside functions and TYPE_CHECKING blocks."""
    path = ROOT / module
    package = list(Path(module).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            yield ".".join([*base, *([node.module] if node.module else [])])
            if node.module is not None:
                yield from (".".join([*base, node.module, a.name]) for a in node.names)


def below(module: str, folders: tuple[str, ...]) -> bool:
    return any(module.startswith(f"{folder}/") for folder in folders)


@pytest.mark.parametrize("module", modules())
def test_imports_point_downwards(module: str) -> None:
    layer = max((folder for folder in MAY_IMPORT if below(module, (folder,))), key=len)
    wrong = {
        name for name in imports(module)
        if name.split(".")[0] in OURS - MAY_IMPORT[layer]
    }  # fmt: skip
    if layer == "gram/client":
        wrong |= {name for name in imports(module) if name.startswith("gram.cli.")}
    assert not wrong


@pytest.mark.parametrize("module", [name for name in modules() if not below(name, SHELL)])
def test_pure_packages_touch_nothing(module: str) -> None:
    allowed = {"threading"} if module in LOCK_OF else set()
    wrong = {
        name for name in imports(module)
        if name in OUTSIDE_WORLD - allowed or name.split(".")[0] in OUTSIDE_WORLD - allowed
    }  # fmt: skip
    assert not wrong


@pytest.mark.parametrize("module", [name for name in modules() if below(name, tuple(LIBRARIES))])
def test_pure_packages_use_few_libraries(module: str) -> None:
    known = sys.stdlib_module_names | OURS | LIBRARIES[module.split("/")[0]]
    assert {name.split(".")[0] for name in imports(module)} <= known


@pytest.mark.parametrize(
    "module", [name for name in modules() if below(name, ("jobmanager/spawner",))]
)
def test_the_spawner_needs_only_the_standard_library_and_itself(module: str) -> None:
    foreign = {
        name for name in imports(module)
        if name.split(".")[0] not in sys.stdlib_module_names
        and not name.startswith("jobmanager.spawner")
    }  # fmt: skip
    assert not foreign


@pytest.mark.parametrize("package", ["jobmanager", "gatekeeper"])
def test_package_fronts_import_nothing(package: str) -> None:
    assert list(imports(f"{package}/__init__.py")) == []


def test_no_test_double_is_imported_by_the_product() -> None:
    users = [
        module for module in modules()
        if any(name.startswith(("tests", "pytest", "hypothesis")) for name in imports(module))
    ]  # fmt: skip
    assert users == []
