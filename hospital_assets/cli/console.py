"""Shared by the commands: progress on the terminal, results of checks, stopping on a signal."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import threading
    from argparse import _SubParsersAction
    from collections.abc import Callable, Collection, Iterator

    import dagster as dg
    from rich.console import Console
    from rich.table import Table

    from hospital_assets.automation.build import BuildReport
    from hospital_assets.settings import Settings

    Run = Callable[[argparse.Namespace, Settings], int]


class Commands:
    """The commands of `hospital` (or those below one of them), and what each is for."""

    def __init__(self, parsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
        self.described: dict[str, str] = {}
        self._parsers = parsers

    def add_parser(self, name: str, run: Run | None = None, *, help: str) -> argparse.ArgumentParser:  # noqa: A002
        """Add a command; what `--help` lists is how its own help begins."""
        self.described[name] = help
        parser = self._parsers.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
        parser.set_defaults(run=run)
        return parser

    def below(self, command: argparse.ArgumentParser, metavar: str) -> Commands:
        """The commands below one of these, of which one must be named."""
        return Commands(command.add_subparsers(required=True, metavar=metavar))


def definitions_of(settings: Settings) -> dg.Definitions:
    """The graph of a data directory, on the engine that the environment names."""
    from hospital_assets.definitions import build_definitions
    from hospital_assets.settings import engine_from_environment

    return build_definitions(settings, engine_from_environment())


@contextlib.contextmanager
def stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """Set an event at Ctrl-C or SIGTERM, instead of ending in the middle."""
    import signal

    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def terminal(*, highlight: bool = True) -> Console:
    """Standard output: as wide as the terminal; in a pipe or a file wide enough for any of our tables."""
    from rich.console import Console

    class Terminal(Console):
        def on_broken_pipe(self) -> None:
            """Fail as any other print does; its own way ends the process."""
            raise BrokenPipeError

    return Terminal(width=None if sys.stdout.isatty() else 160, highlight=highlight)


def headed(*headings: str, right: Collection[str] = (), **options: Any) -> Table:
    """A table to print, with the columns of some headings on the right; `options` are those of `rich`."""
    from rich.table import Column, Table

    return Table(*(Column(heading, justify="right" if heading in right else "left") for heading in headings), **options)


class StepProgress:
    """A progress bar on a terminal, plain lines elsewhere."""

    def __enter__(self) -> StepProgress:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description:<32}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._is_terminal = self._console.is_terminal
        if self._is_terminal:
            self._bar.start()
            self._task = self._bar.add_task("starting", total=None)
        return self

    def __call__(self, name: str, done: int, total: int) -> None:
        """Say how far it is."""
        if self._is_terminal:
            self._bar.update(self._task, description=name, completed=done, total=total)
        elif done % 20 == 0 or done == total:
            print(f"  {done}/{total} steps, last {name}", file=sys.stderr)

    def __exit__(self, *_: object) -> None:
        if self._is_terminal:
            self._bar.stop()


def print_checks(report: BuildReport) -> None:
    """Print the checks that did not pass, and how many did."""
    console = terminal()
    if report.warnings or report.failed_checks:
        odd = headed("table", "check", "", "what", title="Checks that did not pass")
        for check in [*report.failed_checks, *report.warnings]:
            odd.add_row(check.table, check.name, check.severity.lower(), check.description)
        console.print(odd)
    for failure in report.failures:
        console.print(f"[red]failed[/red] {failure}", highlight=False)
    passed = sum(check.passed for check in report.checks)
    console.print(
        f"{passed:,} of {len(report.checks):,} checks passed, {len(report.warnings)} warnings, "
        f"{len(report.failed_checks)} errors; {report.first} to {report.last} "
        f"in {report.seconds:.1f} s",
        highlight=False,
    )
