"""Charts of what is accepted: by depth, and by node of a tree."""

from collections.abc import Sequence

from eagle_hf.evaluation.charts.building.methods import (
    EVALUATE,
    EVALUATE_METHODS,
    Measured,
    first_setting,
    method_rows,
    settings_said,
)
from eagle_hf.evaluation.charts.building.methods import key_of as method_key
from eagle_hf.evaluation.charts.building.naming import drawn_series, names_apart
from eagle_hf.evaluation.charts.building.serving import BENCH, served_runs
from eagle_hf.evaluation.charts.building.serving import key_of as served_key
from eagle_hf.evaluation.charts.chart import NOTHING, Absent, Chart, Point, Series, Table, show
from eagle_hf.evaluation.charts.drafters import PlanCosts
from eagle_hf.evaluation.charts.forms import Lines, Node, Tree
from eagle_hf.evaluation.charts.measured import ALL, PLAIN, MethodRow, TreeNode
from eagle_hf.evaluation.charts.served import ServedRun
from eagle_hf.evaluation.charts.sources import Source, Sources

MOST_NODES = 32  # drawn; the table has all
MOST_TREES = 3
PLANNED_NODES = 16
TREE_TITLE = "The tree, with acceptance by node"
Alpha = tuple[str, tuple[float, ...], Source]  # name, by depth, file


def alpha_by_depth(sources: Sources) -> list[Chart | Absent]:
    """How often the k-th draft is accepted, given those before it."""
    title = "Acceptance by depth"
    rows = []
    for entry in method_rows(sources):
        row = entry[1]
        if row.category == ALL and row.method != PLAIN and row.alpha:
            rows.append(entry)
    served = _served_alphas(sources)
    every = [*_method_alphas(rows), *served]
    drawn = [*_method_alphas(first_setting(rows)), *served]
    if not every:
        return [Absent(title, f"{EVALUATE}, or {BENCH} where the server counts it")]
    series = []
    for name, alpha, _ in drawn:
        points = []
        for depth, value in enumerate(alpha, start=1):
            tip = f"{name}\ndraft {depth}: {value:.0%} accepted"
            points.append(Point(depth, value, tip))
        series.append(Series(name, tuple(points)))
    kept, said = drawn_series(series)
    form = Lines("draft of a round", "accepted, given those before", kept, top=1.0)
    caption = (
        f"Share of the k-th drafts that the target keeps, given that it kept the ones before.{said}"
    )
    if len(drawn) < len(every):
        caption += f" Drawn is the first setting, {settings_said(first_setting(rows))}."
    is_simulated = any(source.is_simulated for _, _, source in every)
    table = _alpha_table(every)
    return [Chart("alpha-by-depth", title, caption, form, table, is_simulated)]


def _alpha_table(found: Sequence[Alpha]) -> Table:
    """A row a name, a column a depth."""
    deepest = max(len(alpha) for _, alpha, _ in found)
    lines = []
    for name, alpha, _ in found:
        padding = [NOTHING] * (deepest - len(alpha))
        lines.append((name, *[show(value) for value in alpha], *padding))
    columns = ("method", *[f"depth {depth}" for depth in range(1, deepest + 1)])
    return Table(columns, tuple(lines))


def _method_alphas(rows: Sequence[Measured]) -> list[Alpha]:
    """Of methods measured in this process."""
    names = names_apart([method_key(entry) for entry in rows])
    return [(names[method_key(entry)], entry[1].alpha, entry[0]) for entry in rows]


def _served_alphas(sources: Sources) -> list[Alpha]:
    """Of servers that count, each at its least load."""
    least: dict[tuple[str, ...], tuple[Source, ServedRun]] = {}
    for entry in served_runs(sources):
        run = entry[1]
        if not run.alpha or run.category != ALL:
            continue
        former = least.get(served_key(entry))
        if former is None or run.load < former[1].load:
            least[served_key(entry)] = entry
    names = names_apart(list(least))
    found = []
    for key, (source, run) in least.items():
        found.append((f"{names[key]}, served", run.alpha, source))
    return found


def trees(sources: Sources) -> list[Chart | Absent]:
    """Trees with acceptance per node: measured ones; without any, a plan's, simulated."""
    measured = [
        entry for entry in method_rows(sources) if entry[1].tree and entry[1].category == ALL
    ]
    first = first_setting(measured)
    # a chain says no more than the chart by depth
    branching = [entry for entry in first if _branches(entry[1].tree)]
    drawn = branching[:MOST_TREES] or first[:1]
    if drawn:
        return [_measured_tree(source, row, index) for index, (source, row) in enumerate(drawn)]
    plans = [_planned_tree(source) for source in sources.of("plan")[:1]]
    charts = [chart for chart in plans if chart is not None]
    if charts:
        return list(charts)
    return [Absent(TREE_TITLE, f"{EVALUATE_METHODS} with a tree, or plan.json of `eagle-hf plan`")]


