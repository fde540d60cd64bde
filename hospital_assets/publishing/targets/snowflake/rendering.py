"""Renders everything but the data, and writes it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from hospital_assets.files import replace_text
from hospital_assets.publishing.policy import Policy
from hospital_assets.publishing.targets.snowflake.model import (
    DATABASE,
    RETENTION_DAYS,
    Rendering,
    SnowflakeError,
    base_role,
)
from hospital_assets.publishing.targets.snowflake.objects import (
    add_schemas,
    render_accounts,
    render_governance,
    render_role,
    render_table,
)
from hospital_assets.publishing.targets.snowflake.references import cross_check
from hospital_assets.publishing.targets.snowflake.scripts import load_sql, verify_sql


def render(policy: Policy) -> Rendering:
    """Everything but the data.

    Raises:
        SnowflakeError: no role sees everything, or a role gets a table that role does not get.
    """
    base = base_role(policy)
    made = Rendering()
    root = f"config/{DATABASE}"
    made.files[f"{root}/params.yaml"] = {
        "retention_time": RETENTION_DAYS,
        "comment": "Emergency departments and patient flow, loaded from publications",
    }
    for contract in policy.tables_of(base):
        render_table(made, policy, contract)
    render_governance(made, policy)
    for role in policy.roles:
        render_role(made, policy, role)
    render_accounts(made, policy)
    made.files["load.sql"] = load_sql(made, policy)
    made.files["verify.sql"] = verify_sql(made, policy)
    add_schemas(made, policy)
    cross_check(made)
    return made


def write(rendering: Rendering, folder: Path) -> list[Path]:
    """Write a rendering; what was rendered into the folder before goes first.

    Raises:
        SnowflakeError: the folder has something in it that is not ours.
    """
    marker = folder / ".hospital-snowflake"
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise SnowflakeError(f"{folder} is not empty and was not rendered by us; take another")
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(marker, "Rendered by `hospital deploy snowflake`; it may be deleted and redone.\n")
    for old in ("config", "data"):
        shutil.rmtree(folder / old, ignore_errors=True)
    written = []
    for name, content in rendering.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else _as_yaml(content)
        replace_text(path, text)
        written.append(path)
    return written


def _as_yaml(content: Any) -> str:
    """YAML with texts of several lines as they read."""
    import yaml

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]
        pass

    Dumper.add_representer(
        str,
        lambda dumper, text: dumper.represent_scalar(
            "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
        ),
    )
    return str(yaml.dump(content, Dumper=Dumper, sort_keys=False, width=1_000, allow_unicode=True))
