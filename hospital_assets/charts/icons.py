"""Icons of variation and assurance, in the manner of NHS Making Data Count; drawn here, not theirs."""

from __future__ import annotations

from html import escape

from hospital_assets.measures.natural_limits import ASSURANCES, WORDS, Assurance, Verdict

#: Heights of five points from the left, from the top: as they come by chance, rising, falling.
_POINTS = {0: (12.5, 9.5, 17.5, 12, 15.5), 1: (22, 20.5, 18, 13.5, 8), -1: (8, 11, 15.5, 19, 22)}
#: Direction of a signal -> its letter, where that has room, and what it says.
_LETTERS = {0: ("", 0, 0, ""), 1: ("H", 10, 14, ", high or rising"), -1: ("L", 20, 14, ", low or falling")}
#: Assurance -> its letter, and how far below the target the values lie.
_TARGETS: dict[Assurance, tuple[str, int]] = {"met": ("P", -4), "missed": ("F", 4), "either": ("?", 0)}


def variation(verdict: Verdict, direction: int) -> str:
    """What chance says: points as they come by chance, or that went high (H) or low (L).

    Args:
        direction: of the signal, 1 or -1; 0 for none.
    """
    points = [(6 + 4.5 * i, y) for i, y in enumerate(_POINTS[direction])]
    line = " ".join(f"{x:g},{y:g}" for x, y in points)
    dots = "".join(f'<circle cx="{x:g}" cy="{y:g}" r="1.6"/>' for x, y in points)
    letter, left, top, way = _LETTERS[direction]
    return _framed(
        f"variation {verdict}", WORDS[verdict] + way, f'<polyline points="{line}"/>{dots}', (letter, left, top)
    )


def assurance(found: Assurance) -> str:
    """Whether a target will be met: passes (P), fails (F), or hit and miss (?); the dashed line is the target."""
    letter, below = _TARGETS[found]
    parts = f'<path class="target" d="M4 19H26"/><path d="M5 {19 + below}q2.5 -5 5 0t5 0t5 0t5 0"/>'
    return _framed(f"assurance {found}", ASSURANCES[found], parts, (letter, 15, 11))


def _framed(name: str, label: str, parts: str, letter: tuple[str, int, int]) -> str:
    text, x, y = letter
    words = escape(label[0].upper() + label[1:])
    written = f'<text x="{x}" y="{y}" text-anchor="middle">{text}</text>' if text else ""
    return (
        f'<svg class="icon {name}" viewBox="0 0 30 30" width="30" height="30" role="img" aria-label="{words}">'
        f'<title>{words}</title><circle class="frame" cx="15" cy="15" r="13.6"/>{parts}{written}</svg>'
    )
