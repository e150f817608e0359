"""A drafted tree as SVG: from left to right, a level a column, the accepted branch in colour.

    root --+-- draft (accepted) --+-- draft (accepted) -- - the target's own token
           |                      +-- draft
           +-- draft

Colours and fonts are those of demo.css.
"""

from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from eagle_hf.demo.drafted_tree import DraftedTree

ROW = 26  # pixels between two nodes of a column
BOX = 20  # a node's height
LETTER = 7.3  # width of a letter at 12 pixels, monospace
PADDING = 16  # inside a box, both sides together
GAP = 28  # between two columns
LONGEST = 14  # letters of a label
DEEPEST = 6  # depths from here on share a colour
SPACES = {" ": "\u00b7", "\n": "\u21b5", "\t": "\u21e5"}


@dataclass(frozen=True)
class Node:
    """A node as it is drawn.

    Attributes:
        text: its token's.
        parent: its place in the list of nodes; the root's is 0, its own.
        depth: its column.
        kind: "root", "accepted", "rejected" or "bonus".
    """

    text: str
    parent: int
    depth: int
    kind: str

    @property
    def label(self) -> str:
        """The text in one short line, with its spaces visible."""
        text = self.text
        for space, sign in SPACES.items():
            text = text.replace(space, sign)
        return text if len(text) <= LONGEST else text[: LONGEST - 1] + "\u2026"

    @property
    def width(self) -> float:
        """Of its box, in pixels."""
        return len(self.label) * LETTER + PADDING

    @property
    def title(self) -> str:
        """What is shown when the mouse rests on it."""
        meanings = {
            "root": "the newest token before the round",
            "accepted": f"draft of depth {self.depth}, accepted",
            "rejected": f"draft of depth {self.depth}, not accepted",
            "bonus": "the target's own next token",
        }
        return f"{self.text!r}: {meanings[self.kind]}"


def drawn_nodes(tree: DraftedTree, decode: Callable[[int], str]) -> list[Node]:
    """The nodes of a tree, and the target's own token behind the accepted branch.

    Args:
        tree: as a round left it.
        decode: the text of a token.
    """
    nodes = []
    depths = tree.depths
    for number, (token, parent) in enumerate(zip(tree.tokens, tree.parents, strict=True)):
        kind = "accepted" if number in tree.accepted else "rejected"
        if number == 0:
            kind = "root"
        nodes.append(Node(decode(token), parent, depths[number], kind))
    if tree.bonus is not None:
        last = tree.accepted[-1] if tree.accepted else 0
        nodes.append(Node(decode(tree.bonus), last, depths[last] + 1, "bonus"))
    return nodes


def rows_of(nodes: list[Node]) -> list[float]:
    """The row of every node: leaves below each other, a parent in the middle of its children."""
    children: list[list[int]] = [[] for _ in nodes]
    for number, node in enumerate(nodes[1:], start=1):
        children[node.parent].append(number)
    rows = [0.0] * len(nodes)
    leaves = 0
    # a stack instead of recursion: (node, whether its children are placed)
    waiting = [(0, False)]
    while waiting:
        number, is_ready = waiting.pop()
        below = children[number]
        if not below:
            rows[number] = float(leaves)
            leaves += 1
        elif is_ready:
            rows[number] = (rows[below[0]] + rows[below[-1]]) / 2
        else:
            waiting.append((number, True))
            for child in reversed(below):
                waiting.append((child, False))
    return rows


def columns_of(nodes: list[Node]) -> list[float]:
    """Where the column of every depth begins, in pixels; the last entry is the drawing's width."""
    starts = [0.0]
    for depth in range(max(node.depth for node in nodes) + 1):
        widest = max(node.width for node in nodes if node.depth == depth)
        starts.append(starts[-1] + widest + GAP)
    return starts


def tree_svg(tree: DraftedTree, decode: Callable[[int], str]) -> str:
    """Draw a tree.

    Args:
        tree: as a round left it.
        decode: the text of a token.

    Returns:
        An <svg> element.
    """
    nodes = drawn_nodes(tree, decode)
    rows = rows_of(nodes)
    columns = columns_of(nodes)
    width = columns[-1] - GAP + 2
    height = (max(rows) + 1) * ROW
    label = f"{len(tree.tokens) - 1} drafts, {len(tree.accepted)} accepted"
    parts = [
        f'<svg class="tree" role="img" aria-label="{label}" width="{width:.0f}" '
        f'height="{height:.0f}" viewBox="-1 0 {width:.0f} {height:.0f}" '
        'xmlns="http://www.w3.org/2000/svg">'
    ]
    for number in range(1, len(nodes)):
        parts.append(_edge(nodes, rows, columns, number))
    for node, row in zip(nodes, rows, strict=True):
        parts.append(_box(node, columns[node.depth], row * ROW + ROW / 2))
    return "".join([*parts, "</svg>"])


def _edge(nodes: list[Node], rows: list[float], columns: list[float], number: int) -> str:
    """The curve from a node's parent to it."""
    node = nodes[number]
    parent = nodes[node.parent]
    left = columns[parent.depth] + parent.width
    right = columns[node.depth]
    middle = (columns[node.depth] - GAP / 2 + right) / 2
    above = rows[node.parent] * ROW + ROW / 2
    below = rows[number] * ROW + ROW / 2
    curve = f"M{left:.1f} {above:.1f} H{middle - GAP / 2:.1f} "
    curve += f"C{middle:.1f} {above:.1f} {middle - GAP / 4:.1f} {below:.1f} {right:.1f} {below:.1f}"
    return f'<path class="edge {_classes(node)}" d="{curve}"/>'


def _box(node: Node, left: float, middle: float) -> str:
    """A node's box with its label."""
    text = escape(node.label)
    return (
        f'<g class="node {_classes(node)}"><title>{escape(node.title)}</title>'
        f'<rect x="{left:.1f}" y="{middle - BOX / 2:.1f}" width="{node.width:.1f}" '
        f'height="{BOX}" rx="5"/>'
        f'<text x="{left + node.width / 2:.1f}" y="{middle + 4:.1f}">{text}</text></g>'
    )


def _classes(node: Node) -> str:
    """The CSS classes of a node and of the edge above it."""
    return f"{node.kind} {depth_class(node.depth)}" if node.kind == "accepted" else node.kind


def depth_class(depth: int) -> str:
    """The CSS class that colours what was drafted at a depth, from 1."""
    return f"depth-{min(depth, DEEPEST)}"
