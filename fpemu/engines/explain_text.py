"""The record of ``explain_dot`` as a text of at most 100 columns (the bits of float64 take more)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import groupby
from textwrap import wrap
from typing import Any

Record = dict[str, Any]

WIDTH = 100
DETAILED = 2  # so many blocks are shown in full
FOLD_FROM = 3  # so many terms that are alike share a line


def text(record: Record, block: int | None = None) -> str:
    """All of it; of many blocks the list, or one of them (from 1).  ValueError for a block that there is not."""
    if record["block_length"] is None:
        if block is not None:
            raise ValueError(f"there is no block {block}: {record['engine']} adds product by product")
        return "\n".join(line.rstrip() for line in (*_chain(record), "", *_end(record)))
    blocks = [step for step in record["steps"] if step["kind"] == "block"]
    if block is not None and not 1 <= block <= len(blocks):
        raise ValueError(f"there is no block {block}: this dot product has 1 to {len(blocks)}")
    lines = [*_heading(record), ""]
    if block is None and len(blocks) > DETAILED:
        lines += [*_list_of_steps(record), ""]
    else:
        if block is None:
            lines += [*_operands(record, range(len(record["operands"]))), ""]
        place = 0
        for step in record["steps"]:
            place += step["kind"] == "block"
            if step["kind"] == "block" and block in (None, place):
                if block is not None:
                    lines += [*_operands(record, _ks(step)), ""]
                lines += [*_block(record, step, place, len(blocks)), ""]
            elif step["kind"] == "addition" and block is None:
                lines += [*_addition(step), ""]
    return "\n".join(line.rstrip() for line in [*lines, *_end(record)])


# ---- numbers --------------------------------------------------------------------------------------------------------
def brief(value: str) -> str:
    """A value of the record in few characters: a power of two times an odd integer where that is shorter."""
    if len(value) <= 12 or not value.lstrip("-")[:1].isdigit():
        return value
    odd, mark, power = value.rpartition("2^")
    if not mark:
        return min(value, _odd(Fraction(float(value))), key=len)  # (a decimal of the record means the float64)
    if len(value) <= 30:
        return value
    digits = odd.removesuffix(" * ")
    lead = Fraction(int(digits), 1 << (abs(int(digits)).bit_length() - 1))
    return f"about {float(lead):.6g} * 2^{int(power) + abs(int(digits)).bit_length() - 1}"


def _odd(x: Fraction) -> str:
    """An odd integer times a power of two."""
    if not x:
        return "0"
    down = x.denominator.bit_length() - 1
    up = (x.numerator & -x.numerator).bit_length() - 1
    odd, exponent = x.numerator >> up, up - down
    return f"{'-' * (odd < 0)}2^{exponent}" if abs(odd) == 1 else f"{odd} * 2^{exponent}"


def _code(coded: Record) -> str:
    return f"{coded['hex']} = {coded['bits']} = {brief(coded['value'])}"


# ---- parts ----------------------------------------------------------------------------------------------------------
def _heading(record: Record) -> Iterator[str]:
    scaled = "scaled " if record["scales"] else ""
    yield f"{record['engine']}: c + the sum of {len(record['operands'])} {scaled}products"
    yield (
        f"blocks of {record['block_length']} products; {record['fraction_bits']} places below the top exponent are kept"
        f"; rounded {record['rounding']} to {record['grid']}"
    )
    if record["group"]:
        yield f"{record['group']} products at a time are added exactly, then scaled, and enter as one term"
    if record["span"]:
        yield f"{record['span']} products at a time are summed from zero, then added to c, rounded to nearest even"


def _operands(record: Record, ks: Sequence[int]) -> list[str]:
    """The codes of the operands and their bits."""
    header = ("k", f"a ({record['a_format']})", "bits", "value", f"b ({record['b_format']})", "bits", "value")
    rows = _folded([_operand(record["operands"][k]) for k in ks])
    found = _columns(header, rows, left=(1, 2, 4, 5))
    if max(map(len, found)) > WIDTH:  # a line for each operand
        names = [f"{side} ({record[f'{side}_format']})" for side in "ab"]
        halves = [half for row in rows for half in ([row[0], names[0], *row[1:4]], ["", names[1], *row[4:]])]
        found = _columns(("k", "operand", "code", "bits", "value"), halves, left=(1, 2, 3))
    if record["ignored_bits"]:
        found.append(f"(the last {record['ignored_bits']} bits of a and b are not looked at)")
    for scale in record["scales"]:
        if any(scale["first_k"] <= k <= scale["last_k"] for k in ks):
            found.append(
                f"scales of k {scale['first_k']} to {scale['last_k']}: a {_code(scale['a'])}, b {_code(scale['b'])}"
            )
    return found


def _operand(one: Record) -> list[str]:
    sides = (one["a"], one["b"])
    return [str(one["k"]), *(part for x in sides for part in (x["hex"], x["bits"], brief(x["value"])))]


def _folded(rows: Sequence[list[str]]) -> list[list[str]]:
    """Rows that say the same of FOLD_FROM terms or more, one after the other, become one row."""
    result = []
    for _, run in groupby(rows, key=lambda row: (row[0] == "c", row[1:])):
        same = list(run)
        if len(same) < FOLD_FROM or " to " in same[0][0]:
            result += same
            continue
        first, last = same[0][0], same[-1][0].removeprefix("k ")
        whole = int(last) - int(first.removeprefix("k ")) + 1 == len(same)
        name = f"{first} to {last}" if whole else f"{first} to {last} ({len(same)})"
        result.append([name, *same[0][1:]])
    return result


def _columns(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (), gap: int = 2) -> list[str]:
    """A table in plain text; ``gap``: spaces between columns."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = (
            cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        return (" " * gap).join(cells).rstrip()

    return [line(header), "-" * (sum(widths) + gap * (len(widths) - 1)), *(line(row) for row in rows)]


