"""Charts of how much is drafted by the length of the context: measured, planned, simulated."""

from eagle_hf.evaluation.charts.building.methods import method_rows
from eagle_hf.evaluation.charts.building.naming import drawn_series, names_apart
from eagle_hf.evaluation.charts.chart import Absent, Chart, Point, Series, Table, show
from eagle_hf.evaluation.charts.drafters import PlanCosts
from eagle_hf.evaluation.charts.forms import Lines
from eagle_hf.evaluation.charts.simulations import Simulation
from eagle_hf.evaluation.charts.sources import Source, Sources

TITLE = "Drafts by length"
LENGTH = "tokens of context"
DRAFTS = "drafts a round"


def drafted_by_length(sources: Sources) -> list[Chart | Absent]:
    """Drafts a round against the length of the context, a line a method or batch."""
    charts = [*_measured(sources)]
    for index, source in enumerate(sources.of("plan")):
        charts.append(_planned(source, index))
    machines = 0
    for source in sources.of("simulation"):
        simulation: Simulation = source.data
        for machine in simulation.machines:
            if any(forward.machine == machine for forward in simulation.forwards):
                machines += 1
                charts.append(_simulated(source, machine, machines))
    if charts:
        return list(charts)
    needs = (
        "`eagle-hf evaluate --methods` with prompts such as long:2k, plan.json of `eagle-hf plan`, "
        "or roofline.json of `eagle-hf roofline`"
    )
    return [Absent(TITLE, needs)]


def _measured(sources: Sources) -> list[Chart]:
    """What methods drafted behind long prompts."""
    found: dict[tuple[str, ...], list] = {}
    for source, row in method_rows(sources):
        if row.prompt_tokens is not None and row.drafted is not None:
            key = (row.method, *row.settings, source.label)
            found.setdefault(key, []).append((source, row))
    if not found:
        return []
    names = names_apart(list(found))
    series = []
    lines = []
    for key, entries in found.items():
        points = []
        for _, row in sorted(entries, key=lambda entry: entry[1].prompt_tokens):
            tip = f"{names[key]}, {row.category}\n{show(row.drafted)} drafts a round"
            tip += f"\n{show(row.tau)} tokens a round"
            points.append(Point(row.prompt_tokens, row.drafted, tip))
            numbers = (show(row.drafted), show(row.tau), show(row.speedup))
            lines.append((names[key], row.setting, f"{row.prompt_tokens:,}", *numbers))
        series.append(Series(names[key], tuple(points)))
    kept, said = drawn_series(series)
    columns = ("method", "setting", LENGTH, DRAFTS, "tau", "over plain")
    caption = f"Drafts that the target verified in a round, behind long prompts.{said}"
    form = Lines(LENGTH, DRAFTS, kept, is_log=True)
    table = Table(columns, tuple(lines), texts=2)
    is_simulated = any(source.is_simulated for own in found.values() for source, _ in own)
    return [Chart("drafts-by-length", TITLE, caption, form, table, is_simulated)]


def _planned(source: Source, index: int) -> Chart:
    """The size of a plan's best fixed tree (Sequoia)."""
    plan: PlanCosts = source.data
    costs = plan.costs
    series = []
    lines = []
    for batch in costs.batches:
        points = []
        for length in costs.lengths:
            tree, over_plain = plan.best_tree(batch, length)
            speed = show(over_plain)
            tip = f"batch {batch}, {length:,} tokens\n{tree.size} drafts in {tree.depth} levels"
            points.append(Point(length, tree.size, f"{tip}\n{speed} times plain decoding"))
            lines.append((str(batch), f"{length:,}", str(tree.size), str(tree.depth), speed))
        series.append(Series(f"batch {batch}", tuple(points)))
    kept, said = drawn_series(series)
    form = Lines(LENGTH, DRAFTS, kept, is_log=True)
    caption = (
        "The fixed tree that emits most tokens a second (Sequoia), from forwards timed on this "
        f"machine and measured acceptance.{said}"
    )
    name = "drafts-by-length-plan" if index == 0 else f"drafts-by-length-plan-{index + 1}"
    table = Table(("batch", LENGTH, DRAFTS, "levels", "speed"), tuple(lines), texts=0)
    title = f"{TITLE}, by the plan" if index == 0 else f"{TITLE}, by the plan of {source.label}"
    return Chart(name, title, caption, form, table, True)


def _simulated(source: Source, machine: str, index: int) -> Chart:
    """The chain with which self-speculation is the fastest on a machine that is not at hand."""
    simulation: Simulation = source.data
    own = [forward for forward in simulation.forwards if forward.machine == machine]
    series = []
    lines = []
    for batch in dict.fromkeys(forward.batch for forward in own):
        points = []
        for forward in own:
            if forward.batch != batch:
                continue
            tip = f"batch {batch}, {forward.length:,} tokens\n{forward.best_chain} drafts a round"
            points.append(Point(forward.length, forward.best_chain, tip))
            lines.append((str(batch), f"{forward.length:,}", str(forward.best_chain)))
        series.append(Series(f"batch {batch}", tuple(points)))
    kept, said = drawn_series(series)
    form = Lines(LENGTH, DRAFTS, kept, is_log=True)
    model = source.content.get("model", "the model")
    caption = (
        f"{model} drafts for itself behind a window: the chain with which that is the fastest, 0 "
        f"where plain decoding is. Acceptance is assumed.{said}"
    )
    table = Table(("batch", LENGTH, DRAFTS), tuple(lines), texts=0)
    return Chart(f"drafts-roofline-{index}", f"{TITLE}: {machine}", caption, form, table, True)
