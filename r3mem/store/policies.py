"""Which way of doing it a store takes, where there is more than one: each a class, named in YAML by ``class_path``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from r3mem.errors import ConfigError
from r3mem.store.consolidation.base import Consolidation
from r3mem.store.consolidation.merge import Merge
from r3mem.store.forgetting.base import Forgetting
from r3mem.store.indexing.base import Indexing
from r3mem.store.indexing.full_text import FullText
from r3mem.store.updating.base import Updating
from r3mem.store.updating.replace import Replace


@dataclass(frozen=True)
class Policies:
    """The policies of a store. The words of every entry are indexed whatever finds and ranks them.

    Attributes:
        indexing: What finds and ranks entries for a query.
        consolidation: What merges old entries into coarser memories.
        updating: What a new entry does to older ones of its subject.
        forgetting: What :meth:`r3mem.store.MemoryStore.forget` does where no policy is given, one after the other.

    Raises:
        ConfigError: Something else stands where a policy should.
    """

    indexing: Indexing = field(default_factory=FullText)
    consolidation: Consolidation = field(default_factory=Merge)
    updating: Updating = field(default_factory=Replace)
    forgetting: Sequence[Forgetting] = ()

    def __post_init__(self) -> None:
        kinds = {"indexing": Indexing, "consolidation": Consolidation, "updating": Updating}
        for name, kind in kinds.items():
            check_policy(getattr(self, name), kind, name)
        for policy in self.forgetting:
            check_policy(policy, Forgetting, "forgetting")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Policies:
        """Policies as YAML or JSON says them.

        Args:
            settings: By name ``{"class_path": ..., "init_args": {...}}``, for forgetting a list of those.

        Raises:
            ConfigError: There is no such policy, or it takes other arguments.
        """
        known = [each.name for each in fields(cls)]
        other = sorted(set(settings) - set(known))
        if other:
            raise ConfigError(f"there are no policies of {', '.join(map(str, other))}: they are of {', '.join(known)}")
        return cls(**{name: _built(told) for name, told in settings.items()})


def check_policy(policy: object, kind: type, name: str) -> None:
    """Refuse what is no policy of a kind.

    Args:
        policy: What was given.
        kind: The seam.
        name: What it is called.

    Raises:
        ConfigError: It is something else.
    """
    if not isinstance(policy, kind):
        raise ConfigError(f"{name} is a {kind.__name__} of r3mem.store.{name}, not {type(policy).__name__}")


def _built(told: Any) -> Any:
    if isinstance(told, list | tuple):
        return [_built(each) for each in told]
    if not isinstance(told, Mapping) or "class_path" not in told:
        return told
    module, _, name = str(told["class_path"]).rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{told['class_path']}: there is no such class ({error}): check its name") from error
    given = {key: _built(value) for key, value in dict(told.get("init_args") or {}).items()}
    try:
        return cls(**given)
    except TypeError as error:
        raise ConfigError(f"{told['class_path']} takes other arguments ({error})") from error