def _branches(nodes: Sequence[TreeNode]) -> bool:
    """Whether any node has a sibling."""
    return len({node.parent for node in nodes}) < len(nodes)


def _measured_tree(source: Source, row: MethodRow, index: int) -> Chart:
    """A tree whose nodes were counted."""
    kept = _likeliest(row.tree)
    place = {old: new for new, old in enumerate(kept, start=1)}
    first = [node.visited for node in row.tree if node.parent < 0]
    rounds = max([*first, 1])
    nodes = [Node(-1, 1.0, 1.0, f"root\nthe newest token, {rounds:,} rounds")]
    for old in kept:
        node = row.tree[old]
        share = node.accepted / node.visited if node.visited else 0.0
        tip = (
            f"depth {node.depth}\naccepted {node.accepted:,} of {node.visited:,} times, {share:.0%}"
        )
        parent = place.get(node.parent, 0)
        nodes.append(Node(parent, share, min(node.accepted / rounds, 1.0), tip))
    lines = []
    for number, node in enumerate(row.tree, start=1):
        share = node.accepted / node.visited if node.visited else None
        parent = "root" if node.parent < 0 else str(node.parent + 1)
        lines.append(
            (
                str(number),
                parent,
                str(node.depth),
                str(node.visited),
                str(node.accepted),
                show(share),
            )
        )
    columns = ("node", "parent", "depth", "on trial", "accepted", "share")
    caption = (
        f"{row.method}, {row.setting}: share accepted when on trial; thicker lines are taken more "
        "often."
    )
    if len(kept) < len(row.tree):
        caption += f" The {len(kept)} nodes accepted most of {len(row.tree)}; the table has all."
    name = "tree" if index == 0 else f"tree-{index + 1}"
    table = Table(columns, tuple(lines), 2)
    form = Tree(tuple(nodes))
    return Chart(name, TREE_TITLE, caption, form, table, source.is_simulated)


def _likeliest(nodes: Sequence[TreeNode]) -> list[int]:
    """Indices of the nodes accepted most often, with all their ancestors, parents first."""

    def rank(index: int) -> tuple[int, int, int]:
        return -nodes[index].accepted, nodes[index].depth, index

    kept: set[int] = set()
    for index in sorted(range(len(nodes)), key=rank):
        path = [index]
        while nodes[path[-1]].parent >= 0:
            path.append(nodes[path[-1]].parent)
        if len(kept | set(path)) <= MOST_NODES:
            kept |= set(path)
    return sorted(kept)


def _planned_tree(source: Source) -> Chart | None:
    """The best fixed tree of a plan's first cell, from its acceptance by depth and rank."""
    plan: PlanCosts = source.data
    costs = plan.costs
    batch = costs.batches[0]
    length = costs.lengths[0]
    tree, _ = plan.best_tree(batch, length, PLANNED_NODES)
    if not tree.size:
        return None
    reach = tree.reach(plan.shares)
    nodes = [Node(-1, 1.0, 1.0, "root\nthe newest token")]
    lines = []
    for index in range(1, tree.size + 1):
        parent = tree.parents[index]
        share = float(reach[index] / reach[parent]) if reach[parent] else 0.0
        depth = tree.depths[index]
        guess = tree.ranks[index] + 1
        tip = (
            f"depth {depth}, guess {guess}\n{share:.0%} accepted when on trial\n"
            f"{reach[index]:.0%} of all rounds"
        )
        nodes.append(Node(parent, share, float(reach[index]), tip))
        above = "root" if parent == 0 else str(parent)
        lines.append((str(index), above, str(depth), str(guess), show(share), show(reach[index])))
    columns = ("node", "parent", "depth", "guess", "when on trial", "of all rounds")
    caption = (
        f"The best fixed tree for batch {batch} behind {length:,} tokens, from the plan's costs "
        f"and measured acceptance: {tree.expected_tokens(plan.shares):.2f} tokens a round."
    )
    form = Tree(tuple(nodes))
    return Chart("tree", TREE_TITLE, caption, form, Table(columns, tuple(lines), 2), True)
