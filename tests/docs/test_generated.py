"""The generated parts of docs/ are what the program says today."""

from tools import generate_docs


def test_no_page_is_stale() -> None:
    pages = [page.name for page in generate_docs.stale()]
    assert pages == [], "run `.venv/bin/python -m tools.generate_docs`"


def test_every_part_is_used() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in generate_docs.DOCS.rglob("*.md"))
    unused = [name for name in generate_docs.PARTS if f"<!-- generated: {name} -->" not in text]
    assert unused == []


def test_what_stands_between_the_marks_is_replaced() -> None:
    text = "# T\n\n<!-- generated: variables -->\nold\n<!-- end -->\n\nkept\n"
    filled = generate_docs.filled(text)
    assert "old" not in filled
    assert "`$(HOME)`" in filled
    assert filled.endswith("\n<!-- end -->\n\nkept\n")
    assert generate_docs.filled(filled) == filled
