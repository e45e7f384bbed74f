from __future__ import annotations

from typing import TYPE_CHECKING

from mailhooks.daemon.groups import Groups
from mailhooks.lesson import Lesson
from mailhooks.spool import Entry, Label

if TYPE_CHECKING:
    from collections.abc import Callable


def entry(name: str, user: str = "ann", origin: str = "move", received: float = 0.0) -> Entry:
    digest = name.rstrip("'")
    label = Label(user=user, lesson=Lesson.SPAM, digest=digest, origin=origin, received=received)
    return Entry(name, label)


def made(*entries: Entry, settle_s: Callable[[Label], float] = lambda _: 0.0) -> Groups:
    groups = Groups(settle_s)
    for each in entries:
        assert groups.add(each)
    return groups


def test_each_sample_settles_for_as_long_as_its_label_asks() -> None:
    """A group is due when the user's last word has settled, or else its delivery."""
    groups = made(
        entry("a", origin="delivery"),
        entry("b", user="bob", received=10.0),
        entry("b'", user="bob", origin="delivery", received=5.0),
        settle_s=lambda label: 100.0 if label.origin == "delivery" else 30.0,
    )
    assert groups.start_due(39.0, 4) == ([], 1.0)
    assert groups.start_due(40.0, 4) == ([("bob", "b")], 60.0)
    assert groups.start_due(100.0, 4)[0] == [("ann", "a")]


def test_deliveries_that_wait_are_counted_by_user_and_lesson() -> None:
    """Balance looks at them, so it must not look at what was learned since."""
    groups = made(
        entry("a", origin="delivery"), entry("b", origin="delivery"), entry("c", user="bob")
    )
    lesson = groups.entries(("ann", "a"))[0].label.lesson
    assert groups.delivered("ann", lesson) == 2
    assert groups.delivered("bob", lesson) == groups.delivered("ann", lesson.opposite) == 0
    key = groups.start_due(0.0, 1)[0][0]
    groups.end(key, groups.entries(key))
    assert groups.delivered("ann", lesson) == 1


def test_a_sample_is_taken_once() -> None:
    """The spool is looked through again and again."""
    groups = made(entry("a"))
    assert not groups.add(entry("a"))
    assert groups.names == {"a"}


def test_one_of_each_user_at_a_time_and_no_more_than_connections() -> None:
    """Only so can Redis' count tell which lesson was learned."""
    groups = made(entry("a"), entry("b"), entry("c", user="bob"), entry("d", user="cat"))
    keys, _ = groups.start_due(0.0, 2)
    assert [user for user, _ in keys] == ["ann", "bob"]
    groups.end(keys[0], groups.entries(keys[0]))
    assert groups.start_due(0.0, 2)[0] == [("cat", "d")]


def test_a_suspect_comes_last_and_alone() -> None:
    """If it kills the process again, no other sample is blamed."""
    groups = Groups(lambda _: 0.0)
    groups.suspect({"s"})
    for each in (entry("s"), entry("a", user="bob")):
        groups.add(each)
    assert groups.start_due(0.0, 4)[0] == [("bob", "a")]
    assert groups.start_due(0.0, 4)[0] == []
    groups.end(("bob", "a"), groups.entries(("bob", "a")))
    assert groups.start_due(0.0, 4)[0] == [("ann", "s")]
    groups.add(entry("b", user="cat"))
    assert groups.start_due(0.0, 4)[0] == []


def test_what_failed_comes_again_later_and_what_came_meanwhile_with_it() -> None:
    """Failures in a row are counted until a new sample comes."""
    groups = made(entry("a"))
    key = groups.start_due(0.0, 1)[0][0]
    assert [groups.failures(key), groups.failures(key)] == [1, 2]
    groups.again(key, 7.0)
    assert groups.start_due(0.0, 1) == ([], 7.0)
    groups.add(entry("a'"))
    assert groups.failures(key) == 1
    assert [each.name for each in groups.entries(key)] == ["a", "a'"]


def test_the_oldest_is_by_when_the_user_acted() -> None:
    """A call out of the drop folder comes late and is older."""
    groups = made(entry("a", received=5.0), entry("b", received=3.0))
    assert groups.oldest == 3.0
    assert made().oldest is None
