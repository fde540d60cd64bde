"""Settings of the clients that listeners use, as those programs write them."""

from __future__ import annotations

from pathlib import Path

from hospital_assets.settings import SettingsError


def read_properties(path: Path) -> dict[str, str]:
    """Settings of another program's client: `key=value` a line, `#` for comments.

    Raises:
        SettingsError: a line is neither; names its number, never what it says.
    """
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, separator, value = line.partition("=")
        if not separator:
            raise SettingsError(f"{path}, line {number}: wants key=value")
        found[key.strip()] = value.strip()
    return found
