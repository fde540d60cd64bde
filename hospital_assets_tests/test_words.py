"""The words that docs/glossary.md says to avoid stand in no document, docstring or message."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
GLOSSARY = CHECKOUT / "docs" / "glossary.md"
AVOIDED = re.findall(r"\*\*(.+?)\*\*", GLOSSARY.read_text(encoding="utf-8"))
#: "Judge" is "judg" in all its forms.
PATTERN = re.compile("|".join(rf"\b{word.rstrip('e')}\w*" for word in AVOIDED), re.IGNORECASE)


def texts() -> Iterator[tuple[str, str]]:
    """Every document and every text of the package, by place."""
    for path in [*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").rglob("*.md")]:
        if path != GLOSSARY:
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                yield f"{path.relative_to(CHECKOUT)}:{number}", line
    for path in (CHECKOUT / "hospital_assets").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield f"{path.relative_to(CHECKOUT)}:{node.lineno}", node.value


def test_avoided_words_are_avoided() -> None:
    assert len(AVOIDED) > 10
    assert [(place, found.group()) for place, text in texts() if (found := PATTERN.search(text))] == []


@pytest.mark.parametrize("text", ["Rows that were judged.", "A Poisoned file", "told from messages"])
def test_an_avoided_word_is_found(text: str) -> None:
    assert PATTERN.search(text)
