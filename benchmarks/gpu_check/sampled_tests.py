"""A pytest plugin (-p): some cases of each test, drawn with a fixed seed, until the time is up. For slow tools.

MFFPA_SAMPLE_CASES is the number of cases of a test, MFFPA_SAMPLE_WITHOUT the words of tests to leave out, with commas
between, and MFFPA_SAMPLE_SECONDS the time after which the tests that are left are skipped.
"""

import os
import random
import time

import pytest

_started = time.monotonic()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = int(os.environ["MFFPA_SAMPLE_CASES"])
    without = [word for word in os.environ.get("MFFPA_SAMPLE_WITHOUT", "").split(",") if word]
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    kept: list[pytest.Item] = []
    for test, members in cases.items():
        if not any(word in test.rpartition("::")[2] for word in without):
            drawn = set(random.Random(0).sample(range(len(members)), min(wanted, len(members))))
            kept += [member for index, member in enumerate(members) if index in drawn]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    # One case of every test first: what is left out for want of time is then more of the same.
    turn = {item: index for members in cases.values() for index, item in enumerate(i for i in members if i in kept)}
    items[:] = sorted(kept, key=lambda item: turn[item])


def pytest_runtest_setup(item: pytest.Item) -> None:
    if time.monotonic() - _started > float(os.environ.get("MFFPA_SAMPLE_SECONDS", "inf")):
        pytest.skip("time is up")
