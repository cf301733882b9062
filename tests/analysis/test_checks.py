"""Does ``report --check`` find whatever was altered in a finished result, in a line that names the file, and nothing in the committed ones?"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis import checks, report
from analysis.__main__ import main
from analysis.files import digest
from analysis.results import Result, seal
from tests.analysis import committed
from tests.analysis.fakes import Fakes

FILE = "e90_fake/result.json"
Record = dict[str, Any]


@pytest.fixture
def published(fakes: Fakes, reports: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    fakes.write(units=1)
    assert main(["run", "--reports", str(reports)]) == 0
    assert main(["report", "--check", "--reports", str(reports)]) == 0
    capsys.readouterr()
    return reports


def said(reports: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines of a check that finds something."""
    assert main(["report", "--check", "--reports", str(reports)]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    return captured.err.splitlines()


def altered(reports: Path, change: Callable[[Record], object], resealed: bool) -> None:
    record = json.loads((reports / FILE).read_bytes())
    change(record)
    if resealed:
        record["sha256"] = seal(record)
    (reports / FILE).write_text(json.dumps(record))


def put(*path: Any, value: Any) -> Callable[[Record], None]:
    def change(record: Any) -> None:
        for key in path[:-1]:
            record = record[key]
        record[path[-1]] = value

    return change


FORGED: list[tuple[tuple[Any, ...], Any, str]] = [
    (("verdict", "status"), "no claim", "the verdict says 'no claim', its tables say 'holds'"),
    (("verdict", "summary"), "The mean is 42 m.", "sentence is not what its tables say"),
    (("verdict", "findings", 0, "measured"), "42 m", "findings are not what its tables say"),
    (("verdict", "findings", 0, "stated"), "43 m", "findings are not what its tables say"),
    (("verdict", "findings"), [], "findings are not what its tables say"),
    (("title",), "Another", "title is not that of the experiment"),
    (("question",), "Is it not so?", "question is not that of the experiment"),
    (("claims", 0, "stated"), "43 %", "claims is not that of the experiment"),
    (("claims",), [], "claims is not that of the experiment"),
    (("figures", 0, "caption"), "Something else.", "the caption of line is not that of the experiment"),
    (("tables", 0, "rows"), 6, "points.csv has 5 rows, not 6"),
    (("tables", 0, "columns", "value"), "str", "no verdict follows from its tables"),
    (("tables", 0, "columns", "value"), "int64", "its tables are not what it says: e90_fake/points.csv"),
    (("tables", 0, "columns"), {"value": "float64"}, "its tables are not what it says: e90_fake/points.csv: columns"),
]


def test_a_forged_verdict_or_word_is_found_though_the_checksum_was_forged_too(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (published / FILE).read_bytes()
    for path, value, words in FORGED:
        altered(published, put(*path, value=value), resealed=True)
        lines = said(published, capsys)
        assert f"stale: {FILE}: " in lines[0] and words in lines[0], (path, lines)
        (published / FILE).write_bytes(whole)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything in a record that is no table or list."""
    if isinstance(value, dict | list):
        inside = value.items() if isinstance(value, dict) else enumerate(value)
        return [leaf for key, part in inside for leaf in leaves(part, (*path, key))]
    return [path]


def test_nothing_in_a_record_can_be_altered_unseen(published: Path) -> None:
    record = json.loads((published / FILE).read_bytes())
    for path in leaves(record):
        changed = json.loads(json.dumps(record))
        place = changed
        for key in path[:-1]:
            place = place[key]
        old = place[path[-1]]
        place[path[-1]] = f"{old}0" if isinstance(old, str) else (old or 0) + 1
        assert any("altered" in line for line in checks.problems(Result(published / "e90_fake", changed))), path
    assert checks.problems(Result(published / "e90_fake", dict(reversed(record.items())))) == []
    for lacking in (
        put("figures", 0, value={k: v for k, v in record["figures"][0].items() if k != "sha256"}),
        lambda r: r.pop("sha256"),
    ):
        changed = json.loads(json.dumps(record))
        lacking(changed)
        assert any("has no checksums" in line for line in checks.problems(Result(published / "e90_fake", changed)))


def test_an_altered_table_figure_or_page_is_named(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file, words in (
        ("e90_fake/points.csv", "is not the table"), ("e90_fake/line.png", "is not the figure"),
        ("README.md", "is not what the result files say"), ("index.html", "was altered"),
    ):  # fmt: skip
        path = published / file
        whole = path.read_bytes()
        path.write_bytes(whole.replace(b"0", b"1", 1) if file.endswith("csv") else b" " + whole)
        (line,) = said(published, capsys)
        assert line.startswith(f"stale: {file}: {words}")
        path.unlink()
        if file != "index.html":
            os.mkfifo(path)  # nobody writes into it: reading would hang
            assert said(published, capsys)[0].startswith(f"stale: {file}: ")
            path.unlink()
        path.write_bytes(whole)


def test_a_table_forged_with_all_its_checksums_makes_another_verdict(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = published / "e90_fake/points.csv"
    head, first, *rows = table.read_text().splitlines(keepends=True)
    table.write_text("".join([head, first.replace(first.split(",")[1], "1e3"), *rows]))
    altered(published, put("tables", 0, "sha256", value=digest(table.read_bytes())), resealed=True)
    assert f"stale: {FILE}: the verdict's sentence is not what its tables say" in said(published, capsys)


DAMAGED: list[tuple[bytes | tuple[Any, ...], Any, str]] = [
    (b"", None, "not JSON"), (b"\xff\xfe", None, "not JSON (no UTF-8 at byte 0)"), (b"[" * 10**5, None, "not JSON (nested too deeply)"),
    (b'{"a": NaN}', None, "not JSON (NaN is no number of JSON)"), (b'{"a": 1, "a": 2}', None, "the name 'a' stands twice"),
    (b"[]", None, "not an object"), (b"null", None, "not an object"), (b"{}", None, "experiment is missing"),
    (("title",), 3, "title is missing or not of type str"), (("seeds",), True, "seeds is missing or not of type int"),
    (("seconds",), "1", "seconds is missing or not of type float"), (("claims",), {}, "claims is missing or not of type list"),
    (("claims", 0, "kind"), "hearsay", "a claim is one of"), (("claims", 0, "text"), None, "claims[0].text is missing"),
    (("verdict",), [], "verdict is missing or not of type dict"), (("verdict", "status"), [], "verdict.status is missing"),
    (("verdict", "status"), "true", "verdict.status is not one of"), (("verdict", "findings"), [[]], "verdict.findings[0] is missing"),
    (("verdict", "findings", 0), {"quantity": "x"}, "verdict.findings[0].stated is missing"), (("units",), [], "units need one entry"),
    (("units", 0, "unit"), {"seed": []}, "units[0].unit.seed is missing or not of type str or int or float"),
    (("environment",), {}, "environment.cpu is missing"), (("tables", 0, "columns"), [], "tables[0].columns is missing"),
    (("tables", 0, "file"), 3, "tables[0].file is missing"), (("tables", 0, "file"), "../x", "'../x' is not a plain file name"),
    (("figures", 0, "width"), 1.5, "figures[0].width is missing"), (("figures", 0), "line", "figures[0] is missing"),
    (("profile",), "\x1b[2J", "profile '\\x1b[2J' is not one of"), (("experiment",), "e91", "belongs to e91"),
]  # fmt: skip


def test_a_damaged_record_is_one_line_from_every_command(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (published / FILE).read_bytes()
    for what, value, words in DAMAGED:
        if isinstance(what, bytes):
            (published / FILE).write_bytes(what)
        else:
            altered(published, put(*what, value=value), resealed=True)
        (line,) = said(published, capsys)
        assert line.startswith(f"error: {FILE}: ") and words in line, (what, line)
        assert main(["report", "--reports", str(published)]) == 1
        assert capsys.readouterr().err == f"{line}\n"
        assert main(["list", "--reports", str(published)]) == 0
        assert "Traceback" not in capsys.readouterr().err
        (published / FILE).write_bytes(whole)


def test_every_damaged_result_has_its_line(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in (("e91_other", b"[]"), ("e92_pipe", None)):
        (published / name).mkdir()
        path = published / name / "result.json"
        os.mkfifo(path) if content is None else path.write_bytes(content)
    assert said(published, capsys) == [
        "error: e91_other/result.json: not an object",
        "error: e92_pipe/result.json: a pipe (FIFO), and only regular files are read",
    ]


def test_pages_and_terminals_show_text_from_elsewhere_escaped(
    fakes: Fakes, reports: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = "a\x1b[2J[bold]\u202e\nb"
    fakes.write(title=odd)
    fakes.write("e91_bad", measure=f"raise ValueError({odd!r})")
    assert main(["run", "--reports", str(reports)]) == 1
    said = capsys.readouterr()
    assert r"ValueError: a\x1b[2J[bold]\u202e b" in said.err
    for text in (said.out, said.err, (reports / "README.md").read_text(), (reports / "index.html").read_text()):
        assert all(line.isprintable() for line in text.split("\n"))
    assert r"a\x1b[2J[bold]\u202e\nb" in (reports / "README.md").read_text()


def test_the_committed_results_are_what_their_tables_say() -> None:
    assert report.problems(committed.committed_reports()) == []
