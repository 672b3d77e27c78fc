"""The grammar of --cells."""

import pytest

from mffpa_ext.errors import UserError
from mffpa_ext.reproduction.cells import all_cells, select
from mffpa_ext.reproduction.tables import TABLES


def picked(table: int, text: str | None) -> list[tuple[int, str]]:
    return [(cell.n, cell.title) for cell in select(TABLES[table], text)]


def test_without_a_choice_all_cells_with_the_values_of_the_paper() -> None:
    assert len(select(TABLES[5], None)) == 20
    cells = {(cell.n, cell.title): cell.paper for cell in all_cells(TABLES[7])}
    assert cells[53, "SE"] == 90.01 and cells[246, "Baseline"] == 94.02 and len(cells) == 15


@pytest.mark.parametrize(
    "table, text, cells",
    [
        (1, "N=33", [(33, "MFFPA")]),
        (1, "N=0,N=33", [(0, "MFFPA"), (33, "MFFPA")]),
        (1, " n=0, 33 ", [(0, "MFFPA"), (33, "MFFPA")]),
        (5, "N=53,model=mff", [(53, "MFF")]),
        (5, "model=mff,N=53,model=PA", [(53, "MFF"), (53, "PA")]),
        (7, "N=0,attention=se", [(0, "SE")]),
        (7, "model=pa,N=0", [(0, "SE"), (0, "CA")]),
    ],
)
def test_choices(table: int, text: str, cells: list[tuple[int, str]]) -> None:
    assert picked(table, text) == cells


@pytest.mark.parametrize(
    "table, text, named",
    [
        (1, "N=7", "no N=7 in Table 1: it has N=0,5,10,15,20,33; model=mffpa; attention=ca"),
        (5, "model=resnet", "no model=resnet in Table 5: it has N=0,16,53,126,246; model=baseline,mff,pa,mffpa"),
        (5, "33", "expected N=... or model=... or attention=..., got '33'"),
        (5, "fold=1", "expected N=... or model=... or attention=..., got 'fold=1'"),
        (5, "", "got ''"),
        (7, "model=baseline,attention=se", "no cell of Table 7 has all of this: it has N="),
    ],
)
def test_wrong_choices_name_what_there_is(table: int, text: str, named: str) -> None:
    with pytest.raises(UserError) as error:
        select(TABLES[table], text)
    assert str(error.value).startswith(f"--cells {text}: ") and named in str(error.value)
