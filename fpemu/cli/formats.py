"""``fpemu formats``: the catalogue, or one format in detail."""

from __future__ import annotations

from dataclasses import asdict
from fractions import Fraction
from typing import Any

import click

from fpemu.cli.terminal import FormatName, console, plain_table, print_json
from fpemu.formats import FORMATS, Catalogue, FloatFormat

HEADINGS = ("format", "alias", "bits", "bias", "largest", "normal", "smallest", "specials")


@click.command(epilog="Exit codes: 0 done; 2 wrong usage, an unknown format among it.")
@click.argument("name", type=FormatName(), required=False)
@click.option("--all", "everything", is_flag=True, help="List the whole IEEE P3109 family too, one row a format.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
def formats(name: FloatFormat | None, everything: bool, as_json: bool) -> None:
    """List the formats, or show NAME in detail: every landmark with its code and value.

    NAME is a name or an alias: float8_e4m3fn, e4m3, bf16, binary8p3se. The columns of the list: "bits" of the sign,
    the exponent field and the trailing significand; the largest finite, smallest normal and smallest positive value
    (rounded to print; NAME shows them exactly); and which of infinity, NaN and negative zero there is.
    """
    if name is not None:
        print_json(detail(name)) if as_json else _show_one(name)
        return
    family = [format for format in FORMATS.values() if format.name.startswith("binary")]
    others = [format for format in FORMATS.values() if not format.name.startswith("binary")]
    listed = others + family if everything else others
    if as_json:
        print_json([detail(format) for format in listed])
        return
    table = plain_table(*HEADINGS, left=2)
    table.columns[-1].justify = "left"
    for format in listed:
        table.add_row(*_row(format))
    out = console()
    out.print(table)
    if not everything:
        widths = sorted({format.bits for format in family})
        out.print(
            f"And {len(family)} formats of the IEEE P3109 family, binary{{K}}p{{P}}{{s|u}}{{e|f}}: K {widths[0]} to "
            f"{widths[-1]} bits, precision P, signed or unsigned, extended (with infinity) or finite; "
            "`fpemu formats --all` lists them, `fpemu formats binary8p3se` shows one."
        )


def short_name(format: FloatFormat) -> str:
    """The first alias of a format, else its name."""
    return next(iter(_aliases(format)), format.name) if format.name in FORMATS else format.name


def _aliases(format: FloatFormat) -> list[str]:
    assert isinstance(FORMATS, Catalogue)
    return FORMATS.aliases(format.name)


def _row(format: FloatFormat) -> tuple[str, ...]:
    def rounded(code: int) -> str:
        return _rounded(exact(code, format))

    specials = {
        "inf": format.infinities,
        "NaN": format.has_nan,
        "-0": format.signed and format.negative_zero and format.has_zero,
    }
    return (
        format.name,
        _aliases(format)[0] if _aliases(format) else "",
        f"{int(format.signed)}+{format.exponent_bits}+{format.trailing_bits}",
        str(format.bias),
        rounded(format.max_code),
        rounded(format.smallest_normal_code),
        rounded(format.smallest_code),
        " ".join(name for name, has in specials.items() if has),
    )


def exact(code: int, format: FloatFormat) -> Fraction:
    """The value of a finite magnitude code."""
    significand, exponent = format.scientific(code)
    return significand * Fraction(2) ** exponent


def _rounded(x: Fraction) -> str:
    """Three digits, all digits of a large integer, or a power of two where float64 ends."""
    from fpemu.reference import floor_log2

    exponent = floor_log2(x) if x else 0
    if not -1022 <= exponent <= 1023:
        significand = float(x / Fraction(2) ** exponent)
        return f"2^{exponent}" if significand == 1 else f"{significand:.3g} * 2^{exponent}"
    return f"{float(x):.0f}" if 6 < exponent < 17 else f"{float(x):.3g}"


# ---- one format -----------------------------------------------------------------------------------------------------
def landmarks(format: FloatFormat) -> list[tuple[str, int]]:
    """What is worth knowing among the codes, in ascending order of magnitude: (what, code)."""
    one = format.bias << format.trailing_bits
    marks: list[tuple[str, int]] = []
    if format.has_zero:
        marks.append(("zero", 0))
        if format.signed and format.negative_zero:
            marks.append(("negative zero", format.sign_mask))
        if format.trailing_bits:
            marks += [("smallest subnormal", 1), ("largest subnormal", format.smallest_normal_code - 1)]
    marks.append(("smallest normal", format.smallest_normal_code))
    if format.smallest_normal_code <= one < format.max_code:
        marks += [("one", one), ("next above one", one + 1)]
    marks.append(("largest finite", format.max_code))
    if format.signed:
        marks.append(("lowest finite", format.min_code))
    if format.infinity_code is not None:
        marks.append(("infinity", format.infinity_code))
    if format.nan_code is not None:
        marks.append(("NaN (canonical)", format.nan_code))
    return marks


def detail(format: FloatFormat) -> dict[str, Any]:
    """A format as plain data: its independent facts, what follows from them, its landmarks."""
    from fpemu import reference
    from fpemu.explain import hexadecimal, number, spaced

    return {
        **asdict(format),
        "aliases": _aliases(format),
        "exponent_bits": format.exponent_bits,
        "trailing_bits": format.trailing_bits,
        "emin": format.emin,
        "emax": format.emax,
        "landmarks": [
            {
                "what": what,
                "code": code,
                "hex": hexadecimal(code, format),
                "bits": spaced(code, format),
                "value": number(reference.value(code, format)),
            }
            for what, code in landmarks(format)
        ],
    }


def _show_one(format: FloatFormat) -> None:
    facts = detail(format)
    out = console()
    names = ", ".join(facts["aliases"])
    out.print(f"{format.name}{f' ({names})' if names else ''}: {format.bits} bits\n")
    for line in picture(format):
        out.print("  " + line)
    out.print()
    lowest = format.finest_exponent if format.subnormals else format.emin
    out.print(f"  value      {_formula(format)}")
    spacing = f"spacing from 1 to 2 is 2^-{format.trailing_bits}" if format.trailing_bits else "powers of two only"
    out.print(f"  precision  {format.precision} significant bit{'s' * (format.precision > 1)}; {spacing}")
    binades = f"{format.emax - lowest + 1} binades, 2^{lowest} to 2^{format.emax}"
    out.print(f"  range      {binades}; normal from 2^{format.emin}")
    out.print(f"  specials   {_specials(format)}")
    table = plain_table("landmark", "code", "bits", "value", "", left=3)
    for mark in facts["landmarks"]:
        magnitude = mark["code"] & format.magnitude_mask
        finite = magnitude <= format.max_code and "NaN" not in mark["what"]
        power = _as_power(mark["code"], format) if finite else ""
        table.add_row(mark["what"], mark["hex"], mark["bits"], mark["value"], power)
    out.print(table)


def picture(format: FloatFormat) -> list[str]:
    """The fields of a code, bit by bit, with the number of each field's highest and lowest bit."""
    widths = [("S", int(format.signed)), ("E", format.exponent_bits), ("T", format.trailing_bits)]
    words = {"S": "sign", "E": "exponent field", "T": "trailing significand"}
    top, lines, letters = format.bits, [], []
    for letter, width in widths:
        if width:
            letters.append(letter * width)
            span = f"bit {top - 1}" if width == 1 else f"bits {top - 1} to {top - width}"
            lines.append(f"{letter}  {words[letter]}, {span}")
            top -= width
    return [" ".join(letters), "", *lines]


def _formula(format: FloatFormat) -> str:
    normal = f"1.T * 2^(E - {format.bias})" if format.bias >= 0 else f"1.T * 2^(E + {-format.bias})"
    normal = normal if format.trailing_bits else normal.replace("1.T * ", "")
    if not format.subnormals:
        return f"{normal}; no zero and no subnormals"
    return f"{normal}; where E = 0: {f'0.T * 2^{format.emin}' if format.trailing_bits else 'zero'}"


def _specials(format: FloatFormat) -> str:
    nans = []
    if format.high_nans:
        top = format.nan_codes()
        span = f"{top[0]:#x}" if len(top) == 1 else f"{top[0]:#x} to {top[-1]:#x}"
        nans.append(f"NaN {span}{', and with the sign bit' if format.signed else ''}")
    elif format.signed and not format.negative_zero:
        nans.append(f"NaN {format.sign_mask:#x}, where others have -0")
    return "; ".join(["infinity" if format.infinities else "no infinity", *(nans or ["no NaN"])])


def _as_power(code: int, format: FloatFormat) -> str:
    """A finite value as an odd integer times a power of two."""
    significand, exponent = format.scientific(code & format.magnitude_mask)
    if not significand:
        return ""
    sign = "-" if code & format.sign_mask else ""
    while significand % 2 == 0:
        significand, exponent = significand // 2, exponent + 1
    return f"{sign}2^{exponent}" if significand == 1 else f"{sign}{significand} * 2^{exponent}"
