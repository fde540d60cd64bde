"""Which source profiles a data directory has: its own, and those that ship with the package.

Its own lie in `<data directory>/profiles/`, one TOML file each, and come first; those that ship lie in
`profiles/` next to this module. The edges read them once and hand them on as a value, so nothing below
depends on where they came from or on when it asks.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from hospital_assets.landing.profile import Profile, ProfileError, parse_profile

#: One suffix, so that a glob finds them.
_SUFFIX = ".toml"


@dataclass(frozen=True)
class Profiles(Mapping[str, Profile]):
    """Source profiles by name, as they were when they were read.

    Attributes:
        usable: name -> profile.
        unusable: name -> what is wrong; a profile that somebody is just writing must not stop the others.
    """

    usable: Mapping[str, Profile]
    unusable: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Profile:
        return self.usable[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.usable)

    def __len__(self) -> int:
        return len(self.usable)

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
    """A data directory's own profiles: name -> file."""
    return {} if folder is None else {path.stem: path for path in sorted(folder.glob(f"*{_SUFFIX}"))}


def profile_source(folder: Path, name: str) -> str:
    """Where a profile comes from, for people: its file, or `built in`."""
    return str(_own(folder).get(name, "built in"))


def profile_text(folder: Path, name: str) -> str:
    """The TOML text of a profile, whether it can be used or not.

    Raises:
        ProfileError: there is no such profile.
    """
    own = _own(folder)
    if name in own:
        return own[name].read_text(encoding="utf-8")
    if name not in _built_in():
        raise ProfileError(f"no profile '{name}'; there are: {', '.join(sorted({*_built_in(), *own}))}")
    return _built_in()[name]


def load_profiles(folder: Path | None) -> Profiles:
    """All profiles of a data directory, as their files are now.

    Args:
        folder: `Settings.profiles_folder`, which need not exist; None for those that ship alone.
    """
    own = _own(folder)
    texts = {**_built_in(), **{name: path.read_text(encoding="utf-8") for name, path in own.items()}}
    usable: dict[str, Profile] = {}
    unusable: dict[str, str] = {}
    for name, text in sorted(texts.items()):
        file = str(own.get(name, f"{name}{_SUFFIX}"))
        try:
            profile = parse_profile(text, file)
            if profile.name != name:
                raise ProfileError(f"{file}: its name is '{profile.name}'; call the file as the profile")
            usable[name] = profile
        except ProfileError as error:
            unusable[name] = str(error)
    return Profiles(usable, unusable)
