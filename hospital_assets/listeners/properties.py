"""Settings of the clients that listeners use, as those programs write them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from hospital_assets.settings import SettingsError

_VARIABLE = re.compile(r"\$\{(\w+)\}")
#: What settings are called whose values nobody may see.
_SECRET = re.compile(r"password|secret|token|jaas|\.pem$|oauthbearer\.config")


def read_properties(path: Path, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Settings of another program's client: `key=value` a line, `#` for comments.

    A value that is `${NAME}` is that of the environment variable.

    Raises:
        SettingsError: a line is neither, or a variable is not set; names its number, never what it says.
    """
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, separator, value = line.partition("=")
        if not separator:
            raise SettingsError(f"{path}, line {number}: wants key=value")
        value = value.strip()
        if variable := _VARIABLE.fullmatch(value):
            if variable[1] not in environment:
                raise SettingsError(f"{path}, line {number}: set the environment variable {variable[1]}")
            value = environment[variable[1]]
        found[key.strip()] = value
    return found


def redacted(text: str, options: Mapping[str, str]) -> str:
    """A text of a client or a server without the secrets among its settings, and without what it quotes of any."""
    for key, value in options.items():
        text = text.replace(f'"{value}"', '"…"')
        if _SECRET.search(key) and value:
            text = text.replace(value, "…")
    return text
