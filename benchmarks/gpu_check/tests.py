"""The tests marked `cuda`: which files hold them, how pytest is called, and what its report says."""

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MOST_FAILURES = 30


def files(root: Path = ROOT) -> list[str]:
    """Only these are collected: elsewhere a package may be missing that no test on a GPU needs."""
    return [path.relative_to(root).as_posix() for path in sorted((root / "tests").rglob("test_*_gpu.py"))]


def command(report: Path, *more: str, python: str = sys.executable) -> list[str]:
    """append: whatever PYTHONPATH names first is imported, and not the checkout's own package."""
    options = ["-m", "cuda", "-q", "-rfE", "--tb=short", "--import-mode=append", f"--junitxml={report}"]
    return [python, "-m", "pytest", *options, *more, *files()]


def read_report(report: Path) -> dict[str, Any]:
    """Numbers of tests, and the names and messages of those that failed. Empty without a report."""
    try:
        suite = next(ElementTree.parse(report).getroot().iter("testsuite"))
    except (OSError, ElementTree.ParseError, StopIteration):
        return {}
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    failed, reasons = [], {}
    for case in suite.iter("testcase"):
        for kind in ("failure", "error"):
            if (found := case.find(kind)) is not None:
                message = " ".join((found.get("message") or "").split())[:200]
                failed.append(f"{case.get('classname')}::{case.get('name')}: {message}")
        if (skip := case.find("skipped")) is not None:
            reason = " ".join((skip.get("message") or "").split())[:200]
            reasons[reason] = reasons.get(reason, 0) + 1
    passed = counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]
    return {
        "passed": passed, "failed": counts["failures"], "errors": counts["errors"], "skipped": counts["skipped"],
        "failures": failed[:MOST_FAILURES], "skip_reasons": reasons,
    }  # fmt: skip


def describe(counts: dict[str, Any]) -> str:
    return ", ".join(f"{counts[name]} {name}" for name in ("passed", "failed", "errors", "skipped") if counts[name])
