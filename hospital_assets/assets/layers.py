"""Every table as an asset of one data directory.

An asset module declares what a table is made of; which service days there are is a directory's
matter. Both meet here, so that one process can hold the assets of several directories.
"""

from __future__ import annotations

import dagster as dg

from hospital_assets.assets import cleaned, dimensions, facts, forecasts, kpis, raw
from hospital_assets.assets.declare import partitions_of

LAYERS = (raw, cleaned, dimensions, facts, kpis, forecasts)


def table_assets(periods: dg.TimeWindowPartitionsDefinition) -> list[dg.AssetsDefinition]:
    """The assets of all tables."""

    def of_the_directory(spec: dg.AssetSpec) -> dg.AssetSpec:
        return spec.replace_attributes(partitions_def=partitions_of(spec.key.path[-1], periods))

    return [
        asset.map_asset_specs(of_the_directory)
        for layer in LAYERS
        for asset in dg.load_assets_from_package_module(layer)
        if isinstance(asset, dg.AssetsDefinition)
    ]
