"""Parameters and multiply-accumulates: the eight numbers behind the paper's Table 9."""

import pytest
import torch
from torch import nn

from mffpa_ext import models, summary

# Worked out layer by layer from the paper; at 232x640 RGB. Table 9 prints them rounded (and 31.79 cut).
TABLE_9 = {
    "baseline": (15_638_812, 47_987_959_746),
    "mff": (8_581_216, 31_796_185_026),
    "pa": (10_872_124, 32_349_302_850),
    "mffpa": (11_291_264, 33_320_955_970),
}


def test_every_variant_is_in_the_table() -> None:
    assert set(models.VARIANTS) == set(TABLE_9)


@pytest.mark.parametrize("name", TABLE_9)
def test_table_9(name: str) -> None:
    cost = models.complexity(models.create_model(name), 3, 232, 640)
    assert (cost.parameters, cost.macs) == TABLE_9[name]


def test_summary_prints_table_9(capsys: pytest.CaptureFixture[str]) -> None:
    summary.main([])
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    for name, (parameters, macs) in TABLE_9.items():
        assert lines[name].split()[1:3] == [f"{parameters:,}", f"{macs:,}"]
        paper = f"{parameters / 1e6:.2f} M, {macs / 1e9:.2f} G".replace("31.80", "31.79")
        assert lines[name].endswith(paper)


def test_summary_of_another_input_does_not_quote_the_paper(capsys: pytest.CaptureFixture[str]) -> None:
    summary.main(["--image-size", "512x512", "--in-channels", "1"])
    text = capsys.readouterr().out
    cost = models.complexity(models.create_model("mffpa", 1), 1, 512, 512)
    assert "1x512x512" in text and f"{cost.macs:,}" in text
    assert "33.32 G" not in text


def test_complexity_of_a_convolution_and_a_linear_layer() -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(6, 4, 3, stride=2, padding=1, groups=2)
            self.norm = nn.BatchNorm2d(4)
            self.linear = nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(self.norm(self.conv(x)).mean((2, 3)))

    cost = models.complexity(Small(), 6, 8, 10)
    assert cost.macs == 4 * (4 * 5) * (3 * 9) + 4 * 5  # outputs x (inputs per group x kernel), and the linear layer
    assert cost.parameters == (4 * 3 * 9 + 4) + 8 + (20 + 5)


def test_complexity_leaves_the_model_alone() -> None:
    model = models.create_model("mffpa").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    models.complexity(model, 3, 64, 64)
    assert model.training and all(parameter.device.type == "cpu" for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
