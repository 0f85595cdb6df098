"""Where a text may be cut."""

from r3mem.hierarchy.segmenters.base import Segmenter
from r3mem.hierarchy.segmenters.blank_lines import BlankLines
from r3mem.hierarchy.segmenters.entity_sentences import EntitySentences
from r3mem.hierarchy.segmenters.fixed_windows import FixedWindows
from r3mem.hierarchy.segmenters.structure import Structure

__all__ = ["BlankLines", "EntitySentences", "FixedWindows", "Segmenter", "Structure"]
