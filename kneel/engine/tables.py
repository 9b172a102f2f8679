"""Tables for people: Markdown and LaTeX."""

import re

import pandas as pd


def markdown(table: pd.DataFrame) -> str:
    """
    Write a table as Markdown, without its index.

    Parameters
    ----------
    table
        Any cells; they are shown as ``str`` shows them.
    """
    lines = [[str(column) for column in table], ["---"] * table.shape[1], *table.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def latex(table: pd.DataFrame) -> str:
    """
    Write a table for LaTeX's package booktabs, without its index; the first column left, the others right.

    Parameters
    ----------
    table
        Any cells; they are shown as ``str`` shows them.
    """
    escaped = table.rename(columns=_escape).map(lambda value: _escape(str(value)))
    return str(escaped.to_latex(index=False, escape=False, column_format="l" + "r" * (table.shape[1] - 1)))


def _escape(text: str) -> str:
    """Make text safe for LaTeX."""
    safe = re.sub(r"([&%$#_{}])", r"\\\1", text.replace("\\", "/"))
    for sign, name in (("±", r"\pm"), ("<", "<"), (">=", r"\geq")):
        safe = safe.replace(sign, f"${name}$")
    return safe
