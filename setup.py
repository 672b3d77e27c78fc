"""Tells setuptools about the compiled module; everything that is plain metadata stands in pyproject.toml.

What is compiled, and with what, is decided in `python/build_plan.py` before `setup()` runs, so that a wheel is either
complete or, where there is no compiler, a pure-Python one that says why.
"""

import sys
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "python"))

from build_commands import BuildKernels, BuildPackage  # noqa: E402
from build_plan import BuildPlan, make_plan  # noqa: E402

# These commands compile nothing, so they must work on a machine that has neither torch nor a compiler.
METADATA_COMMANDS = {"sdist", "egg_info", "dist_info", "clean"}


def plan_for(arguments: list[str]) -> BuildPlan:
    if METADATA_COMMANDS.intersection(arguments):
        return BuildPlan(reason="this command builds no kernels")
    plan = make_plan(ROOT)
    print("\n".join(plan.describe()), file=sys.stderr)
    return plan


BuildKernels.plan = BuildPackage.plan = plan_for(sys.argv[1:])

setup(
    # No sources: BuildKernels drives ninja itself, because torch's BuildExtension cannot compile .cu for a CPU torch.
    ext_modules=[Extension("mffpa_ext._C", sources=[])] if BuildPackage.plan.compiled else [],
    cmdclass={"build_ext": BuildKernels, "build_py": BuildPackage},
)
