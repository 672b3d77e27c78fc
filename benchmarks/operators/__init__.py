"""What is benchmarked: one module for each operator or family of them, with shapes, inputs and contenders."""

from benchmarks.operators import feature_norm, large_kernel_conv2d, outlook_attention, pyramid_gate

OPERATORS = (
    *outlook_attention.OPERATORS,
    *feature_norm.OPERATORS,
    *pyramid_gate.OPERATORS,
    *large_kernel_conv2d.OPERATORS,
)
