"""Prediction on a GPU: as on the CPU, and captured as a graph. Skips where there is none."""

import pytest
import torch

from mffpa_ext import Predictor, _extension
from mffpa_ext.models import create_model

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(not _extension.has_cuda_kernels(), reason=f"no kernels: {_extension.cuda_missing_reason()}"),
]


@pytest.fixture(autouse=True)
def own_kernels_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MFFPA_BACKEND", "compiled")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def images(seed: int) -> torch.Tensor:
    return torch.rand(2, 3, 96, 80, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("name", "attention"), [("baseline", "ca"), ("mffpa", "ca"), ("mffpa", "se")])
def test_prediction_is_that_of_the_cpu(name: str, attention: str) -> None:
    torch.manual_seed(0)
    network = create_model(name, attention=attention)
    x = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    expected, actual = (Predictor(network, "fp32", device)(x) for device in ("cpu", "cuda"))
    torch.testing.assert_close(actual.logit.cpu(), expected.logit, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(actual.mask_logits.cpu(), expected.mask_logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_prediction_as_a_graph(precision: str) -> None:
    torch.manual_seed(0)
    predictor = Predictor(create_model("mffpa"), precision, "cuda")
    static = predictor.prepare(images(0))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        predictor.run(static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = predictor.run(static)
    for seed in (1, 0):
        new = predictor.prepare(images(seed))
        static.copy_(new)
        graph.replay()
        for actual, expected in zip(outputs, predictor.run(new), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-5 if precision == "fp32" else 2e-2, atol=1e-3)
