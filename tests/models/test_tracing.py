"""torch.export and torch.compile of the whole networks."""

from collections.abc import Iterator

import pytest
import torch

from mffpa_ext import models
from mffpa_ext.models import create_model

NAMES = tuple(models.VARIANTS)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", NAMES)
def test_export(name: str) -> None:
    model, x = create_model(name).eval(), torch.rand(1, 3, 64, 64)
    program = torch.export.export(model, (x,))
    with torch.no_grad():
        for actual, expected in zip(program.module()(x), model(x), strict=True):
            torch.testing.assert_close(actual, expected)


def test_export_with_dynamic_size() -> None:
    model = create_model("mffpa").eval()
    # From 32 pixels: torch.export takes the single column that 16 pixels have after pooling for another program.
    eighths = [torch.export.Dim(name, min=4, max=200) for name in ("height_8", "width_8")]
    shapes = ({2: 8 * eighths[0], 3: 8 * eighths[1]},)
    program = torch.export.export(model, (torch.rand(1, 3, 48, 64),), dynamic_shapes=shapes)
    with torch.no_grad():
        for height, width in ((48, 64), (32, 40), (72, 56)):
            x = torch.rand(1, 3, height, width)
            for actual, expected in zip(program.module()(x), model(x), strict=True):
                torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_compile_without_graph_breaks(fresh_compiler: None) -> None:
    """Traced forward and backward; inductor itself would take two minutes here, nearly all of it its own."""
    model = create_model("mffpa").eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.rand(1, 3, 32, 48)
    results = []
    for network in (model, compiled):
        model.zero_grad()
        decision, mask = network(x)
        (decision.sum() + mask.square().sum()).backward()
        results.append((decision, mask, *(parameter.grad.clone() for parameter in model.parameters())))
    for actual, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4 * max(1.0, expected.abs().max().item()))
