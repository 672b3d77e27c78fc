"""A library that was built with CUDA kernels, loaded into any torch, also one without CUDA: as in CI."""

import pytest
import torch

from mffpa_ext import _extension, ops
from mffpa_ext.ops import backend

WITH_CUDA_KERNEL = {
    "directional_means", "feature_norm", "feature_norm_backward", "feature_norm_pool", "outlook_attention",
    "outlook_attention_backward", "pyramid_coordinate_attention", "pyramid_gate", "pyramid_gate_backward",
}  # fmt: skip
# Convolutions: cuDNN's are the fast ones on a GPU.
ON_CPU_ALONE = {"large_kernel_conv2d", "large_kernel_conv2d_input_gradient", "large_kernel_conv2d_weight_gradient"}

needs_cuda_build = pytest.mark.skipif(
    not _extension.has_cuda_kernels(), reason=f"built without: {_extension.cuda_missing_reason()}"
)


@needs_cuda_build
def test_every_operator_has_its_cuda_kernel() -> None:
    of_cpu = torch._C._dispatch_get_registrations_for_dispatch_key("CPU")
    ours = {name.removeprefix("mffpa_ext::") for name in of_cpu if name.startswith("mffpa_ext::")}
    assert backend._WITH_CUDA_KERNEL == WITH_CUDA_KERNEL == ours - ON_CPU_ALONE


@needs_cuda_build
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_cpu_kernels_serve_as_before() -> None:
    y = ops.outlook_attention(torch.ones(1, 5, 4, 8), torch.zeros(1, 5, 4, 2 * 81), 2)
    assert y.sum() > 0
