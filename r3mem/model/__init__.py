"""The parts put together: on segments, on whole texts and trees; saved, shipped, read."""

from r3mem.model.model import R3Mem
from r3mem.model.segment_model import SegmentModel
from r3mem.model.step import Step

__all__ = [
    "R3Mem",
    "SegmentModel",
    "Step",
]
