"""Do the pages say what is so? Seeds as run, pilots called pilots, and sentences that parse, in every committed result."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import claims, report
from analysis.experiment import KINDS, NOT_PUBLISHED, Claim, load, names
from analysis.results import Result, read_all
from analysis.tables import listed

REPORTS = Path(__file__).resolve().parents[2] / "reports"
RESULTS = read_all(REPORTS)
OWN = ("pilot", "derived", "predicted", "target")

# ---- sentences ---------------------------------------------------------------------------------------------------------
# What a text must not hold, each with a name; numbers and intervals ([0, 1) among them) are set aside first.
FAULTS = {
    "two spaces": r"  ",
    "a space before a mark": r" [,.;:?!](?!\d)",
    "a mark twice": r"([,;:.?!])\s*[,;:.]",
    "a word twice": r"\b([a-z]+) \1\b",
    "a missing value": r"\b(nan|None|inf|NaT)\b",
    "one of many": r"(?<![\d.,^/-])1 (seeds|units|steps|codes|runs|experiments|layers|terms|blocks|rows|recipes|settings)\b",
    "many of one": r"(?<![\d.,^/-])(?!1\b)\d+ (seed|unit|step|code|experiment|layer|setting|recording)\b",
    "a for an": r"\b[Aa] (FP\d|F\d|MLP|MX|NVFP4|SSD|RCEIL|11\b|18\b|8\b|8-|[aeio][a-z])(?!ne\b)",
    "an for a": r"\b[Aa]n (BF16|TF32|GPT|[bcdfgjklmnpqrstvwxz][a-z])",
    "a small letter at the start": r"(^|[.?!] )(?!sqrt)[a-z]",
    "an empty list": r"(: *[;.]|\(\s*\))",
}
INTERVAL = re.compile(r"[\[(][-+±]?[\w.^%-]+, [-+±]?[\w.^%-]+[\])]")


def faults(text: str) -> list[str]:
    """What is wrong with a text of whole sentences."""
    plain = INTERVAL.sub("[]", re.sub(r"`[^`]+`", "`", text)).replace("[]", "X")
    found = [name for name, pattern in FAULTS.items() if re.search(pattern, plain)]
    if not re.search(r"[.?]$", plain):
        found.append("no mark at the end")
    depth = 0
    for letter in plain:
        depth += (letter in "([") - (letter in ")]")
        if depth < 0:
            break
    return found + ["brackets"] * (depth != 0)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("It  holds.", "two spaces"),
        ("It holds , often.", "a space before a mark"),
        ("It holds: ; often.", "a mark twice"),
        ("It is is so.", "a word twice"),
        ("It is nan.", "a missing value"),
        ("It is None.", "a missing value"),
        ("Of 1 seeds one holds.", "one of many"),
        ("Of 3 seed one holds.", "many of one"),
        ("It is a FP16 number.", "a for an"),
        ("It is an BF16 number.", "an for a"),
        ("it holds.", "a small letter at the start"),
        ("It holds. deepspeed gave up.", "a small letter at the start"),
        ("It holds for: .", "an empty list"),
        ("It holds", "no mark at the end"),
        ("It holds (often.", "brackets"),
        ("It holds) (often.", "brackets"),
    ],
)
def test_a_faulty_sentence_is_caught(text: str, fault: str) -> None:
    assert fault in faults(text)


def test_a_right_sentence_is_not() -> None:
    said = "Of 1,001 seeds 1 holds in [0, 1), an FP16 MLP (-0.5 [-1.0, +0.5]) at 2^-1; a BF16 one needs 21 units. See `a b`."
    assert faults(said) == []


def sentences(result: Result) -> Iterator[str]:
    """The texts of a result that are whole sentences."""
    record = result.record
    yield record["question"]
    yield record["verdict"]["summary"]
    yield from (claim["text"] for claim in record["claims"])
    yield from (figure["caption"] for figure in record["figures"])


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.folder.name[:3])
def test_the_sentences_of_every_result_parse(result: Result) -> None:
    assert {text: faults(text) for text in sentences(result) if faults(text)} == {}


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.folder.name[:3])
def test_what_is_committed_is_what_the_experiment_says_today(result: Result) -> None:
    """Words are those of the sources: `python -m analysis redraw` brings them up to date."""
    module, record = load(result.folder.name), result.record
    assert record["claims"] == [vars(claim) for claim in module.CLAIMS]
    assert (record["title"], record["question"]) == (module.TITLE, module.QUESTION)
    verdict = module.verdict(result.tables())
    assert (verdict.status, verdict.summary) == (record["verdict"]["status"], record["verdict"]["summary"])
    assert [vars(finding) for finding in verdict.findings] == record["verdict"]["findings"]
    assert [figure["caption"] for figure in record["figures"]] == [
        module.CAPTIONS[figure["name"]] for figure in record["figures"]
    ]


def test_the_sentences_of_the_claims_parse() -> None:
    judged = claims.judged(RESULTS)
    assert len(judged) == len(claims.CLAIMS) == 7
    texts = [text for one in judged for text in (one.claim.text, one.why, *([one.claim.gpu] if one.claim.gpu else []))]
    assert {text: faults(text) for text in (*texts, claims.COST_NOTE) if faults(text)} == {}


HOLDS, CONDITIONS, FAILS = claims.HOLDS, claims.CONDITIONS, claims.FAILS


@pytest.mark.parametrize(
    ("statuses", "why"),
    [
        ([HOLDS, HOLDS], "Of the 2 experiments that bear on it 2 hold."),
        ([FAILS], "The one experiment that bears on it does not hold at this scale; not run yet: e15, e16 and e17."),
        (
            [HOLDS, CONDITIONS, CONDITIONS, FAILS],
            "Of the 4 experiments that bear on it 1 holds, 2 hold with conditions and 1 does not hold at this scale.",
        ),
    ],
)
def test_why_a_claim_holds_is_a_sentence(statuses: list[str], why: str) -> None:
    results = [
        Result(Path(f"r{number}"), {"verdict": {"status": status}, "figures": []})
        for number, status in enumerate(statuses)
    ]
    missing = ("e15", "e16", "e17") if len(statuses) == 1 else ()
    textbook = claims.Textbook("It is so.", (*(result.folder.name for result in results), *missing), ("", ""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "CLAIMS", (textbook,))
        (judged,) = claims.judged(results)
    assert judged.why == why and faults(why) == []


def test_lists_of_words() -> None:
    assert [listed(list(words)) for words in ("", "a", "ab", "abc")] == ["", "a", "a and b", "a, b and c"]


# ---- seeds -------------------------------------------------------------------------------------------------------------
def result_of(*units: dict[str, Any]) -> Result:
    return Result(Path("e90_fake"), {"units": [{"unit": unit, "seconds": 0.0} for unit in units], "seeds": 3})


@pytest.mark.parametrize(
    ("units", "told"),
    [
        ([{"seed": 0}], "1 seed"),
        ([{"seed": 0}, {"seed": 7}], "2 seeds"),
        ([{"format": "e4m3"}, {"format": "e5m2"}], "no seeds"),
        ([{"task": "MLP", "seed": s} for s in range(4)] + [{"task": "GPT", "seed": s} for s in range(4)], "4 seeds"),
        (
            [{"task": t, "seed": s} for t, n in (("MLP", 8), ("convnet", 5), ("GPT", 1)) for s in range(n)],
            "8 seeds (MLP), 5 (convnet) and 1 (GPT)",
        ),
        ([{"task": "MLP", "seed": 0}, {"task": "table"}], "1 seed (MLP) and none (table)"),
    ],
)
def test_seeds_are_counted_as_run(units: list[dict[str, Any]], told: str) -> None:
    assert result_of(*units).seeds_told() == told


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.folder.name[:3])
def test_seeds_told_are_those_in_the_tables(result: Result) -> None:
    """Of every table that names its seeds, by the other parts of a unit where it has these."""
    run = result.seeds_run()
    parts = [key for key in result.record["units"][0]["unit"] if key != "seed"]
    for table in result.tables().values():
        if "seed" in table and set(parts) <= set(table.columns):
            of = table.groupby(parts).seed.nunique() if parts else pd.Series({"": table.seed.nunique()})
            for name, count in of.items():
                words = " ".join(map(str, name if isinstance(name, tuple) else (name,)))
                assert run.get(words, count) == count, words
    assert ("seed" in result.record["units"][0]["unit"]) == (max(run.values()) > 0)


def test_pages_tell_the_seeds_that_were_run() -> None:
    different = "8 seeds (MLP), 5 (convnet) and 5 (GPT)"
    pages = {"README": report.gallery(RESULTS), "claims": report.claims_page(RESULTS), "index": report.page(RESULTS)}
    assert all(different in page for page in pages.values())
    bears = sum("e17_bf16_lossless" in claim.evidence for claim in claims.CLAIMS)
    assert pages["claims"].count(different) == bears == 4
    atlas = pages["README"].split('<a id="e02_format_atlas">')[1]
    assert "Profile full, no seeds, 15 units" in atlas[: atlas.index("finished")]


# ---- what was published, and what was not --------------------------------------------------------------------------
EVERY = [(name, claim) for name in names() for claim in load(name).CLAIMS]


@pytest.mark.parametrize(("name", "claim"), EVERY, ids=lambda value: value if isinstance(value, str) else "")
def test_only_what_others_published_is_called_published(name: str, claim: Claim) -> None:
    source = claim.source.lower()
    own = re.search(r"\b(our own|pilot|this project|prediction|experiment e\d\d)\b", source)
    second = re.search(r"second-hand|from memory", source)
    if claim.kind in ("published", "second-hand"):
        assert not own, claim.source
        assert bool(second) == (claim.kind == "second-hand"), claim.source
    elif claim.kind in OWN:
        assert own or claim.kind == "derived", claim.source
    assert (claim.kind == "pilot") == ("pilot" in source), claim.source


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="published, second-hand, pilot"):
        Claim("It is so.", "A book", "42", "hearsay")


def distinct(text: str) -> set[str]:
    """Numbers of a text that hardly occur by chance: of three figures or more, or with a point."""
    return {number for number in re.findall(r"\d+(?:\.\d+)?", text) if "." in number or len(number) > 2}


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.folder.name[:3])
def test_numbers_of_pilots_are_marked_in_the_tables(result: Result) -> None:
    stated = {kind: set[str]() for kind in KINDS}
    for claim in result.record["claims"]:
        stated[claim["kind"]] |= distinct(claim["stated"])
    pilots = stated["pilot"] - stated["published"] - stated["second-hand"]
    for finding in result.record["verdict"]["findings"]:
        if distinct(finding["stated"]) & pilots:
            assert re.search(r"\((.*, )?pilot", finding["stated"]), finding
    if result.record["claims"] and all(claim["kind"] in OWN for claim in result.record["claims"]):
        kinds = "|".join(OWN) + "|the same"
        for finding in result.record["verdict"]["findings"]:
            assert finding["stated"] == NOT_PUBLISHED or re.search(kinds, finding["stated"]), finding


def test_pages_name_the_kind_before_the_number() -> None:
    markdown, page = report.gallery(RESULTS), report.page(RESULTS)
    lines = [line for line in markdown.splitlines() if line.startswith("> ")]
    shown = [claim for result in RESULTS for claim in result.record["claims"]]
    assert len(lines) == len(shown) > 80
    for line, claim in zip(lines, shown, strict=True):
        assert f" {KINDS[claim['kind']]}: {claim['stated']}. <br>" in line
    assert page.count('<span class="published">Published: ') == sum(claim["kind"] == "published" for claim in shown)
    assert (
        page.count('<span class="published">Our own pilot: ') == sum(claim["kind"] == "pilot" for claim in shown) > 20
    )
    assert "| quantity | published |" not in markdown and '<th scope="col">Published</th>' not in page
