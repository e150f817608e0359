"""Charts of memory against arithmetic: what a forward waits for on machines not at hand."""

from collections.abc import Sequence

from eagle_hf.evaluation.charts.building.naming import drawn_series
from eagle_hf.evaluation.charts.chart import Absent, Chart, Point, Series, Table, show
from eagle_hf.evaluation.charts.forms import Lines, Stacks
from eagle_hf.evaluation.charts.simulations import SimulatedForward, Simulation
from eagle_hf.evaluation.charts.sources import Source, Sources

ROOFLINE = "roofline.json of `eagle-hf roofline`"
MOST_ROWS = 24  # drawn of cells
WEIGHTS = "weights"
CACHE = "KV cache"
LAYERS = "starting layers"
# By part of a forward: reading it, multiplying with it.
SIDES = {
    WEIGHTS: ("reading_weights", "multiplying_weights"),
    CACHE: ("reading_cache", "multiplying_cache"),
}
MEMORY = "by memory"
ARITHMETIC = "by arithmetic"


def memory_or_arithmetic(sources: Sources) -> list[Chart | Absent]:
    """Two charts a machine: what takes the time of a token, and operations per byte."""
    charts: list[Chart | Absent] = []
    index = 0
    for source in sources.of("simulation"):
        simulation: Simulation = source.data
        for machine in simulation.machines:
            own = [forward for forward in simulation.forwards if forward.machine == machine]
            if own:
                index += 1
                charts.append(_times(source, machine, own, index))
                charts.append(_operations(source, machine, own, index))
    if charts:
        return charts
    return [Absent("Memory or arithmetic", ROOFLINE), Absent("Operations per byte", ROOFLINE)]


def _parts_of(forward: SimulatedForward) -> dict[str, float]:
    """Seconds of a forward by what they are spent on, and what limits that."""
    parts = {}
    for name, (reading, multiplying) in SIDES.items():
        read = forward.seconds[reading]
        multiplied = forward.seconds[multiplying]
        limit = MEMORY if read >= multiplied else ARITHMETIC
        parts[f"{name}, limited {limit}"] = max(read, multiplied)
    parts[LAYERS] = forward.seconds["layers"]
    return parts


def _times(source: Source, machine: str, forwards: Sequence[SimulatedForward], index: int) -> Chart:
    """Shares of the time of one token of every row."""
    drawn = sorted(forwards, key=lambda one: (one.length, one.batch))[:MOST_ROWS]
    names = [f"{forward.length:,} tokens, batch {forward.batch}" for forward in drawn]
    found = [_parts_of(forward) for forward in drawn]
    parts = []
    for side in (*SIDES, LAYERS):
        limits = (f"{side}, limited {MEMORY}", f"{side}, limited {ARITHMETIC}", side)
        for part in limits:
            points = []
            for row, spent in enumerate(found):
                whole = sum(spent.values())
                size = spent.get(part, 0.0)
                tip = f"{names[row]}\n{part}\n{_ms(size)} ms of {_ms(whole)}, {size / whole:.0%}"
                if size:
                    points.append(Point(100 * size / whole, row, tip))
            if points:
                parts.append(Series(part, tuple(points)))
    form = Stacks("percent of a token's time", tuple(names), tuple(parts))
    turn = simulation_balance(source, machine)
    caption = (
        f"{_model(source)} on {machine}, plain decoding by a roofline. Where memory is the limit, "
        "verifying more tokens takes no longer: for the weights, up to "
        f"{turn:.0f} tokens a forward."
    )
    if len(drawn) < len(forwards):
        caption += f" {len(forwards) - len(drawn)} more cells are in the table."
    title = f"Memory or arithmetic: {machine}"
    return Chart(f"limits-{index}", title, caption, form, _time_table(forwards), True)


def _time_table(forwards: Sequence[SimulatedForward]) -> Table:
    """Milliseconds of every part, also of what is hidden behind a longer one."""
    lines = []
    for forward in forwards:
        cells = [str(forward.batch), f"{forward.length:,}"]
        for sides in SIDES.values():
            cells += [_ms(forward.seconds[side]) for side in sides]
        spent = _parts_of(forward)
        cells += [_ms(forward.seconds["layers"]), _ms(sum(spent.values()))]
        lines.append(tuple(cells))
    columns = ["batch", "length"]
    for name in SIDES:
        columns += [f"{name}: reading, ms", "multiplying"]
    return Table((*columns, LAYERS, "a forward"), tuple(lines), texts=0)


def _operations(
    source: Source, machine: str, forwards: Sequence[SimulatedForward], index: int
) -> Chart:
    """Operations with every byte that is read, against the batch."""
    balance = simulation_balance(source, machine)
    per_byte: dict[str, dict[int, float]] = {WEIGHTS: {}, CACHE: {}}
    for forward in sorted(forwards, key=lambda one: (one.length, one.batch)):
        read = 0.0
        multiplied = 0.0
        for name, (reading, multiplying) in SIDES.items():
            read += forward.seconds[reading]
            multiplied += forward.seconds[multiplying]
            ratio = forward.seconds[multiplying] / forward.seconds[reading]
            per_byte[name][forward.batch] = balance * ratio
        whole = per_byte.setdefault(f"both, {forward.length:,} tokens", {})
        whole[forward.batch] = balance * multiplied / read
    series = []
    lines = []
    for name, by_batch in per_byte.items():
        points = []
        for batch, value in sorted(by_batch.items()):
            tip = f"{name}, batch {batch}\n{show(value, 1)} operations a byte"
            points.append(Point(batch, value, tip))
            lines.append((name, str(batch), show(value, 1), show(balance, 1)))
        series.append(Series(name, tuple(points)))
    kept, said = drawn_series(series)
    reference = (balance, f"balance of {machine}")
    form = Lines("batch", "operations per byte read", kept, is_log=True, reference=reference)
    caption = (
        f"{_model(source)}, plain decoding: below the machine's balance memory is the limit, above "
        "it arithmetic. A larger batch reads the weights once for all rows; every row has a KV "
        f"cache of its own.{said}"
    )
    table = Table(("read", "batch", "operations per byte", "balance"), tuple(lines))
    title = f"Operations per byte: {machine}"
    return Chart(f"operations-{index}", title, caption, form, table, True)


def simulation_balance(source: Source, machine: str) -> float:
    """Operations per byte at which a machine's memory and arithmetic take equally long."""
    return source.data.operations_per_byte[machine]


def _model(source: Source) -> str:
    """Which model was simulated."""
    return source.content.get("model", "the model")


def _ms(seconds: float) -> str:
    """Milliseconds as a text."""
    return show(1000 * seconds)
