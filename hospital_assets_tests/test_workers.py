"""Work that is spread over processes: in order, said where it fails, and nothing is left when this process is gone."""

import os
import signal
import sys
from pathlib import Path

import pytest

from hospital_assets.workers import spread
from hospital_assets_tests.processes import started, until

MANY = list(range(30))
SLEEPERS = """
import sys, time
from hospital_assets.workers import spread
if __name__ == "__main__":
    spread(time.sleep, [60.0] * 30)
"""


def where(piece: int) -> tuple[int, int]:
    return piece, os.getpid()


def fails_at_seven(piece: int) -> int:
    if piece == 7:
        raise ValueError("seven")
    return piece


def test_many_pieces_are_done_elsewhere_and_in_order() -> None:
    pieces, processes = zip(*spread(where, MANY), strict=True)
    assert list(pieces) == MANY
    assert (os.getpid() in processes) == (os.cpu_count() == 1)


def test_few_pieces_are_done_here() -> None:
    assert spread(where, [1, 2]) == [(1, os.getpid()), (2, os.getpid())]


def interrupted(piece: int) -> int:
    signal.raise_signal(signal.SIGINT)
    return piece


@pytest.mark.skipif(os.cpu_count() == 1, reason="one processor: nothing is spread")
def test_ctrl_c_is_for_who_asks_not_for_those_that_work() -> None:
    assert spread(interrupted, MANY) == MANY


def test_what_a_piece_raises_is_raised() -> None:
    with pytest.raises(ValueError, match="seven"):
        spread(fails_at_seven, MANY)


def children(process: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            said = stat.read_text()
        except OSError:
            continue
        if int(said.rpartition(")")[2].split()[1]) == process:
            found.append(int(stat.parent.name))
    return found


@pytest.mark.skipif(os.cpu_count() == 1, reason="one processor: nothing is spread")
def test_a_killed_process_leaves_none_behind(tmp_path: Path) -> None:
    script = tmp_path / "sleepers.py"
    script.write_text(SLEEPERS)
    with started([sys.executable, str(script)]) as parent:
        # Python's own tracker of resources is one of them, and ends with the pipe to it.
        until(lambda: len(children(parent.pid)) >= 3, parent)
        found = children(parent.pid)
    until(lambda: not any(Path(f"/proc/{child}").exists() for child in found))
