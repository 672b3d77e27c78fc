"""torch.func and forward-mode derivatives: compiled operators have none, and must not drop the tangents silently."""

import pytest
import torch

from mffpa_ext import ops

X = torch.randn(2, 8, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LOGITS = torch.randn(2, 8, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
FUNCTIONS = {
    "feature_norm": lambda x: ops.feature_norm(x, relu=True),
    "feature_norm_pool": lambda x: ops.feature_norm_pool(x),
    "directional_means": lambda x: torch.cat(ops.directional_means(x), dim=2),
    "pyramid_gate": lambda x: ops.pyramid_gate(x, LOGITS, None, 2),
    "outlook_attention": lambda x: ops.outlook_attention(x, torch.zeros(2, 8, 6, 81, dtype=x.dtype), 1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_forward_mode_derivatives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MFFPA_BACKEND", raising=False)
    function, direction = FUNCTIONS[name], X.flip(0)
    _, tangent = torch.func.jvp(function, (X,), (direction,))
    step = 1e-6
    difference = (function(X + step * direction) - function(X - step * direction)) / (2 * step)
    torch.testing.assert_close(tangent, difference, rtol=1e-5, atol=1e-6)
    with torch.autograd.forward_ad.dual_level():
        dual = function(torch.autograd.forward_ad.make_dual(X, direction))
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, tangent)


def test_a_demand_for_compiled_kernels_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MFFPA_BACKEND", "compiled")
    with pytest.raises(RuntimeError, match="torch.func transforms and forward-mode derivatives need it"):
        torch.func.jvp(FUNCTIONS["feature_norm"], (X,), (X,))
