"""The published values as data: shapes, and the sums and differences that the paper itself states."""

import statistics

import pytest

from mffpa_ext.models import VARIANTS
from mffpa_ext.reproduction.protocol import PROTOCOLS
from mffpa_ext.reproduction.tables import TABLE_9, TABLES


def column(table: int, title: str) -> tuple[float, ...]:
    return next(column.values for column in TABLES[table].columns if column.title == title)


@pytest.mark.parametrize("number", TABLES)
def test_every_column_has_a_value_or_a_gap_for_every_n(number: int) -> None:
    table = TABLES[number]
    assert table.number == number and table.dataset in PROTOCOLS and table.metric in ("ap", "auc")
    assert table.n[0] == 0 and list(table.n) == sorted(table.n)
    for values in (*(column.values for column in table.columns), *table.others.values()):
        assert len(values) == len(table.n)
        assert all(value is None or 0 < value <= 100 for value in values) and any(values)
    for column in table.columns:
        assert None not in column.values and column.model in VARIANTS
        assert (column.attention is None) == (not VARIANTS[column.model].pyramid)


@pytest.mark.parametrize("number", [5, 6])
def test_averages_are_those_of_the_columns(number: int) -> None:
    table = TABLES[number]
    assert set(table.averages) == {column.title for column in table.columns}
    for title, average in table.averages.items():
        assert statistics.fmean(column(number, title)) == pytest.approx(average, abs=0.005)


def test_tables_that_repeat_each_other_agree() -> None:
    for module, weights in ((5, 7), (6, 8)):
        assert column(weights, "CA") == column(module, "PA")
        assert column(weights, "Baseline") == column(module, "Baseline")
    assert column(4, "MFFPA") == column(5, "MFF+PA")


@pytest.mark.parametrize(
    "higher, lower, stated",
    [
        (column(5, "MFF")[0], column(5, "Baseline")[0], 6.94),
        (TABLES[5].averages["MFF"], TABLES[5].averages["Baseline"], 3.44),
        (column(5, "PA")[0], column(5, "Baseline")[0], 11.15),
        (TABLES[5].averages["PA"], TABLES[5].averages["Baseline"], 4.71),
        (column(5, "MFF+PA")[0], column(5, "Baseline")[0], 13.5),
        (TABLES[5].averages["MFF+PA"], TABLES[5].averages["Baseline"], 5.94),
        (column(6, "MFF")[0], column(6, "Baseline")[0], 1.23),
        (column(6, "PA")[0], column(6, "Baseline")[0], 5.58),
        (column(6, "MFF+PA")[0], column(6, "Baseline")[0], 4.38),
        (TABLES[6].averages["MFF+PA"], TABLES[6].averages["Baseline"], 2.13),
        (TABLES[1].others["MaMi"][0], column(1, "MFFPA")[0], 3.78),
        (column(2, "MFFPA")[0], TABLES[2].others["MaMi"][0], 2),
        (column(3, "MFFPA")[0], TABLES[3].others["MixSup"][0], 3.91),
        (column(4, "MFFPA")[0], TABLES[4].others["DSR"][0], 0.81),
        (TABLES[4].others["MaMi"][-1], column(4, "MFFPA")[-1], 0.6),
    ],
)
def test_differences_that_the_text_states(higher: float, lower: float, stated: float) -> None:
    assert higher - lower == pytest.approx(stated, abs=0.0051)


def test_reductions_that_the_text_states() -> None:
    rows = {row.title: row for row in TABLE_9}
    assert 1 - rows["MFF+PA"].parameters / rows["Baseline"].parameters == pytest.approx(0.278, abs=0.0005)
    assert 1 - rows["MFF+PA"].macs / rows["Baseline"].macs == pytest.approx(0.3057, abs=0.00005)
    assert rows["MFF+PA"].parameters / rows["MaMiNet"].parameters == pytest.approx(0.671, abs=0.0005)
    assert rows["MFF+PA"].macs / rows["MaMiNet"].macs == pytest.approx(0.6569, abs=0.00005)
