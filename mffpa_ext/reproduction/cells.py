"""Cells of a table, and the grammar of `--cells` that picks some of them."""

from dataclasses import dataclass

from mffpa_ext.errors import UserError
from mffpa_ext.reproduction.tables import Table

GRAMMAR = ("KEY=VALUE with commas between; KEY is N, model or attention. Values of one key are alternatives, different "
           "keys must all hold: N=0,N=33 (or N=0,33) are two numbers of masks, N=53,model=mff is one network at one "
           "number")


@dataclass(frozen=True)
class Cell:
    """One number of a table. paper: in percent."""

    n: int
    title: str
    model: str
    attention: str | None
    paper: float


def all_cells(table: Table) -> list[Cell]:
    """N by N, and for each the columns."""
    return [Cell(n, column.title, column.model, column.attention, column.values[row])
            for row, n in enumerate(table.n) for column in table.columns]


def select(table: Table, text: str | None) -> list[Cell]:
    """The cells that the text picks, all for None. Raises UserError, naming what the table has, for anything else."""
    cells = all_cells(table)
    if text is None:
        return cells
    wanted = _parse(table, text)
    chosen = [cell for cell in cells if all(_value(cell, key) in values for key, values in wanted.items())]
    if not chosen:
        raise UserError(f"--cells {text}: no cell of Table {table.number} has all of this: it has {_described(table)}")
    return chosen


def _parse(table: Table, text: str) -> dict[str, set[str]]:
    valid = _values(table)
    names = {key.lower(): key for key in valid}
    wanted: dict[str, set[str]] = {}
    key = None
    for term in text.split(","):
        name, given, value = term.strip().rpartition("=")
        if given:
            key = names.get(name.strip().lower())
        if key is None:
            raise UserError(f"--cells {text}: expected {' or '.join(f'{name}=...' for name in valid)}, got "
                            f"{term.strip()!r}: Table {table.number} has {_described(table)}")
        value = value.strip().lower()
        if value not in valid[key]:
            raise UserError(f"--cells {text}: no {key}={value} in Table {table.number}: it has {_described(table)}")
        wanted.setdefault(key, set()).add(value)
    return wanted


def _value(cell: Cell, key: str) -> str:
    return {"N": str(cell.n), "model": cell.model, "attention": cell.attention or ""}[key]


def _values(table: Table) -> dict[str, list[str]]:
    cells = all_cells(table)
    return {key: list(dict.fromkeys(value for cell in cells if (value := _value(cell, key))))
            for key in ("N", "model", "attention")}


def _described(table: Table) -> str:
    return "; ".join(f"{key}={','.join(values)}" for key, values in _values(table).items())
