"""The chart of a training run: what its evaluations accepted."""

from eagle_hf.evaluation.charts.building.naming import drawn_series, names_apart
from eagle_hf.evaluation.charts.chart import NOTHING, Absent, Chart, Point, Series, Table, show
from eagle_hf.evaluation.charts.forms import Lines
from eagle_hf.evaluation.charts.sources import TRAINING, Sources


def tau_by_step(sources: Sources) -> list[Chart | Absent]:
    """Tau by training step, a line a run and evaluation set."""
    title = "Tau by training step"
    lines: dict[tuple[str, ...], list] = {}
    for source in sources.of(TRAINING):
        for evaluation in source.data:
            part = f"tau, {evaluation.part}" if evaluation.part else "tau"
            lines.setdefault((part, source.label), []).append(evaluation)
    if not lines:
        return [Absent(title, "trainer_state.json of a training run with an evaluation set")]
    names = names_apart(list(lines))
    series = []
    rows = []
    deepest = max(len(one.alpha) for line in lines.values() for one in line)
    for key, line in lines.items():
        points = []
        for one in line:
            tip = f"{names[key]}, step {one.step:,}\n{show(one.tau)} tokens a round"
            points.append(Point(one.step, one.tau, tip))
            padding = [NOTHING] * (deepest - len(one.alpha))
            alphas = [show(value) for value in one.alpha]
            numbers = (f"{one.step:,}", show(one.tau), show(one.loss, 3))
            rows.append((names[key], *numbers, *alphas, *padding))
        series.append(Series(names[key], tuple(points)))
    kept, said = drawn_series(series)
    form = Lines("step", "tokens a round", kept)
    columns = ("run", "step", "tau", "loss")
    depths = [f"alpha {depth}" for depth in range(1, deepest + 1)]
    caption = _caption(lines) + said
    is_simulated = any(source.is_simulated for source in sources.of(TRAINING))
    table = Table((*columns, *depths), tuple(rows))
    return [Chart("tau-by-step", title, caption, form, table, is_simulated)]


def _caption(lines: dict[tuple[str, ...], list]) -> str:
    """What the best evaluation reached."""
    said = "Tokens a round of the target on held-out prompts, by the head as it was then."
    every = [one for line in lines.values() for one in line]
    best = max(every, key=lambda one: one.tau)
    return f"{said} Best: {show(best.tau)} at step {best.step:,}."
