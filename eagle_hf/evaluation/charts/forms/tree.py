"""A draft tree from left to right, every node with how often it was accepted."""

from dataclasses import dataclass

from eagle_hf.evaluation.charts.canvas import Canvas
from eagle_hf.evaluation.charts.theme import FONT_SIZE, LIGHT, STEPS, text_on

LEAF = 21  # pixels from one leaf to the next
HEAD = 34  # pixels for the depths above
PILL = (36, 16)  # pixels
NARROWEST = 42  # pixels from one depth to the next, with pills in them
DOT = 7
EDGE = 3.5  # pixels of the thickest one


@dataclass(frozen=True)
class Node:
    """A node of a tree.

    Attributes:
        parent: its index, -1 for the root.
        share: accepted, given that its parent was; 1 for the root.
        reached: accepted at all, as a share of the rounds.
        tip: what hovering over it says.
    """

    parent: int
    share: float
    reached: float
    tip: str


@dataclass(frozen=True)
class Tree:
    """A tree whose nodes follow their parents.

    Args:
        nodes: the root first.
    """

    nodes: tuple[Node, ...]

    @property
    def depths(self) -> list[int]:
        """Of every node; the root's is 0."""
        depths = [0]
        for node in self.nodes[1:]:
            depths.append(depths[node.parent] + 1)
        return depths

    @property
    def places(self) -> list[float]:
        """Of every node, from above: leaves have whole numbers, parents lie amid their children."""
        children: list[list[int]] = [[] for _ in self.nodes]
        for index, node in enumerate(self.nodes[1:], start=1):
            children[node.parent].append(index)
        places = [0.0] * len(self.nodes)
        leaves = 0
        waiting = [0]
        order = []
        while waiting:  # depth first, the first child next
            index = waiting.pop()
            order.append(index)
            waiting += reversed(children[index])
            if not children[index]:
                places[index] = leaves
                leaves += 1
        for index in reversed(order):  # children before their parents
            if children[index]:
                first = places[children[index][0]]
                last = places[children[index][-1]]
                places[index] = (first + last) / 2
        return places

    def height(self, is_narrow: bool) -> float:
        """Of the drawing, in pixels."""
        return HEAD + LEAF * (max(self.places) + 1)

    def draw(self, canvas: Canvas) -> None:
        """Draw on a canvas."""
        axes = canvas.axes
        depths = self.depths
        places = self.places
        deepest = max(depths)
        step = canvas.width / (deepest + 1)
        has_pills = step >= NARROWEST
        for index, node in enumerate(self.nodes[1:], start=1):
            above = node.parent
            width = 0.8 + EDGE * node.reached
            ends = ([depths[above], depths[index]], [places[above], places[index]])
            axes.plot(*ends, color=LIGHT["plain"], linewidth=width, zorder=1)
        half = PILL[0] / 2 / step if has_pills else DOT / step
        for index, node in enumerate(self.nodes):
            self._draw_node(canvas, node, depths[index], places[index], has_pills)
            high = PILL[1] / 2 / LEAF
            canvas.add_box(
                depths[index] - half,
                depths[index] + half,
                places[index] - high,
                places[index] + high,
                node.tip,
            )
        axes.set(xlim=(-0.5, deepest + 0.5), ylim=(max(places) + 0.5, -0.5))
        names = ["root", *[str(depth) for depth in range(1, deepest + 1)]]
        axes.xaxis.tick_top()
        axes.set_xticks(range(deepest + 1), names)
        axes.set_yticks([])
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)

    def _draw_node(
        self, canvas: Canvas, node: Node, depth: int, place: float, has_pill: bool
    ) -> None:
        """A node, coloured by its share; where there is room, the share stands in it."""
        step = min(int(node.share * len(STEPS)), len(STEPS) - 1)
        colour = LIGHT[STEPS[step]]
        if not has_pill:
            canvas.axes.plot(
                depth, place, "o", color=colour, markersize=DOT, markeredgecolor=LIGHT["plain"]
            )
            return
        canvas.axes.text(
            depth,
            place,
            "root" if node.parent < 0 else f"{node.share:.0%}",
            color=text_on(step),
            fontsize=FONT_SIZE - 1,
            ha="center",
            va="center",
            bbox={
                "boxstyle": "round,pad=0.22,rounding_size=0.6",
                "facecolor": colour,
                "edgecolor": LIGHT["plain"],
                "linewidth": 0.6,
            },
        )
