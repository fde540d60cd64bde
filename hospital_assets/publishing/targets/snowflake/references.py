"""Looks for references to what is not rendered; `snowddl validate` does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hospital_assets.publishing.targets.snowflake.model import DATABASE, Rendering, SnowflakeError


def cross_check(made: Rendering) -> None:
    """Every reference in a rendering is to something that is rendered, with columns of its types.

    Raises:
        SnowflakeError: all that are not.
    """
    wrong = list(_dangling(made))
    if wrong:
        raise SnowflakeError("\n".join(["the rendering refers to what does not exist:", *wrong]))


def _dangling(made: Rendering) -> Iterator[str]:
    objects = _objects(made)
    used: set[tuple[str, str]] = set()
    for (kind, place), content in objects.items():
        if kind == "table":
            yield from _of_table(place, content, objects)
            used.update((kind, name) for kind, name, _ in _bound(content))
    for kind, place in objects:
        if kind == "masking_policy" and (kind, place) not in used:
            yield f"  {place}: a masking policy that no column has"
    yield from _of_views(made)
    yield from _of_roles(made)


def _objects(made: Rendering) -> dict[tuple[str, str], Any]:
    """What is rendered within the schemas: (kind, `schema.name`) -> content."""
    prefix = f"config/{DATABASE}/"
    found: dict[tuple[str, str], Any] = {}
    for path, content in made.files.items():
        parts = path.removeprefix(prefix).removesuffix(".yaml").split("/")
        if path.startswith(prefix) and len(parts) == 3:
            found[parts[1], f"{parts[0]}.{parts[2]}"] = content
    return found


def _bound(table: dict[str, Any]) -> Iterator[tuple[str, str, list[str]]]:
    """The policies of a table: kind, `schema.name`, the columns they are given."""
    for binding in table.get("masking_policies", []):
        yield "masking_policy", binding["policy_name"].removeprefix(f"{DATABASE}."), binding["columns"]
    if binding := table.get("row_access_policy"):
        yield "row_access_policy", binding["policy_name"].removeprefix(f"{DATABASE}."), binding["columns"]


def _of_table(place: str, table: dict[str, Any], objects: dict[tuple[str, str], Any]) -> Iterator[str]:
    columns = {name: stated if isinstance(stated, str) else stated["type"] for name, stated in table["columns"].items()}
    for name in table.get("cluster_by", []):
        if name not in columns:
            yield f"  {place}: cluster_by names '{name}', which it has not"
    bound = list(_bound(table))
    masked = [given[0] for kind, _, given in bound if kind == "masking_policy"]
    by_row = {name for kind, _, given in bound if kind == "row_access_policy" for name in given}
    for name in by_row & set(masked):
        yield f"  {place}: '{name}' has a masking and a row access policy"
    for name in {name for name in masked if masked.count(name) > 1}:
        yield f"  {place}: '{name}' has two masking policies"
    for kind, name, given in bound:
        policy = objects.get((kind, name))
        if policy is None:
            yield f"  {place}: there is no {kind} {name}"
        else:
            yield from _of_arguments(place, name, policy["arguments"], given, columns)


def _of_arguments(
    place: str, policy: str, arguments: dict[str, str], given: list[str], columns: dict[str, str]
) -> Iterator[str]:
    unknown = [column for column in given if column not in columns]
    for column in unknown:
        yield f"  {place}: {policy} is to see '{column}', which it has not"
    wanted = [kind.split("(")[0] for kind in arguments.values()]
    found = [columns[column].split("(")[0] for column in given if column in columns]
    if not unknown and wanted != found:
        yield f"  {place}: {policy} takes {wanted}, and is given {found}"


def _of_views(made: Rendering) -> Iterator[str]:
    for view, (source, names) in made.views.items():
        if source not in made.columns:
            yield f"  {view}: there is no table {source}"
        for name in names:
            if name not in made.columns.get(source, {}):
                yield f"  {view}: {source} has no column '{name}'"


def _of_roles(made: Rendering) -> Iterator[str]:
    schemas = {place.split(".")[0] for place in [*made.columns, *made.views]}
    for role, granted in made.files["config/business_role.yaml"].items():
        for key in ("schema_read", "schema_write"):
            for name in granted.get(key, []):
                if name.removeprefix(f"{DATABASE}.") not in schemas:
                    yield f"  role {role}: {key} names {name}, which is no schema"
        for name in granted["warehouse_usage"]:
            if name not in made.files["config/warehouse.yaml"]:
                yield f"  role {role}: there is no warehouse {name}"
