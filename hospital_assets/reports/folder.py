"""Where pages are written."""

from pathlib import Path

import dagster as dg

from hospital_assets.files import replace_text


class ReportsResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The folder of written pages: `reports/` in the data directory."""

    folder: str

    def write(self, name: str, page: str) -> Path:
        """Write a page (all of it or nothing) and say where it is."""
        path = Path(self.folder) / name
        replace_text(path, page)
        return path
