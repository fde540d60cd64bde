"""Publications outside our own files: PostgreSQL and Snowflake."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from hospital_assets.publishing.publications import PublicationError


def stable_id(*of: str) -> str:
    """The identifier of an object of a tool: of the same names the same, so that a tool takes it as an update."""
    return str(uuid5(NAMESPACE_URL, "/".join(("hospital_assets", *of))))


def write_new(files: Mapping[str, str], folder: Path) -> None:
    """Write files by path into a new folder.

    Raises:
        PublicationError: the folder has something in it; what somebody may have changed is not overwritten.
    """
    if folder.exists() and any(folder.iterdir()):
        raise PublicationError(f"{folder} is not empty; name another folder, or remove it")
    for path, text in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8", newline="\n")
