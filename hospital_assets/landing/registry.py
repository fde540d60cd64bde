"""Which source profiles a data directory has: its own, and those that ship with the package.

Its own lie in `<data directory>/profiles/`, one TOML file each, and come first; those that ship lie in
`profiles/` next to this module. The edges read them once and hand them on as a value, so nothing below
depends on where they came from or on when it asks. What they were when landed files were last read lies beside the
warehouse.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from hospital_assets.files import replace_text
from hospital_assets.landing.profile import Profile, ProfileError, parse_profile
from hospital_assets.settings import kept_profiles
from hospital_assets.toml_text import TextError, text_of

#: One suffix, so that a glob finds them.
_SUFFIX = ".toml"


@dataclass(frozen=True)
class Profiles(Mapping[str, Profile]):
    """Source profiles by name, as they were when they were read.

    Attributes:
        unusable: name -> what is wrong; a profile that somebody is just writing must not stop the others. Those that
            landed files were read with before are among the usable ones, too, as they were then.
    """

    usable: Mapping[str, Profile]
    unusable: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Profile:
        return self.usable[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.usable)

    def __len__(self) -> int:
        return len(self.usable)

    def faults(self) -> list[str]:
        """What is wrong with those that cannot be used, and what is in force instead."""
        instead = dict.fromkeys(self.usable, "; until it can be used, files are read as before")
        return [problem + instead.get(name, "") for name, problem in sorted(self.unusable.items())]

    def named(self, name: str) -> Profile:
        """A profile by name.

        Raises:
            ProfileError: there is no such profile, or it declares something wrong; says where.
        """
        if name in self.unusable:
            raise ProfileError(self.unusable[name])
        if name not in self.usable:
            raise ProfileError(f"no profile '{name}'; there are: {', '.join(sorted({*self.usable, *self.unusable}))}")
        return self.usable[name]


@functools.cache
def _built_in() -> Mapping[str, str]:
    """The profiles that ship with the package: name -> TOML text."""
    folder = resources.files("hospital_assets.landing") / "profiles"
    return {
        entry.name.removesuffix(_SUFFIX): entry.read_text(encoding="utf-8")
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(_SUFFIX)
    }


def _own(folder: Path | None) -> dict[str, Path]:
    """A data directory's own profiles: name -> file. What begins with a dot is an editor's."""
    if folder is None:
        return {}
    try:
        names = sorted(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError:
        # Nobody can see which there are: those that files were read with are still there.
        names = sorted(path.name for path in kept_profiles(folder).glob(f"*{_SUFFIX}"))
    found = (folder / name for name in names if name.endswith(_SUFFIX) and not name.startswith("."))
    return {path.stem: path for path in found}


def profile_source(folder: Path, name: str) -> str:
    """Where a profile comes from, for people: its file, or `built in`."""
    return str(_own(folder).get(name, "built in"))


def profile_text(folder: Path, name: str) -> str:
    """The TOML text of a profile, whether it can be used or not.

    Raises:
        ProfileError: there is no such profile, or its file cannot be read.
    """
    own = _own(folder)
    if name in own:
        return _text(own[name])
    if name not in _built_in():
        raise ProfileError(f"no profile '{name}'; there are: {', '.join(sorted({*_built_in(), *own}))}")
    return _built_in()[name]


def load_profiles(folder: Path | None) -> Profiles:
    """All profiles of a data directory, as their files are now.

    Of one that cannot be used, that which landed files were last read with stays in force: what is stored of its source
    would be gone while somebody corrects a line.

    Args:
        folder: `Settings.profiles_folder`, which need not exist; None for those that ship alone.
    """
    usable = {name: parse_profile(text, f"{name}{_SUFFIX}") for name, text in _built_in().items()}
    unusable: dict[str, str] = {}
    for name, file in _own(folder).items():
        usable.pop(name, None)
        try:
            usable[name] = _parsed(name, file)
        except ProfileError as error:
            unusable[name] = str(error)
            with contextlib.suppress(ProfileError):
                usable[name] = _parsed(name, kept_profiles(file.parent) / file.name)
    return Profiles(dict(sorted(usable.items())), unusable)


def keep_profiles(folder: Path, used: Profiles) -> None:
    """Keep a data directory's own profiles as landed files were just read with them, and no others."""
    own, kept = _own(folder), kept_profiles(folder)
    for name, file in own.items():
        if name not in used.unusable:
            with contextlib.suppress(ProfileError):
                text, target = _text(file), kept / file.name
                # Somebody may have changed it since.
                if parse_profile(text, str(file)) == used.get(name) and not _is(target, text):
                    replace_text(target, text)
    for path in kept.glob(f"*{_SUFFIX}"):
        if path.stem not in own:
            path.unlink(missing_ok=True)


def _parsed(name: str, file: Path) -> Profile:
    """The profile in a file, which is called as it."""
    profile = parse_profile(_text(file), str(file))
    if profile.name != name:
        raise ProfileError(f"{file}: its name is '{profile.name}'; call the file as the profile")
    return profile


def _text(file: Path) -> str:
    try:
        text = text_of(file)
    except TextError as error:
        raise ProfileError(str(error)) from None
    if text is None:
        raise ProfileError(f"{file} is not there any more")
    return text


def _is(file: Path, text: str) -> bool:
    with contextlib.suppress(ProfileError):
        return _text(file) == text
    return False
