"""``python -m tests.mutation``: draw mutants, run the tests that cover each, and say how many were noticed.

Exit codes: 0 the lower end of the interval reaches the bound; 1 it does not, or the tests fail without a mutant; 2 a wrong
command line; 130 interrupted (what is finished is kept, the same command goes on from there).
"""

from __future__ import annotations

import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from analysis.files import write_whole
from tests.mutation.campaign import OWN, Campaign, CampaignError, Settings
from tests.mutation.report import Result, reasons

Folder = click.Path(path_type=Path, file_okay=False)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--mutants", "number", type=click.IntRange(min=0), default=300, show_default=True, help="How many; 0: all."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of the draw.")
@click.option(
    "--at-least", type=click.FloatRange(0, 1), default=0.92, show_default=True, help="Lower end of the interval."
)
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="Mutants at a time.")
@click.option(
    "--seconds", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Of tests, for a mutant."
)
@click.option(
    "--patience", type=click.FloatRange(min=0.1), default=20.0, show_default=True, help="Seconds more a test may take."
)
@click.option("--only", multiple=True, metavar="PATH", help="Draw from these files or folders (repeatable).")
@click.option("--root", type=Folder, default=OWN, show_default="this one", help="The checkout to try.")
@click.option(
    "--work", type=Folder, default=OWN / ".cache/mutation", show_default=".cache/mutation", help="Kept files."
)
@click.argument("tests", nargs=-1)
def main(root: Path, work: Path, at_least: float, **settings: Any) -> None:
    """Change the code in small ways and see whether the tests notice.

    TESTS are files of tests, instead of all that reach the code. Progress goes to the terminal and to WORK/progress.txt,
    the report to WORK/report.md; the checkout is never written.
    """
    os.environ["HYPOTHESIS_PROFILE"] = "ci"  # the same examples each time
    os.environ.setdefault("MPLBACKEND", "Agg")
    os.environ.setdefault("NUMBA_CACHE_DIR", str(work.resolve() / "numba-cache"))
    work.mkdir(parents=True, exist_ok=True)

    def say(line: str) -> None:
        stamped = f"{datetime.now():%H:%M:%S} {line}"
        with open(work / "progress.txt", "a") as progress:
            progress.write(stamped + "\n")
        click.echo(stamped)

    campaign = Campaign(root, work, Settings(**settings), say)
    try:
        drawn, outcomes = campaign.run()
    except (CampaignError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from here")
        sys.exit(130)
    result = Result(drawn, outcomes, reasons())
    text = result.text({mutant.file: (campaign.tree / mutant.file).read_bytes() for mutant in drawn})
    write_whole(work / "report.md", text.encode())
    click.echo(text)
    if result.lower < at_least:
        click.echo(f"below the bound: {result.lower:.1%} < {at_least:.0%}")
        sys.exit(1)


if __name__ == "__main__":
    main(prog_name="python -m tests.mutation")
