"""Users see their own memories and nothing of others, whatever their names and whatever they guess."""

from __future__ import annotations

import pytest

from r3mem import InputError
from r3mem.errors import NotFound
from r3mem.store import MemoryStore

USERS = ["user1", "user10", "User1", "USER1", "../user2", "user2", " user3 ", "user3", "user3 ", "%", "_", "user_", "*",
         "ü", "u\u0308", "a'; DROP TABLE r3mem_entries; --", " ", "x" * 256, "x" * 255, "漢", "1", "None"]  # fmt: skip


def test_names_are_compared_exactly(store: MemoryStore) -> None:
    ids = {user: store.add(f"the secret of number {i}", user=user, agent=user, session=user).id
           for i, user in enumerate(USERS)}  # fmt: skip
    assert store.stats().users == len(USERS)
    for i, user in enumerate(USERS):
        page = store.list(user=user)
        assert ([e.id for e in page], page.total) == ([ids[user]], 1)
        assert [h.entry.id for h in store.search("secret number", user=user)] == [ids[user]]
        assert store.recall(ids[user], user=user) == f"the secret of number {i}"
        assert store.stats(user=user).entries == 1
        others = [id for other, id in ids.items() if other != user]
        for id in others[:5]:
            with pytest.raises(NotFound):
                store.get(id, user=user)
    for narrowed in ({"agent": "user1"}, {"session": "user10"}):
        assert len(store.list(user="user1", **narrowed)) == (1 if "agent" in narrowed else 0)
    assert store.delete_all(user="user1") == 1 and store.delete_all(user="%") == 1
    assert store.stats().entries == len(USERS) - 2


@pytest.mark.parametrize(
    ("name", "why"),
    [("", "empty"), ("x" * 257, "257 characters"), ("x" * 300, "300 characters"), ("a\0b", "control character"),
     ("a\nb", "control character"), ("\x7f", "control character"), ("\ud800", "control character"),
     (None, "not NoneType"),     (b"x", "not bytes"), (1, "not int")],
)  # fmt: skip
def test_names_that_cannot_be(name: object, why: str, store: MemoryStore) -> None:
    calls = [
        lambda: store.add("x", user=name), lambda: store.list(user=name), lambda: store.search("x", user=name),
        lambda: store.get("0" * 32, user=name), lambda: store.delete_all(user=name),
        lambda: store.export("x", user=name),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(InputError, match=why):
            call()
    if name is not None:
        for narrowed in ({"agent": name}, {"session": name}):
            with pytest.raises(InputError, match=why):
                store.add("x", user="ann", **narrowed)
    assert store.stats().entries == 0


def test_what_others_keep_changes_no_score(store: MemoryStore) -> None:
    for i in range(5):
        store.add(f"the dog number {i} is brown", user="ann")
    before = [(h.entry.id, h.score) for h in store.search("brown dog 3", user="ann")]
    for i in range(20):
        store.add(f"a brown dog, again and again, {i}", user="bob")
    assert [(h.entry.id, h.score) for h in store.search("brown dog 3", user="ann")] == before


def test_cursors_of_others_show_nothing(store: MemoryStore) -> None:
    for i in range(3):
        store.add(f"bob {i}", user="bob")
    cursor = store.list(user="bob", limit=1).next
    store.add("ann", user="ann")
    assert all(entry.user == "ann" for entry in store.list(user="ann", after=cursor))
