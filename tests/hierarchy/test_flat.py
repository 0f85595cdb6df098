"""The shared tests of hierarchies, for ``Flat``, and the order of leaves."""

from r3mem.hierarchy import Document, Flat, Node, SegmentTree
from tests.battery.hierarchy import HierarchyBattery


class TestFlat(HierarchyBattery):
    build = staticmethod(Flat)
    whole_characters = False


def test_windows() -> None:
    nodes = Flat(segment_tokens=4).build(Document(list(range(10)))).nodes
    assert nodes == [Node(0, 4), Node(4, 8), Node(8, 10)]


def test_leaves_are_what_nothing_refines_in_document_order() -> None:
    top, first, second, inner = Node(0, 9), Node(0, 4, 1, 0), Node(4, 9, 1, 0), Node(0, 4, 2, 1)
    # By level, as a breadth-first builder lists them: the leaves then do not come in order.
    assert SegmentTree(list(range(9)), [top, first, second, inner]).leaves == [inner, second]
