"""Every shipped term by the shared tests."""

from __future__ import annotations

from r3mem.objectives import (
    Autoencode,
    BackwardCE,
    Contrast,
    Cycle,
    ExpandNLL,
    ForwardNLL,
    FullTextKL,
    QueryNLL,
    Residual,
)
from tests.battery.objective_term import TermBattery
from tests.objectives.small_slots import SmallSlots


class TestForwardNLL(TermBattery):
    build = staticmethod(ForwardNLL)


class TestAutoencode(TermBattery):
    build = staticmethod(Autoencode)


class TestFullTextKL(TermBattery):
    build = staticmethod(FullTextKL)


class TestQueryNLL(TermBattery):
    build = staticmethod(QueryNLL)


class TestExpandNLL(TermBattery):
    build = staticmethod(ExpandNLL)


class TestContrast(TermBattery):
    build = staticmethod(Contrast)


class TestBackwardCE(TermBattery):
    build = staticmethod(BackwardCE)


class TestCycle(TermBattery):
    build = staticmethod(Cycle)


class TestResidual(TermBattery):
    build = staticmethod(Residual)


class TestSmallSlots(TermBattery):
    build = staticmethod(SmallSlots)
