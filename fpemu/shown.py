"""Text from elsewhere, as it is shown: names of files, tensors, columns, formats and scalers may hold anything.

One definition for terminals, tables, pages and figures.  JSON needs none: it escapes by itself, and loses nothing.
"""

from __future__ import annotations

LONGEST = 90  # characters of a name in a figure


def shown(text: str) -> str:
    """The text on one line, with everything that does not print as itself escaped as Python does.

    Controls (escape sequences, line ends, NUL), bidirectional and other invisible marks, blanks other than a space, lone surrogates and
    characters without a meaning become ``\\x1b``, ``\\n``, ``\\u202e``.  A backslash stays what it is, so what is shown already does not change.

    Examples
    --------
    >>> print(shown("a\\x1b[31m\\nb"))
    a\\x1b[31m\\nb
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def shown_lines(text: str) -> str:
    """The same of a text whose line ends are its own."""
    return "\n".join(map(shown, text.split("\n")))


def in_figure(text: str) -> str:
    """The text for matplotlib, which would read ``$`` as mathematics: shown, and as it stands; the middle of a long one is left out.

    Examples
    --------
    >>> print(in_figure("$x^{"))
    \\$x^{
    """
    line = shown(text)
    if len(line) > LONGEST:
        line = f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"
    return line.replace("$", r"\$")