def _ks(step: Record) -> list[int]:
    """The products of a block."""
    found: list[int] = []
    for term in step["terms"][:-1]:
        first, _, last = term["term"].removeprefix("k ").partition(" to ")
        found += range(int(first), int(last or first) + 1)
    return sorted(found)


def _block(record: Record, step: Record, place: int, count: int) -> Iterator[str]:
    yield f"block {place} of {count}, with c = {_code(step['before'])}"
    yield from ("", *_terms(record, step), "")
    if step["special"] is not None:
        yield f"special  {step['rule']}"
    else:
        yield from _picture(record, step)
        yield ""
        yield f"sum      {step['units']} units of 2^{step['top'] - record['fraction_bits']} = {brief(step['sum'])}"
        lost = step["lost"]
        if lost != "0":
            yield f"cut off  {brief(lost)} in all: the exact sum is the sum and this"
        if step["kept"] is not None:
            shown = step["discarded"] or "nothing"
            yield f"kept     {step['kept']} | discarded {shown}"
        yield f"rule     {step['rule']}"
    yield f"result   {_code(step['after'])}"


def _terms(record: Record, step: Record) -> Iterator[str]:
    """Significands and exponents before they are aligned."""
    rows: list[list[str]] = []
    trimmed = _trimmed(step["terms"])
    zeros = [term["term"] for term in step["terms"][:-1] if term["zero"]]
    folded = set(zeros) if len(zeros) >= FOLD_FROM else set()
    tops = set(step["set_by"])
    for term, significand in zip(step["terms"], trimmed, strict=True):
        if term["term"] in folded:
            continue
        if term["significand"] is None:
            rows.append([term["term"], term["value"], "", "", "", "no number"])
            continue
        mark = "top exponent" if term["term"] in tops else ""
        if step["special"] is None and term["zero"] and step["top"] is not None:
            mark = f"zero: counts as {record['zero_exponent']}" + (", " + mark if mark else "")
        shift = term["shift"]
        moved = "" if shift is None or term["zero"] else f"{step['top'] - term['exponent']}"
        rows.append(
            [
                term["term"],
                brief(term["value"]),
                f"{'-' if term['sign'] else '+'}{significand}",
                str(term["exponent"]) if not term["zero"] else "",
                moved,
                mark,
            ]
        )
    header = ("term", "value", "significand", "exponent", "shifted by", "")
    found = _columns(header, _folded(rows), left=(0, 2, 5))
    if max(map(len, found)) > WIDTH:
        found = _columns(header, _folded(rows), left=(0, 2, 5), gap=1)
    yield from found
    if folded:
        told = f"{_several(zeros)}: zeros, which count as exponent {record['zero_exponent']}"
        yield from wrap(told, WIDTH, subsequent_indent="  ")
    if step["missing"]:
        what = "group" if record["group"] else "product"
        yield f"(room for {step['missing']} more {what}{'s' * (step['missing'] > 1)}, which are zeros)"


def _several(labels: Sequence[str]) -> str:
    """Labels in few words: runs of products with their ends."""
    numbers = [int(label.removeprefix("k ")) for label in labels if " to " not in label]
    if len(numbers) != len(labels):
        return ", ".join(labels)
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return "k " + ", ".join(f"{first}" if first == last else f"{first} to {last}" for first, last in runs)


def _trimmed(terms: Sequence[Record]) -> list[str]:
    """Significands, points in a column, without the zeros at the end that no term of the kind needs."""
    found = [term["significand"] or "" for term in terms]
    needed = max((len(one.partition(".")[2].rstrip("0")) for one in found), default=0)
    wide = max((len(one.partition(".")[0]) for one in found), default=0)
    result = []
    for one in found:
        whole, _, rest = one.partition(".")
        result.append(f"{whole.rjust(wide)}.{rest[: max(needed, 1)]}" if one else "")
    return result


