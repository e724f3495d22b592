"""The pages hold together: links, navigation, the tests that the threat model names."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LINKED = [
    *PAGES,
    *(
        REPOSITORY / name
        for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
    ),
]
THREATS = DOCS / "explanation" / "threat-model.md"
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
TEST = re.compile(r"`(tests/[\w/.]+)::(\w+)`")
CODE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


@cache
def anchors(page: Path) -> frozenset[str]:
    """What headings are called in links, as GitHub and mkdocs make it."""
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles)


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        if not found.exists() or (anchor and anchor not in anchors(found)):
            broken.append(target)
    assert broken == []


def test_pages_link_to_pages_only() -> None:
    """`mkdocs build --strict` knows nothing outside of docs/."""
    for page in PAGES:
        for target in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
            if not re.match(r"[a-z]+:|#", target):
                assert (page.parent / target.partition("#")[0]).resolve().is_relative_to(DOCS)


def test_the_navigation_lists_every_page_once() -> None:
    navigation = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    listed = re.findall(r": (\S+\.md)$", navigation, re.MULTILINE)
    assert sorted(listed) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def test_every_test_that_a_page_names_exists() -> None:
    missing = [
        f"{page.name}: {path}::{name}"
        for page in PAGES
        for path, name in TEST.findall(page.read_text(encoding="utf-8"))
        if not (REPOSITORY / path).exists() or name not in functions(REPOSITORY / path)
    ]
    assert missing == []


def threats() -> list[list[str]]:
    """The rows of the threat model: threat, defence, code, test."""
    rows = re.findall(r"^\| (.*) \|$", THREATS.read_text(encoding="utf-8"), re.MULTILINE)
    cells = [row.split(" | ") for row in rows]
    return [row for row in cells if row[0] != "Threat" and not row[0].startswith("---")]


def test_every_threat_has_a_defence_that_exists_and_a_test_or_an_admission() -> None:
    assert len(threats()) > 40
    for row in threats():
        assert len(row) == 4, row
        _, defence, code, test = row
        paths = re.findall(r"`([\w/]+\.py)`", code)
        if "not defended against" in defence:
            assert (code, test) == ("–", "–"), row
            continue
        assert paths, row
        assert all((REPOSITORY / path).exists() for path in paths), row
        assert TEST.search(test) or "not tested" in test or test == "the same", row
