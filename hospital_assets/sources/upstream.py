"""The sources that profiles name, as external assets: lineage begins at the hospital's system."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import dagster as dg

from hospital_assets.landing.profile import Profile
from hospital_assets.sources.memory import Pulled

#: The ledger is what first knows of a file.
_LEDGER = dg.AssetKey("raw_landed_files")
#: A source that brings nothing for so long is late.
_FRESH_FOR = timedelta(days=1)


def source_key(profile_name: str) -> dg.AssetKey:
    """The asset of a profile's source."""
    return dg.AssetKey(["sources", profile_name])


def source_assets(profiles: Iterable[Profile]) -> list[dg.AssetSpec]:
    """An external asset for each profile that names a source."""
    return [
        dg.AssetSpec(
            source_key(profile.name),
            group_name="sources",
            description=f"{profile.description} `hospital pull {profile.name}` brings its new files.",
            kinds={profile.source.kind},
            metadata={"from": profile.source.place},
            freshness_policy=dg.FreshnessPolicy.time_window(fail_window=_FRESH_FOR),
        )
        for profile in profiles
        if profile.source is not None
    ]


def below_sources(assets: Iterable[dg.AssetsDefinition], sources: Iterable[dg.AssetSpec]) -> list[dg.AssetsDefinition]:
    """The tables, with the ledger downstream of the sources."""
    deps = [source.key for source in sources]

    def below(spec: dg.AssetSpec) -> dg.AssetSpec:
        return spec.merge_attributes(deps=deps) if spec.key == _LEDGER else spec

    return [asset.map_asset_specs(below) if deps and _LEDGER in asset.keys else asset for asset in assets]


def report_brought(instance: dg.DagsterInstance, profile_name: str, pulled: Pulled) -> None:
    """Tell Dagster that files of a source were brought, whoever brought them; where none were, nothing."""
    if pulled.has_news:
        counts = {"files_brought": pulled.brought, "files_changed": pulled.changed}
        instance.report_runless_asset_event(dg.AssetMaterialization(source_key(profile_name), metadata=counts))
