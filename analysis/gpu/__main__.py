"""``python -m analysis.gpu``: record what a GPU does, and compare recordings with fpemu.

Exit codes of ``record``: 0 recorded; 1 nothing recorded, or failed on the way (the same command goes on).
Exit codes of ``compare``: 0 identical; 1 differences (other than of libraries' products), or a device that did not
repeat itself; 2 nothing to compare, or damaged.
Both: 2 a wrong command line; 130 interrupted.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.gpu.device import CudaDevice
from analysis.gpu.driver import DriverError
from analysis.gpu.kinds import KINDS
from analysis.gpu.record import CannotRecord, record
from analysis.gpu.recording import RECORDINGS, TRAINING, Recording, RecordingError, recordings, title_of
from fpemu.shown import shown, shown_lines

if TYPE_CHECKING:
    from analysis.gpu.compare import Comparison

DIFFERENCES, NOTHING, INTERRUPTED = 1, 2, 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis.gpu", description=str(__doc__).partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    recorder = commands.add_parser("record", help="record what the first GPU of this machine does")
    recorder.add_argument(
        "what",
        choices=[*KINDS, "training"],
        help="every conversion over every input of its source; matrix products of tensor cores over seeded inputs; or training in PyTorch",
    )
    recorder.add_argument(
        "--out", type=Path, default=RECORDINGS, metavar="DIR", help="gets <gpu>-<date>/ (default: reports/recordings)"
    )
    recorder.add_argument(
        "--parts", default="*", metavar="PATTERN", help="only parts whose names match, e.g. 'ptx-*' (default: all)"
    )
    recorder.add_argument("--quick", action="store_true", help="fewer outputs of each class (tensor-cores alone)")
    recorder.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="where training runs (training alone; default: cuda)"
    )
    comparer = commands.add_parser("compare", help="replay recordings on the CPU and name every difference")
    comparer.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", help="recordings (default: all of reports/recordings)"
    )
    comparer.add_argument(
        "--stride", type=_positive, default=1, metavar="N", help="replay every N-th chunk of outputs (default: 1)"
    )
    comparer.add_argument(
        "--examples", type=_positive, default=8, metavar="N", help="differing outputs to show of a part (default: 8)"
    )
    comparer.add_argument("--json", action="store_true", help="print the comparison as JSON")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def _say(line: str) -> None:
    print(shown(line), file=sys.stderr, flush=True)


def _record(arguments: argparse.Namespace) -> int:
    if arguments.what == "training":
        return _record_training(arguments)
    kind = KINDS[arguments.what]
    chosen = [part for name, part in kind.parts.items() if fnmatch.fnmatchcase(name, arguments.parts)]
    if not chosen:
        raise CannotRecord(f"no part matches {arguments.parts!r}; there are: {', '.join(kind.parts)}")
    try:
        coverage = kind.coverage(arguments.quick)
    except ValueError as error:
        raise CannotRecord(str(error)) from None
    place = record(CudaDevice(), arguments.out, kind=kind, parts=chosen, coverage=coverage, tell=_say)
    print(f"wrote {place}")
    return 0


def _record_training(arguments: argparse.Namespace) -> int:
    from analysis.gpu import training
    from analysis.gpu.training_tasks import TASKS

    tasks = [task for name, task in TASKS.items() if fnmatch.fnmatchcase(name, arguments.parts)]
    if not tasks:
        raise CannotRecord(f"no task matches {arguments.parts!r}; there are: {', '.join(TASKS)}")
    print(f"wrote {training.record(arguments.device, arguments.out, tasks=tasks, tell=_say)}")
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    # Only here: it explains examples with fpemu.testing, which imports Hypothesis, and recording needs neither.
    from analysis.gpu.compare import compare

    folders = arguments.folders or recordings(RECORDINGS)
    if not folders:
        raise RecordingError("no recording yet; on a machine with a GPU: python -m analysis.gpu record conversions")
    told: list[dict[str, Any]] = []
    same = True
    for folder in folders:
        if title_of(folder) == TRAINING:
            same = _compare_training(folder, told, arguments.json) and same
            continue
        recording = Recording.read(folder)
        if not recording.is_gpu:
            raise RecordingError(f"{folder}: was made by a stand-in, not by a GPU")
        found = compare(
            recording,
            stride=arguments.stride,
            examples=arguments.examples,
            watch=lambda name: _say(f"replaying {name}"),
        )
        same = same and bool(found) and not any(one.is_failure for one in found)
        told.append({"recording": recording.name, "device": recording.manifest["device"]["name"], **_parts(found)})
        if not arguments.json:
            print(shown_lines(_text(recording, found)))
    if arguments.json:
        print(json.dumps(told, indent=1))
    return 0 if same else DIFFERENCES


def _compare_training(folder: Path, told: list[dict[str, Any]], silent: bool) -> bool:
    """Set a recording of training beside its emulation; whether every run is within the tolerances."""
    from analysis.gpu import training, training_compare

    recording = training.TrainingRecording.read(folder)
    found = training_compare.compare(recording, lambda name: _say(f"emulating {name}"))
    device = recording.manifest["device"]["name"]
    told.append({"recording": recording.name, "device": device, "runs": [one.record() for one in found]})
    if not silent:
        what = "" if recording.is_gpu else "PyTorch's CPU autocast, no GPU: "
        print(shown(f"{what}{device}, recorded {recording.manifest['recorded']}"))
        for one in found:
            print(shown_lines(one.text()))
        for entry in recording.manifest["not_recorded"]:
            print(shown(f"{entry['task']:<11} {entry['mode']:<9} not recorded: {entry['reason']}"))
    return all(one.within for one in found)


def _parts(found: list[Comparison]) -> dict[str, Any]:
    return {"parts": [comparison.record() for comparison in found]}


def _text(recording: Recording, found: list[Comparison]) -> str:
    identical = sum(comparison.is_identical for comparison in found)
    lines = [
        f"{recording.hardware}, recorded {recording.manifest['recorded']}: {identical} of {len(found)} parts identical",
        *(comparison.text() for comparison in found),
        *(f"{entry['name']:<28} not recorded     {entry['reason']}" for entry in recording.manifest["not_recorded"]),
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, and says in one line what is wrong."""
    try:
        chosen = _parser().parse_args(arguments)
    except SystemExit as exit:
        return int(exit.code or 0)
    try:
        return _record(chosen) if chosen.command == "record" else _compare(chosen)
    except (CannotRecord, DriverError) as error:
        _say(f"error: {error}")
        return 1
    except RecordingError as error:
        _say(f"error: {error}")
        return NOTHING
    except OSError as error:
        _say(f"error: {f'{error.filename}: ' if error.filename else ''}{error.strerror or error}")
        return 1 if chosen.command == "record" else NOTHING
    except KeyboardInterrupt:
        kept = ": finished parts are kept; the same command goes on" if chosen.command == "record" else ""
        _say(f"interrupted{kept}")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
