"""SEAM 3: hierarchies, document to tree of segments."""

from typing import TYPE_CHECKING

from r3mem.errors.renamed import old_names
from r3mem.hierarchy.base import Hierarchy, Node, SegmentTree
from r3mem.hierarchy.document import Document, Mention, Part, Question
from r3mem.hierarchy.entities import Annotations, EntityFinder
from r3mem.hierarchy.flat import Flat
from r3mem.hierarchy.levelled import Levelled
from r3mem.hierarchy.levels import Level
from r3mem.hierarchy.multi_level import MultiLevel
from r3mem.hierarchy.queries import EntityMentions, KeySentence, Lead, NoQuery, QueryBuilder, Title
from r3mem.hierarchy.refined import Refined
from r3mem.hierarchy.segmenters import BlankLines, EntitySentences, FixedWindows, Segmenter, Structure

__all__ = [
    "Annotations",
    "BlankLines",
    "Document",
    "EntityFinder",
    "EntityMentions",
    "EntitySentences",
    "FixedWindows",
    "Flat",
    "Hierarchy",
    "KeySentence",
    "Lead",
    "Level",
    "Levelled",
    "Mention",
    "MultiLevel",
    "NoQuery",
    "Node",
    "Part",
    "QueryBuilder",
    "Question",
    "Refined",
    "SegmentTree",
    "Segmenter",
    "Structure",
    "Title",
]

if not TYPE_CHECKING:
    __getattr__ = old_names(__name__, MemoryTree="SegmentTree")
