"""`eagle-hf roofline`: what speculation would gain on machines that are not at hand, simulated."""

from eagle_hf.cli.command import Command
from eagle_hf.evaluation import (
    RooflineArguments,
    simulate,
    simulated_shape,
    simulation_table,
    write_simulation,
)


def run(arguments: RooflineArguments) -> None:
    """Print the table, and write it beside a plot where a folder is given."""
    shape = simulated_shape(arguments.model)
    cells = simulate(arguments, shape)
    print(simulation_table(arguments, shape, cells))
    if arguments.output_dir:
        write_simulation(arguments, shape, cells)
        print(f"\ntable and plot are in {arguments.output_dir}")


COMMAND = Command(
    name="roofline",
    summary="simulate what speculation would gain with a model on machines not at hand",
    arguments=RooflineArguments,
    run=run,
)
