"""``fpemu conform``: do the libraries on this machine convert as the standards say, and as they say themselves?"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from fpemu.cli.terminal import console, plain_table, print_json
from fpemu.shown import shown_lines
from fpemu.stacks import ALL, STACKS

if TYPE_CHECKING:
    from fpemu.testing.conformance import Outcome
    from fpemu.testing.peers import Peer

DISAGREES, COULD_NOT_RUN = 1, 2


@click.command(
    epilog="Exit codes: 0 every stack keeps its stated policy; 1 some do not; 2 some could not be run, or wrong usage."
)
@click.argument("stacks", nargs=-1, metavar="[STACK]...")
@click.option("--list", "listing", is_flag=True, help="List the stacks with their references, and run nothing.")
@click.option("--exhaustive", is_flag=True, help="Try all 2^32 inputs of float32; hours.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
def conform(stacks: tuple[str, ...], listing: bool, exhaustive: bool, as_json: bool) -> None:
    """Hold the installed stacks against the standards (IEEE 754, OFP8, MX, ONNX) and against their stated policies.

    STACK is a stack (torch>=2.13, xla, onnx-saturate) or a package (torch, jax); without any, all that are installed.
    Each stack runs in a process of its own.

    \b
    a standard's name  as that says, and as the stack itself says
    "own policy only"  as the stack says, which is not the standard
    "neither"          counter-examples follow
    "not described"    no standard, and no policy here describes it
    """
    from fpemu.testing.conformance import FAILED, NEITHER, conformance, told
    from fpemu.testing.peers import PEERS

    if listing:
        _list(as_json)
        return
    chosen = list(PEERS)
    if stacks:
        valid = dict.fromkeys(name for peer in PEERS for name in (peer.stack, peer.package))
        names = {STACKS[name].name if name in STACKS and name not in valid else name for name in stacks}
        unknown = sorted(names - set(valid))
        if unknown:
            raise click.UsageError(f"no installable stack {', '.join(unknown)}; valid: {', '.join(valid)}")
        chosen = [peer for peer in PEERS if names & {peer.stack, peer.package}]
        if not any(peer.is_installed for peer in chosen):
            click.echo(f"fpemu: not installed: {', '.join(dict.fromkeys(p.package for p in chosen))}", err=True)
            click.get_current_context().exit(COULD_NOT_RUN)
    outcomes: list[Outcome] = []
    for outcome in conformance(chosen, exhaustive=exhaustive, isolated=True):
        outcomes.append(outcome)
        if sys.stderr.isatty():
            click.echo(
                f"\r\033[K{len(outcomes)} {outcome.stack} {outcome.source} to {outcome.target}", nl=False, err=True
            )
    if sys.stderr.isatty():
        click.echo("\r\033[K", nl=False, err=True)
    missing = _missing(chosen)
    if as_json:
        absent = [{"stack": stack, "package": package} for stack, package in missing]
        print_json({"outcomes": [outcome.data() for outcome in outcomes], "not_installed": absent})
    else:
        _table(outcomes)
        for outcome in outcomes:
            if outcome.verdict in (NEITHER, FAILED):
                click.echo(shown_lines(told(outcome)))
        if missing:
            packages = dict.fromkeys(package for _, package in missing)
            click.echo(f"not installed, or of another release: {', '.join(packages)}")
    verdicts = {outcome.verdict for outcome in outcomes}
    code = DISAGREES if NEITHER in verdicts else COULD_NOT_RUN if FAILED in verdicts else 0
    click.get_current_context().exit(code)


def _missing(chosen: Sequence[Peer]) -> list[tuple[str, str]]:
    """Stacks and packages that no release is installed of; a stack may have a row for each of several."""
    found = {(peer.stack, peer.package) for peer in chosen if peer.is_installed}
    return [one for one in dict.fromkeys((peer.stack, peer.package) for peer in chosen) if one not in found]


def _table(outcomes: list[Outcome]) -> None:
    """A row for each library and target, a column for each source."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for o in outcomes:
        name = (
            f"{o.stack} ({o.package} {o.version})" if not o.stack.startswith(o.package) else f"{o.stack} ({o.version})"
        )
        rows.setdefault((name, o.target), {})[o.source] = o.standard or o.verdict
    table = plain_table("stack", "to", *(f"from {source}" for source in ALL), left=2 + len(ALL))
    last = ""
    for (name, target), cells in rows.items():
        table.add_row("" if name == last else name, target, *(cells.get(source, "-") for source in ALL))
        last = name
    console().print(table)


def _list(as_json: bool) -> None:
    rows = [
        {"name": stack.name, "what": stack.what, "conversions": len(stack), "references": list(stack.references)}
        for stack in STACKS.values()
    ]
    if as_json:
        print_json(rows)
        return
    table = plain_table("stack", "what", "conversions", "references", left=4)
    for row in rows:
        table.add_row(str(row["name"]), str(row["what"]), str(row["conversions"]), "; ".join(row["references"]))  # type: ignore[arg-type]
    console().print(table)