def _picture(record: Record, step: Record) -> Iterator[str]:
    """The terms on their common grid: places kept, and those cut off."""
    places, top = record["fraction_bits"], step["top"]
    terms = [
        [term["term"], "-" if term["sign"] else "+", f"{abs(term['units']):b}", term["cut"]]
        for term in step["terms"]
        if not term["zero"]
    ]
    rows = [*_folded(terms), ["sum", "-" if step["units"] < 0 else "+", f"{abs(step['units']):b}", ""]]
    wide = max(max(len(units) for _, _, units, _ in rows) - places, 1)
    names = max(len("term"), *(len(name) for name, _, _, _ in rows))
    room = WIDTH - names - wide - places - 8
    head, last = f"2^{top}", f"2^{top - places}"
    point = names + 4 + wide  # its column; the unit's is before it
    if len(head) + len(last) <= places:
        line = f"{'term'.ljust(point - 1)}{head}"
        yield f"{line}{last.rjust(point + 1 + places - len(line))} | cut off"
    else:
        yield f"the point stands right of {head}, the last place kept is {last}; beyond the bar: cut off"
    for name, sign, units, cut in rows:
        whole, rest = divmod(int(units, 2), 1 << places)
        yield f"{name.ljust(names)}  {sign} {whole:{wide}b}.{rest:0{places}b} | {_cut(cut, room)}"


def _cut(bits: str, room: int) -> str:
    """Bits that are cut off; a run of zeros that does not fit is told by its length, and so is an end."""
    bits = bits.rstrip("0")
    if len(bits) <= room:
        return bits
    rest = bits.lstrip("0")
    lead = f"({len(bits) - len(rest)} zeros) " if len(bits) - len(rest) > 9 else bits[: len(bits) - len(rest)]
    if len(lead) + len(rest) > room:
        rest = rest[: max(room - len(lead) - 3, 1)] + "..."
    return lead + rest


def _addition(step: Record) -> Iterator[str]:
    yield "ordinary addition to the accumulator, rounded to nearest even (IEEE 754, 5.4.1)"
    yield f"  {_code(step['before'])}"
    yield f"+ {_code(step['added'])}"
    yield f"= {_code(step['after'])}"


def _chain(record: Record) -> Iterator[str]:
    """An ordinary accumulator, a line for each product."""
    yield f"{record['engine']}: c + the sum of {len(record['operands'])} products, one after the other"
    first = "products enter exactly" if record["fused"] else "products are rounded first"
    yield f"every sum rounded {record['rounding']} to {record['grid']}; {first}"
    yield ""
    yield from _operands(record, range(len(record["operands"])))
    yield ""
    rows = [["c", "", "", "", record["c"]["hex"], _near(record["c"]["value"])]]
    for step in record["steps"]:
        after = step["after"]
        lost = _cut(step["discarded"] or "", 16)
        rows.append(
            [f"k {step['k']}", _near(step["product"]), _near(step["sum"]), lost, after["hex"], _near(after["value"])]
        )
    header = ("", "product", "exact sum", "discarded", "rounded", "value")
    yield from _columns(header, _folded(rows), left=(0, 3))


def _near(value: str) -> str:
    """A value in at most 18 characters, but for extreme ones; ~ where that is not all of it."""
    said = brief(value)
    if len(said) <= 18:
        return said
    odd, mark, power = value.rpartition("2^")
    if not mark:
        return f"~{float(value):.9g}"
    if not -1000 < int(power) < 900:
        return said  # (float64 may not hold it)
    return f"~{float(int(odd.removesuffix(' * ')) * Fraction(2) ** int(power)):.9g}"


def _list_of_steps(record: Record) -> list[str]:
    rows: list[Sequence[str]] = []
    place = 0
    for step in record["steps"]:
        after = step["after"]
        if step["kind"] == "addition":
            rows.append(["+", "", "", "", after["hex"], brief(after["value"])])
            continue
        place += 1
        ks = _ks(step)
        span = "" if not ks else f"{ks[0]} to {ks[-1]}"
        top = step["special"] if step["top"] is None else str(step["top"])
        lost = "" if step["lost"] is None else _rough(step["lost"])
        rows.append([str(place), span, top, lost, after["hex"], brief(after["value"])])
    found = _columns(("block", "k", "top exponent", "cut off", "accumulator", "value"), rows)
    if any(step["kind"] == "addition" for step in record["steps"]):
        found.append("(+: the sum of a span is added to the accumulator)")
    found.append("(--block N, or text(block=N), shows one block in full)")
    return found


def _rough(value: str) -> str:
    """A value to read at a glance."""
    try:
        return value if len(value) <= 10 else f"{float(value):.4g}"
    except ValueError:
        return brief(value)


def _end(record: Record) -> Iterator[str]:
    if len(record["steps"]) > 1 or record["block_length"] is None:
        yield f"d        {_code(record['result'])}"
    yield f"exact    {brief(record['exact'])}"
    nearest = record["nearest"]
    if nearest is not None and nearest["code"] != record["result"]["code"]:
        yield f"         whose nearest {record['accumulator']} is {nearest['hex']} = {brief(nearest['value'])}"
    if record["error"] is not None:
        error = brief(record["error"])
        parts = [error if error == "0" or error.startswith(("-", "about")) else f"+{error}"]
        if record["relative_error"]:
            relative = record["relative_error"]
            parts.append(f"relative {relative:+.4g}" if math.isfinite(relative) else "relative beyond float64")
        if record["error_in_spacings"]:
            parts.append(f"{abs(record['error_in_spacings']):.4g} spacings of {record['accumulator']}")
        yield f"error    {', '.join(parts)}"
