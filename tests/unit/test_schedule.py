from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mailhooks.daemon.schedule import Schedule


def drain(schedule: Schedule[str], now: float) -> list[str]:
    found = []
    while (key := schedule.pop(now)) is not None:
        found.append(key)
    return found


def test_nothing_comes_before_it_is_due() -> None:
    """Keys come in the order of their time, and the wait is known."""
    schedule: Schedule[str] = Schedule()
    schedule.put("late", "ann", 20.0)
    schedule.put("early", "ann", 10.0)
    assert schedule.pop(5.0) is None
    assert schedule.wait_s(5.0) == 5.0
    assert drain(schedule, 10.0) == ["early"]
    assert schedule.wait_s(12.0) == 8.0
    assert drain(schedule, 20.0) == ["late"]
    assert schedule.wait_s(30.0) is None


def test_users_take_turns() -> None:
    """One user's many keys do not starve another's single one."""
    schedule: Schedule[str] = Schedule()
    for number in range(4):
        schedule.put(f"a{number}", "ann", 0.0)
    schedule.put("b0", "bob", 0.0)
    schedule.put("c0", "cat", 0.0)
    assert drain(schedule, 1.0) == ["a0", "b0", "c0", "a1", "a2", "a3"]


def test_a_busy_user_is_passed_over_and_comes_later() -> None:
    """While one user is being served, only the others come."""
    schedule: Schedule[str] = Schedule()
    for key, user in (("a0", "ann"), ("a1", "ann"), ("b0", "bob")):
        schedule.put(key, user, 0.0)
    assert schedule.pop(1.0, {"ann"}) == "b0"
    assert schedule.pop(1.0, {"ann"}) is None
    assert drain(schedule, 1.0) == ["a0", "a1"]


def test_a_key_that_was_discarded_does_not_come() -> None:
    """Whether it is due or not yet, and discarding what is not there is no error."""
    schedule: Schedule[str] = Schedule()
    for key, due in (("now", 0.0), ("later", 5.0), ("stays", 5.0)):
        schedule.put(key, "ann", due)
    assert schedule.wait_s(1.0) == 0.0
    for key in ("now", "later", "other"):
        schedule.discard(key)
    assert schedule.wait_s(1.0) == 4.0
    assert drain(schedule, 9.0) == ["stays"]
    assert len(schedule) == 0


def test_a_key_put_again_comes_once_at_its_new_time() -> None:
    """A settle time that begins anew moves the key, even if it was due already."""
    schedule: Schedule[str] = Schedule()
    schedule.put("x", "ann", 1.0)
    assert schedule.wait_s(1.0) == 0.0
    schedule.put("x", "ann", 9.0)
    assert len(schedule) == 1
    assert schedule.pop(5.0) is None
    assert schedule.wait_s(5.0) == 4.0
    schedule.put("x", "ann", 6.0)
    assert drain(schedule, 10.0) == ["x"]
    assert len(schedule) == 0


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.integers(0, 20)), max_size=60)
)
def test_every_key_comes_exactly_once_and_never_early(
    puts: list[tuple[str, int, int]],
) -> None:
    """Whatever is put in whatever order, nothing is lost, doubled or early."""
    schedule: Schedule[str] = Schedule()
    due: dict[str, int] = {}
    for user, number, when in puts:
        key = f"{user}{number}"
        schedule.put(key, user, when)
        due[key] = when
    seen: list[str] = []
    for now in range(22):
        assert (schedule.wait_s(now) == 0.0) == any(
            when <= now and key not in seen for key, when in due.items()
        )
        for key in drain(schedule, now):
            assert due[key] <= now
            seen.append(key)
    assert sorted(seen) == sorted(due)


def test_what_is_put_back_keeps_its_place() -> None:
    """By when it was due first, before what became due since."""
    schedule: Schedule[str] = Schedule()
    for number in range(4):
        schedule.put(f"a{number}", "ann", float(number))
    assert schedule.pop(10.0) == "a0"
    assert schedule.pop(10.0) == "a1"
    schedule.put("a1", "ann", 1.0)
    schedule.put("a0", "ann", 0.0)
    assert [schedule.pop(10.0) for _ in range(5)] == ["a0", "a1", "a2", "a3", None]
