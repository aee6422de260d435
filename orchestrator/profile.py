"""`orchestrate profile`: what each reduction does to a network's cost, on the meta device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from compression.cost import Cost, layer_table, measure_cost
from compression.reduction import AXES, ReductionError, reduce_sequence
from compression.spec import NetworkSpec
from configs.errors import UserError
from configs.schema import NetworkSettings
from orchestrator.report import count
from trainers.backbones import build, preset


@dataclass(frozen=True)
class Step:
    """A network after a number of reductions."""

    axis: str | None
    """The last reduction; none for the unreduced network."""
    network: NetworkSpec
    cost: Cost

    def to_dict(self) -> dict[str, Any]:
        """The documented JSON form."""
        return {
            "axis": self.axis,
            "gmacs": self.cost.gmacs,
            "params": self.cost.params,
            "frames": self.network.frames,
            "side": self.network.input_side,
        }


def profile_steps(settings: NetworkSettings, reductions: str, classes: int) -> list[Step]:
    """The unreduced network, then one step per axis of `c,s,t`.

    Raises:
        UserError: unknown or exhausted axis.
    """
    axes = [axis.strip() for axis in reductions.split(",") if axis.strip()]
    try:
        specs = reduce_sequence(preset(settings, classes=classes), axes)
    except ReductionError as error:
        names = ", ".join(f"{axis.letter} ({axis.name})" for axis in AXES.values())
        raise UserError(f"--reduce {reductions}: {error}. Axes: {names}; write them like c,s,t") from error
    return [Step(axis, spec, measure_cost(spec, build)) for axis, spec in zip([None, *axes], specs, strict=True)]


def print_profile(console: Console, backbone: str, steps: Sequence[Step]) -> None:
    """A row per step."""
    table = Table(title=f"{backbone}: cost of one clip", title_justify="left")
    table.add_column("step")
    for heading in ("frames", "side", "GMACs", "of the first", "parameters"):
        table.add_column(heading, justify="right")
    for step in steps:
        table.add_row(
            AXES[step.axis].name if step.axis else "unreduced",
            str(step.network.frames),
            str(step.network.input_side),
            f"{step.cost.gmacs:.4g}",
            f"{step.cost.macs / steps[0].cost.macs:.1%}",
            count(step.cost.params),
        )
    console.print(table)


def print_layers(console: Console, step: Step) -> None:
    """A row per convolution and linear layer, as fvcore counts them."""
    layers = layer_table(step.network, build)
    table = Table(title="Layers of the last step (fvcore)", title_justify="left")
    table.add_column("layer")
    for heading in ("MMACs", "share", "parameters"):
        table.add_column(heading, justify="right")
    total = sum(layer.macs for layer in layers)
    for layer in layers:
        table.add_row(layer.name, f"{layer.macs / 1e6:.3f}", f"{layer.macs / total:.1%}", count(layer.params))
    table.add_row("total", f"{total / 1e6:.3f}", "", count(sum(layer.params for layer in layers)))
    console.print(table)
