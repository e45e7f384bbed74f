from __future__ import annotations

import pytest

from mailhooks.lesson import Lesson, MailboxRoles, Moved, lesson_of


@pytest.mark.parametrize(
    ("source", "destination", "lesson"),
    [
        ("INBOX", "Junk", Lesson.SPAM),
        ("Archive/2026", "Junk", Lesson.SPAM),
        ("Trash", "Junk", Lesson.SPAM),
        ("INBOX", "junk", Lesson.SPAM),
        ("INBOX", "Junk/old", Lesson.SPAM),
        ("Junk", "INBOX", Lesson.HAM),
        ("Junk/old", "Archive", Lesson.HAM),
        ("Junk", "Trash", None),
        ("Junk", "Trash/2026", None),
        ("Junk", "Junk", None),
        ("Junk", "Junk/old", None),
        ("Junk/old", "Junk", None),
        ("Trash", "Trash", None),
        ("INBOX", "Archive", None),
        ("INBOX", "Junkyard", None),
        ("Junkyard", "INBOX", None),
    ],
)
def test_what_a_move_teaches(source: str, destination: str, lesson: Lesson | None) -> None:
    """Into Junk is spam, out of it is ham, and throwing away is neither."""
    assert lesson_of(Moved(source, destination), MailboxRoles()) is lesson
