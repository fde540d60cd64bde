"""Landing a file: whole or not at all, and still there after the power went.

Belongs here: the one way in which our own programs put files into the landing folder, and where a
subject's files go. Does not: what is in them.
"""

from __future__ import annotations

from pathlib import Path

from hospital_assets.files import replace_bytes
from hospital_assets.landing.profile import Profile, ProfileError


def land(folder: Path, name: str, data: bytes) -> Path:
    """Put a file into a folder in one step: written under another name, flushed to disk, renamed, the rename flushed.

    When this returns, the file survives a crash of the program and of the machine. Until then nobody
    sees it: its name begins with a dot and ends in `.tmp` (`files.replacing`).

    Returns:
        the landed file.

    Raises:
        FileExistsError: a landed file never changes.
    """
    target = folder / name
    if target.exists():
        raise FileExistsError(f"{target} has landed already, and a landed file never changes")
    replace_bytes(target, data, is_durable=True)
    return target


#: Format of a subject -> how names of files of messages may end.
_JSON_ENDINGS = (".jsonl", ".ndjson", ".json")
ENDINGS = {"jsonl": _JSON_ENDINGS, "fhir": _JSON_ENDINGS, "hl7v2": (".hl7", ".er7")}


def destination(landing: Path, profile: Profile, subject: str | None = None) -> tuple[Path, str]:
    """Where messages must land to feed a subject: the folder, and how a name must end.

    Args:
        profile: whose subject's `format` says what the messages are.
        subject: the subject; None for a profile of HL7 v2 or FHIR, whose messages are of any subject.

    Raises:
        ProfileError: the profile has no such subject, or its files hold no messages.
    """
    if subject is None:
        subject = next((name for name, spec in profile.subjects.items() if spec.format in ("fhir", "hl7v2")), None)
        if subject is None:
            raise ProfileError(
                f"profile '{profile.name}' reads neither HL7 v2 nor FHIR: name the subject that messages feed"
            )
    spec = profile.subjects.get(subject)
    if spec is None:
        raise ProfileError(
            f"profile '{profile.name}' has no subject '{subject}'; it has {', '.join(sorted(profile.subjects))}"
        )
    if spec.format == "csv":
        raise ProfileError(
            f"subject '{subject}' of profile '{profile.name}' reads CSV; messages are JSON, HL7 v2 or FHIR"
        )
    for pattern in spec.files:
        *folders, name = Path(pattern).parts
        if any("*" in part or "?" in part for part in folders):
            continue
        for ending in ENDINGS[spec.format]:
            if Path(f"messages{ending}").match(name):
                return landing.joinpath(profile.name, *folders), ending
    raise ProfileError(
        f"no pattern of subject '{subject}' of profile '{profile.name}' takes a file of any name that ends "
        f"in {' or '.join(ENDINGS[spec.format])}: {', '.join(spec.files)}"
    )
