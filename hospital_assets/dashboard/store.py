"""Which version of whose publication is open.

A new version is noticed at the next request, by its pointer; requests that still use the one before
keep it until they are done. Belongs here: opening, swapping, remembering pages already made.
"""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path

from hospital_assets.dashboard.mart import Mart
from hospital_assets.publishing.policy import SmallCells

#: Rendered pages kept in memory, over all audiences and slices.
_KEPT_PAGES = 60


#: DuckDB's share, enough for one page's queries at a time over ten million visits. All that opens a publication in one
#: process must agree.
_MEMORY, _DUCKDB_THREADS = "32MB", 1


class NothingPublishedError(Exception):
    """The audience has no publication yet; the message says what to do."""


@dataclass
class Store:
    """Open publications by audience.

    Attributes:
        current: says which version of an audience counts, None where there is none.
        building: held while a page is made: its queries share DuckDB's memory with nobody.
    """

    current: Callable[[str], str | None]
    open_mart: Callable[[str], Mart]
    building: threading.Lock = field(default_factory=threading.Lock)
    _marts: dict[str, Mart] = field(default_factory=dict)
    _pages: OrderedDict[tuple[object, ...], bytes] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def mart(self, audience: str) -> Mart:
        """The newest version of an audience's publication.

        Raises:
            NothingPublishedError: there is none.
        """
        version = self.current(audience)
        if version is None:
            raise NothingPublishedError(f"nothing is published for '{audience}' yet: run `hospital publish`")
        mart = self._marts.get(audience)
        if mart is None or mart.version != version:
            with self._lock:
                mart = self._marts.get(audience)
                if mart is None or mart.version != version:
                    # The one before is closed when the last request lets go of it.
                    mart = self._marts[audience] = self.open_mart(audience)
        return mart

    def remembered(self, key: tuple[object, ...], make: Callable[[], str]) -> str:
        """A page made before for the same version and slice, or made now."""
        with self._lock:
            if key in self._pages:
                self._pages.move_to_end(key)
                return zlib.decompress(self._pages[key]).decode()
        made = make()
        with self._lock:
            # A seventh of the memory, for a hundredth of the time that it takes to make one.
            self._pages[key] = zlib.compress(made.encode(), 1)
            while len(self._pages) > _KEPT_PAGES:
                self._pages.popitem(last=False)
        return made


def open_mart(data_dir: Path, audience: str, baselines_from: tuple[date, ...] = ()) -> Mart:
    """The newest version of an audience's publication, open for reading.

    Args:
        data_dir: where publications are.
        baselines_from: days from which limits of chance are computed anew.

    Raises:
        PublicationError: there is none.
    """
    from hospital_assets.publishing.publications import DATABASE, open_publication

    found = open_publication(data_dir, audience, memory_limit=_MEMORY, threads=_DUCKDB_THREADS)
    return Mart(
        found.connection,
        audience,
        found.version,
        found.published_at,
        datetime.fromisoformat(found.manifest["data_as_of"]),
        found.manifest.get("small_cell_threshold", SmallCells().threshold),
        baselines_from,
        found.path / DATABASE,
        frozenset(
            name for name, how in found.manifest.get("small_cells", {}).get("tables", {}).items() if "rounded_to" in how
        ),
    )
