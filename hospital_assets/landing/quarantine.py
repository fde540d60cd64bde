"""Which landed files no run may load now, and how that changes: `quarantine.json` next to the warehouse.

Belongs here: the file. What becomes of a file whose runs fail is the planner's decision (`automation/refresh`).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path

from hospital_assets.files import locked, replace_text

_LOG = logging.getLogger("hospital.landing")
_FILE = "quarantine.json"

#: State of a file that is held back -> why, and what to do.
HELD_BACK = {
    "held": "runs with this file failed; it is tried alone next",
    "quarantined": "every run with this file failed; see the failed runs, deliver a corrected file or "
    "give it another try with `hospital retry`",
}


def label_of(source_file: str) -> str:
    """How alerts and logs call a landed file: its source and the beginning of a hash of its path.

    A path may name a patient, so it is shown only where the ledger may be: quality page, `hospital status`, terminal.
    """
    return f"file {hashlib.sha256(source_file.encode(errors='replace')).hexdigest()[:8]} of {source_file.split('/')[0]}"


def read_quarantine(folder: Path) -> dict[str, str]:
    """Content hash -> `held` or `quarantined`, of the files that no run may load now, the next to try first.

    A file of another shape holds back nothing: what is in it is tried again, and held back again if it fails.
    """
    path = folder / _FILE
    try:
        stored = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        stored = None
    if not isinstance(stored, dict) or not set(map(str, stored.values())) <= set(HELD_BACK):
        _LOG.warning("%s is not what this program writes: no file is held back, all are tried again", path)
        return {}
    return {str(digest): str(state) for digest, state in stored.items()}


def change_quarantine(folder: Path, before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """Store what a decision changed, and leave alone what others have changed since it was made.

    Args:
        before: what was read (`read_quarantine`) when the decision was made.
        after: what it shall be, in the order in which held files are tried.
    """
    with locked(folder / f".{_FILE}.lock"):
        now = read_quarantine(folder)
        changed = {sha for sha in {*before, *after} if now.get(sha) == before.get(sha)}
        kept = {sha: state for sha, state in now.items() if sha not in changed}
        stored = {sha: state for sha in after if (state := after[sha] if sha in changed else kept.pop(sha, ""))}
        replace_text(folder / _FILE, json.dumps({**stored, **kept}, indent=1))
