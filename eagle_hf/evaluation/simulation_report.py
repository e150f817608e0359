"""Simulated speed-ups as a table and a plot; both say that they are simulated."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eagle_hf.evaluation.plotting import open_pyplot
from eagle_hf.evaluation.simulation import EFFICIENCIES, WAYS, RooflineArguments, SimulatedCell
from eagle_hf.planning.roofline import (
    MACHINES,
    ModelShape,
    Setting,
    Simulated,
    balance,
    chain_tokens,
    large_batch_break_even,
)

TOO_LARGE = "does not fit"
LINE_STYLES = ("-", "--")


def simulation_table(
    arguments: RooflineArguments, shape: ModelShape, cells: Sequence[SimulatedCell]
) -> str:
    """Show simulated cells as a Markdown table, with a caption above and break-evens below.

    Args:
        arguments: what was simulated.
        shape: of the target.
        cells: as `simulate` returns them.

    Returns:
        The text; its caption says that every figure is simulated.
    """
    lines = [
        _caption(arguments, shape),
        "",
        "| machine | batch | length | " + " | ".join(WAYS) + " |",
        "|---" * (3 + len(WAYS)) + "|",
    ]
    for cell in cells:
        shown = [_show_gain(gain) for gain in cell.gains]
        lines.append(
            f"| {cell.machine} | {cell.batch} | {cell.length} | " + " | ".join(shown) + " |"
        )
    lines.append("")
    for name in arguments.machine:
        lines.append(_break_even(arguments, shape, name))
    return "\n".join(lines)


def _caption(arguments: RooflineArguments, shape: ModelShape) -> str:
    """What the table holds, and what was assumed for it."""
    return (
        f"Simulated speed-up over plain decoding: {shape.name} on {arguments.gpus} GPU(s), by the "
        f"roofline of eagle_hf.planning. Self-speculation: chain of {arguments.gamma} at alpha "
        f"{arguments.alpha:g}, window {arguments.window}. EAGLE-3 tree: {arguments.nodes} nodes, "
        f"depth {arguments.depth}, tau {arguments.tau:g}. Acceptance is assumed, efficiencies are "
        "fitted on MagicDec's measurements with 8 GPUs; measure where you can."
    )


def _show_gain(gain: Simulated | None) -> str:
    """A cell of the table."""
    return TOO_LARGE if gain is None else f"{gain.value:.2f}{gain.unit}"


def _break_even(arguments: RooflineArguments, shape: ModelShape, machine: str) -> str:
    """From which length self-speculation of large batches pays, as one sentence."""
    setting = Setting(shape, MACHINES[machine], batch=1, length=1, gpus=arguments.gpus)
    if chain_tokens(arguments.alpha, arguments.gamma) <= 1:
        return f"{machine}: without accepted drafts self-speculation never pays (simulated)."
    length = large_batch_break_even(
        setting, EFFICIENCIES[machine], arguments.gamma, arguments.alpha, arguments.window
    )
    return (
        f"{machine}: self-speculation of large batches pays from {length.value:,.0f} tokens on "
        "(simulated)."
    )


def draw_simulation(path: str | Path, title: str, cells: Sequence[SimulatedCell]) -> None:
    """Draw simulated speed-ups by batch, one panel per machine, one colour per length.

    Args:
        path: the picture to write.
        title: goes on after the word "Simulated".
        cells: as `simulate` returns them.
    """
    pyplot = open_pyplot()
    machines = list(dict.fromkeys(cell.machine for cell in cells))
    figure, panels = pyplot.subplots(
        1,
        len(machines),
        figsize=(4.5 * len(machines), 4),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for machine, axes in zip(machines, panels[0], strict=True):
        axes.axhline(1, color="grey", linewidth=1)
        of_machine = [cell for cell in cells if cell.machine == machine]
        lengths = list(dict.fromkeys(cell.length for cell in of_machine))
        for number, length in enumerate(lengths):
            of_length = [cell for cell in of_machine if cell.length == length]
            for way, name in enumerate(WAYS):
                _draw_line(axes, of_length, way, f"{name}, length {length}", f"C{number}")
        axes.set(title=machine, xscale="log", xlabel="batch")
        axes.legend(frameon=False, fontsize="small")
    panels[0][0].set_ylabel("speed-up, simulated")
    figure.suptitle(f"Simulated {title}")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _draw_line(axes: Any, cells: Sequence[SimulatedCell], way: int, label: str, color: str) -> None:
    """The speed-ups of one way of drafting; cells that do not fit are left out."""
    batches = []
    values = []
    for cell in cells:
        gain = cell.gains[way]
        if gain is not None:
            batches.append(cell.batch)
            values.append(gain.value)
    axes.plot(batches, values, LINE_STYLES[way], marker="o", color=color, label=label)


def write_simulation(
    arguments: RooflineArguments, shape: ModelShape, cells: Sequence[SimulatedCell]
) -> None:
    """Write roofline.md, roofline.json and roofline.png into `arguments.output_dir`.

    Args:
        arguments: what was simulated, with an output_dir.
        shape: of the target.
        cells: as `simulate` returns them.
    """
    assert arguments.output_dir is not None
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "roofline.md").write_text(simulation_table(arguments, shape, cells) + "\n")
    (folder / "roofline.json").write_text(_as_json(arguments, shape, cells))
    title = f"speed-up of {shape.name} over plain decoding, {arguments.gpus} GPU(s)"
    draw_simulation(folder / "roofline.png", title, cells)


def _as_json(
    arguments: RooflineArguments, shape: ModelShape, cells: Sequence[SimulatedCell]
) -> str:
    """The cells for `eagle-hf report`; a gain is null where the model does not fit."""
    rows = []
    for cell in cells:
        gains = {}
        for way, gain in zip(WAYS, cell.gains, strict=True):
            gains[way] = None if gain is None else gain.value
        place = {"machine": cell.machine, "batch": cell.batch, "length": cell.length}
        forward = None if cell.forward is None else asdict(cell.forward)
        parts = {"gains": gains, "forward": forward, "best_chain": cell.best_chain}
        rows.append(place | parts)
    balances = {}
    for name in arguments.machine:
        balances[name] = balance(MACHINES[name], EFFICIENCIES[name])
    content = {
        "kind": "roofline",
        "simulated": True,
        "model": shape.name,
        "settings": asdict(arguments),
        "operations_per_byte": balances,
        "cells": rows,
    }
    return json.dumps(content, indent=1) + "\n"
