"""Whether what lies in a folder is what was published, by its counts: enough to call a split official or not."""

from collections.abc import Mapping, Sequence

from mffpa_ext.data.published import Counts
from mffpa_ext.data.types import Record


def notes_on_counts(dataset: str, found: Mapping[str, Sequence[Record]], published: Mapping[str, Counts]) -> list[str]:
    """A note for every part of `found` whose counts are not the published ones, none where the data set is complete.

    It is trained on nevertheless: whoever has a part of a data set may use it, but not compare it with the papers.
    """
    notes = []
    for part, records in found.items():
        expected, defective = published[part], sum(record.label for record in records)
        if (defective, len(records) - defective) != expected:
            notes.append(f"not the published data set: {part}: expected {expected.defective} + {expected.good} images "
                         f"(defective + defect-free), found {defective} + {len(records) - defective}; "
                         f"`mffpa datasets check {dataset}` names what is wrong")
    return notes
