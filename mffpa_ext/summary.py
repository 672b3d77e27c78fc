"""`python -m mffpa_ext.summary`: parameters and multiply-accumulates of the networks beside the paper's Table 9."""

from dataclasses import dataclass

from mffpa_ext import flags
from mffpa_ext.command import run_command
from mffpa_ext.errors import UserError
from mffpa_ext.fields import flag
from mffpa_ext.models import ATTENTIONS, VARIANTS, complexity, create_model
from mffpa_ext.reproduction.tables import TABLE_9

TABLE_9_INPUT = (3, 232, 640)


@dataclass(frozen=True)
class SummaryConfig:
    """Input of the networks."""

    image_size: tuple[int, int] = flag(TABLE_9_INPUT[1:], "height x width in pixels, multiples of 8, from 64x64")
    in_channels: int = flag(TABLE_9_INPUT[0], "1 (gray) or 3 (RGB)", choices=(1, 3))
    attention: str = flag("ca", "weights of the pyramid of pa and mffpa", choices=tuple(ATTENTIONS))


def main(arguments: list[str]) -> None:
    parser = flags.make_parser("python -m mffpa_ext.summary", __doc__)
    flags.add_flags(parser, SummaryConfig)
    config = flags.build(SummaryConfig, vars(parser.parse_args(arguments)))
    as_published = (config.in_channels, *config.image_size) == TABLE_9_INPUT and config.attention == "ca"
    height, width = config.image_size
    published = {row.model: row for row in TABLE_9}
    rows = []
    for name in VARIANTS:
        try:
            model = create_model(name, config.in_channels, config.attention)
            cost = complexity(model, config.in_channels, height, width)
        except ValueError as error:
            raise UserError(f"--image-size: {error}") from None
        paper = f"    {published[name].parameters} M, {published[name].macs} G" if as_published else ""
        rows.append(f"{name:<10}{cost.parameters:>14,}{cost.macs:>18,}{paper}")
    print(f"one image of {config.in_channels}x{height}x{width}; multiply-accumulates of convolutions and linear layers")
    print(f"{'network':<10}{'parameters':>14}{'MACs':>18}" + ("    paper, Table 9" if as_published else ""))
    print("\n".join(rows))


if __name__ == "__main__":
    run_command(main)
