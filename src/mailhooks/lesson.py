"""What a user's action in IMAP teaches. Pure.

The table, from the mailbox a message was in (rows) to the one it is in now::

    MOVE, COPY     Junk      Trash     Sent, Drafts   any other
    Junk           -         -         -              ham
    Trash          spam      -         -              -
    Sent, Drafts   -         -         -              -
    any other      spam      -         -              -

    APPEND to Junk is spam, to any other mailbox nothing.

Throwing junk away says only that it is not wanted any more. Sent and Drafts
hold the user's own words, and no filter shall learn those.

Keywords (IANA's ``$Junk`` and ``$NotJunk``, RFC 9051, 2.3.2; Thunderbird's
``Junk`` and ``NonJunk``) speak outside Trash, Sent and Drafts:

- ``$Junk`` set: spam. ``$NotJunk`` set: ham. Whatever was there before, the
  one that was set last is what the user means, so clients that leave the
  opposite in place are understood. Both set by one change contradict each
  other: nothing.
- ``$Junk`` taken away without ``$NotJunk``: ham, since that is how a client
  with one switch takes its word back; in Junk nothing, for there the mailbox
  still says junk. ``$NotJunk`` taken away: nothing, since a message without
  either keyword is merely unclassified, and nobody called it spam.

Keywords that come along with a COPY, MOVE or APPEND are old news: the mailbox
decides.

Mailboxes are known by name, with all that lies below them. Names are compared
without regard to case and Unicode composition. IMAP itself (RFC 9051, 5.1)
ignores case in INBOX only, and a server may hold "Junk" and "junk" side by
side; but no user means two different things by them. A leading ``INBOX.`` or
``INBOX/`` (the personal namespace of many servers) and the prefix of a shared
namespace do not count: ``INBOX.Spam`` and ``shared/bob/Spam`` are Spam.
"""

from __future__ import annotations

import enum
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


SHARED_USER: Final = "*shared*"
"""Stands for the statistics that all users share, wherever a user is named."""


PROBE_USER: Final = "doctor@invalid"
"""Whom nobody can be (RFC 2606): the doctor asks in this name, and no ledger notes it."""


class Lesson(enum.Enum):
    """What Rspamd is to learn a message as."""

    SPAM = "spam"
    HAM = "ham"

    @property
    def opposite(self) -> Lesson:
        """The other one."""
        return Lesson.HAM if self is Lesson.SPAM else Lesson.SPAM


class Role(enum.Enum):
    """The part a mailbox plays."""

    JUNK = "junk"
    TRASH = "trash"
    SENT = "sent"
    DRAFTS = "drafts"
    OTHER = "other"


SILENT: Final = frozenset({Role.TRASH, Role.SENT, Role.DRAFTS})
"""What arrives here, or is flagged here, teaches nothing."""
_OWN_WORDS: Final = frozenset({Role.SENT, Role.DRAFTS})


class Change(enum.Enum):
    """What happened to a keyword."""

    SAME = "same"
    SET = "set"
    CLEARED = "cleared"


@dataclass(frozen=True, slots=True)
class Moved:
    """A message arrived in a mailbox by IMAP COPY or MOVE.

    Attributes:
        source: the mailbox it came from, as Dovecot names it.
        destination: the mailbox it is in now.
    """

    source: str
    destination: str

    @property
    def mailbox(self) -> str:
        """Where the message is now."""
        return self.destination


@dataclass(frozen=True, slots=True)
class Appended:
    """A message arrived in a mailbox by IMAP APPEND."""

    mailbox: str


@dataclass(frozen=True, slots=True)
class Flagged:
    """A message's junk keywords were changed where it lies.

    Attributes:
        mailbox: where that is.
        junk: what happened to ``$Junk`` or ``Junk``.
        not_junk: what happened to ``$NotJunk`` or ``NonJunk``.
    """

    mailbox: str
    junk: Change = Change.SAME
    not_junk: Change = Change.SAME


Event = Moved | Appended | Flagged


def lesson_of(event: Event, roles: MailboxRoles) -> Lesson | None:
    """What an event teaches, or None if it teaches nothing."""
    role = roles.role(event.mailbox)
    if isinstance(event, Appended):
        return Lesson.SPAM if role is Role.JUNK else None
    if role in SILENT:
        return None
    if isinstance(event, Flagged):
        return _lesson_of_keywords(event, role)
    source = roles.role(event.source)
    if source in _OWN_WORDS or source is role:
        return None
    if role is Role.JUNK:
        return Lesson.SPAM
    return Lesson.HAM if source is Role.JUNK else None


def _lesson_of_keywords(event: Flagged, role: Role) -> Lesson | None:
    said_junk, said_not_junk = event.junk is Change.SET, event.not_junk is Change.SET
    if said_junk and said_not_junk:
        return None
    if said_junk:
        return Lesson.SPAM
    if said_not_junk or (event.junk is Change.CLEARED and role is not Role.JUNK):
        return Lesson.HAM
    return None


def _names(table: str) -> tuple[str, ...]:
    """The names of a table with one language a line: ``xx: name, name``."""
    lines = (line.partition(":")[2] for line in table.strip().splitlines())
    return tuple(dict.fromkeys(name.strip() for line in lines for name in line.split(",")))


# What mail clients and providers call these mailboxes when they create them.
# Left out are names that people also give to folders of their own, such as
# "Werbung" (advertisements).
USUAL_NAMES: Final[Mapping[Role, tuple[str, ...]]] = {
    Role.JUNK: _names("""
        en: Junk, Spam, Junk E-mail, Junk Email, Junk Mail, Bulk Mail, Bulk
        de: Junk-E-Mail, Spamverdacht, Spam-Verdacht
        fr: Courrier indésirable, Indésirables, Indésirable, Pourriel, Pourriels
        es: Correo no deseado, Correo basura, No deseado
        it: Posta indesiderata, Indesiderata
        nl: Ongewenste e-mail, Ongewenst
        pt: Lixo Eletrônico, Lixo Eletrónico, Lixo electrónico, E-mail de Lixo, Email de Lixo
        pl: Wiadomości-śmieci, Wiadomości śmieci, Niechciane
        ru: Спам, Нежелательная почта
        uk: Небажана пошта
        cs: Nevyžádaná pošta, Nevyžádané
        sk: Nevyžiadaná pošta
        sv: Skräppost
        da: Uønsket mail, Uønsket post
        no: Søppelpost, Søppel-e-post, Uønsket e-post
        fi: Roskaposti
        hu: Levélszemét
        ro: E-mail nedorit, Mesaje nedorite
        tr: Önemsiz E-posta, İstenmeyen E-posta, Gereksiz
        el: Ανεπιθύμητη αλληλογραφία, Ανεπιθύμητα
        ja: 迷惑メール
        zh: 垃圾邮件, 垃圾郵件
        ko: 스팸, 스팸 메일, 스팸메일함, 정크 메일
    """),
    Role.TRASH: _names("""
        en: Trash, Deleted Items, Deleted Messages, Deleted, Bin
        de: Papierkorb, Gelöschte Elemente, Gelöschte Objekte, Gelöschte Nachrichten, Gelöscht
        fr: Corbeille, Éléments supprimés, Messages supprimés
        es: Papelera, Elementos eliminados, Mensajes eliminados
        it: Cestino, Posta eliminata, Elementi eliminati
        nl: Prullenbak, Prullenmand, Verwijderde items
        pt: Lixeira, Lixo, Itens Excluídos, Itens Eliminados
        pl: Kosz, Elementy usunięte
        ru: Корзина, Удаленные, Удалённые
        uk: Кошик, Видалені
        cs: Koš, Odstraněná pošta
        sk: Kôš, Odstránená pošta
        sv: Papperskorgen, Borttagna objekt, Borttaget
        da: Papirkurv, Slettet post
        no: Søppelkasse, Slettede elementer
        fi: Roskakori, Poistetut, Poistetut viestit
        hu: Kuka, Lomtár, Törölt elemek
        ro: Coș de gunoi, Elemente șterse
        tr: Çöp Kutusu, Çöp, Silinmiş Öğeler
        el: Κάδος απορριμμάτων, Διαγραμμένα, Διαγραμμένα στοιχεία
        ja: ゴミ箱, ごみ箱, 削除済みアイテム
        zh: 已删除邮件, 已删除, 垃圾箱, 废纸篓, 刪除的郵件, 垃圾桶
        ko: 휴지통, 지운 편지함
    """),
    Role.SENT: _names("""
        en: Sent, Sent Items, Sent Messages, Sent Mail, Sent-Mail
        de: Gesendet, Gesendete Elemente, Gesendete Objekte, Gesendete Nachrichten
        fr: Envoyés, Éléments envoyés, Messages envoyés, Objets envoyés
        es: Enviados, Elementos enviados, Mensajes enviados
        it: Inviata, Inviati, Posta inviata
        nl: Verzonden, Verzonden items, Verzonden berichten
        pt: Enviadas, Itens Enviados, Mensagens enviadas
        pl: Wysłane, Elementy wysłane
        ru: Отправленные
        uk: Надіслані, Відправлені
        cs: Odeslané, Odeslaná pošta
        sk: Odoslané, Odoslaná pošta
        sv: Skickat, Skickade, Skickade objekt
        da: Sendt, Sendt post
        no: Sendte elementer
        fi: Lähetetyt, Lähetetyt viestit
        hu: Elküldött, Elküldött elemek
        ro: Trimise, Elemente trimise
        tr: Gönderilmiş, Gönderilmiş Öğeler, Gönderilenler
        el: Απεσταλμένα
        ja: 送信済み, 送信済みアイテム, 送信済みメール
        zh: 已发送, 已发送邮件, 寄件備份
        ko: 보낸 편지함, 보낸편지함, 보낸메일함
    """),
    Role.DRAFTS: _names("""
        en: Drafts, Draft
        de: Entwürfe
        fr: Brouillons
        es: Borradores
        it: Bozze
        nl: Concepten
        pt: Rascunhos
        pl: Kopie robocze, Szkice, Wersje robocze
        ru: Черновики
        uk: Чернетки
        cs: Koncepty, Rozepsané
        sk: Rozpísané
        sv: Utkast
        da: Kladder
        fi: Luonnokset
        hu: Piszkozatok
        ro: Ciorne, Schițe
        tr: Taslaklar
        el: Πρόχειρα
        ja: 下書き
        zh: 草稿, 草稿箱
        ko: 임시 보관함, 임시보관함
    """),
}

DEFAULT_SHARED_PREFIXES: Final = ("shared/%u/",)
_PLACEHOLDER: Final = re.compile(r"%%?([und])(?=([/.@:~_-])?)")
_ERE_SPECIAL: Final = re.compile(r"[\\.\[\]{}()*+?^$|]")


class MailboxRoles:
    """Which mailboxes play which part, and whose they are, by name.

    Args:
        names: the mailboxes of each role; a name may have several levels.
        shared_prefixes: prefixes of namespaces with other users' mailboxes, as
            in Dovecot: ``%u`` stands for the owner, ``%n`` for the part before
            its ``@``, ``%d`` for the part after it (``%%u`` and so on are
            taken too). One without any names a public namespace.
        separators: characters that may part a mailbox from its sub-folder.

    Raises:
        ValueError: a prefix is wrong; says how.
    """

    def __init__(
        self,
        names: Mapping[Role, Iterable[str]] = USUAL_NAMES,
        *,
        shared_prefixes: Iterable[str] = DEFAULT_SHARED_PREFIXES,
        separators: str = "/.",
    ) -> None:
        self._separator = re.compile(f"[{re.escape(separators)}]")
        self._names = {
            role: [tuple(self._separator.split(name)) for name in each]
            for role, each in names.items()
        }
        self._roles: dict[tuple[str, ...], Role] = {}
        for role, paths in self._names.items():
            for path in paths:
                self._roles.setdefault(_folded(path), role)
        shared = [shared_pattern(prefix) for prefix in shared_prefixes]
        self._shared = [(re.compile(each, re.IGNORECASE), each[-1]) for each in shared]
        # POSIX knows no named groups, and needs none here.
        shared = [re.sub(r"\(\?P<\w>(.*?)\)", r"\1", each) for each in shared]
        inbox, level = f"INBOX[{separators}]", f"([^{separators}]+)[{separators}]"
        self._top = f"^({'|'.join([*shared, inbox])})?({inbox})?{level}"

    def role(self, mailbox: str) -> Role:
        """The part a mailbox plays; the deepest configured name above it decides."""
        _, rest = self._owner_and_rest(mailbox)
        path = _folded(self._separator.split(rest))
        if len(path) > 1 and path[0] == "inbox":
            path = path[1:]
        for length in range(len(path), 0, -1):
            if path[:length] in self._roles:
                return self._roles[path[:length]]
        return Role.OTHER

    def owner(self, mailbox: str, actor: str) -> str | None:
        """The user to whom a mailbox of a shared namespace belongs, in lower case.

        Args:
            mailbox: as the acting user sees it.
            actor: the acting user; lends its domain where a prefix names none.

        Returns:
            None for the actor's own and for public mailboxes.
        """
        found, _ = self._owner_and_rest(mailbox)
        if "u" in found:
            return found["u"].lower()
        if "n" in found:
            domain = found.get("d") or actor.partition("@")[2]
            return (f"{found['n']}@{domain}" if domain else found["n"]).lower()
        return None

    def for_sieve(self) -> dict[str, str]:
        """What the Sieve script needs to tell which messages may teach something.

        A mailbox is looked up there by its topmost level alone. A message that
        can teach is always sent, and one that cannot is sent seldom.

        Returns:
            ``top``: an extended regular expression (POSIX and PCRE) for a name
            with a separator behind it; its third group is the topmost level.
            ``junk`` and ``silent``: levels that are, or hold, Junk, and
            those that are Trash, Sent or Drafts, each between two slashes.
        """
        junk = [path[0] for path in self._names.get(Role.JUNK, ())]
        holds_junk = set(_folded(junk))
        silent = [
            path[0]
            for role, paths in self._names.items()
            for path in paths
            # The topmost of several levels is not silent itself, nor one with Junk below.
            if role in SILENT and len(path) == 1 and not holds_junk.intersection(_folded(path))
        ]
        return {"top": self._top, "junk": _listed(junk), "silent": _listed(silent)}

    def _owner_and_rest(self, mailbox: str) -> tuple[dict[str, str], str]:
        """What a shared prefix says about the owner, and the name behind it."""
        for shared, end in self._shared:
            # "shared/bob", the prefix without its end, is how Dovecot calls bob's INBOX.
            match = shared.match(mailbox + end)
            if match:
                return match.groupdict(), mailbox[match.end() :]
        return {}, mailbox


def shared_pattern(prefix: str) -> str:
    """A regular expression, with groups ``u``, ``n`` and ``d``, for the prefix of a namespace.

    Raises:
        ValueError: it is not a prefix; says why.
    """
    if prefix[-1:] not in ("/", "."):
        raise ValueError(f"{prefix!r} must end with the separator, / or .")
    parts, end, seen = [], 0, set()
    for match in _PLACEHOLDER.finditer(prefix):
        kind, following = match.groups()
        if not following:
            raise ValueError(f"{prefix!r}: %{kind} must be followed by a separator")
        if kind in seen:
            raise ValueError(f"{prefix!r} holds %{kind} twice")
        seen.add(kind)
        parts += [_literal(prefix[end : match.start()]), f"(?P<{kind}>[^{following}]+)"]
        end = match.end()
    parts.append(_literal(prefix[end:]))
    if "%" in _PLACEHOLDER.sub("", prefix):
        raise ValueError(f"{prefix!r}: only %u, %n and %d are known")
    if seen not in (set(), {"u"}, {"n"}, {"n", "d"}):
        raise ValueError(f"{prefix!r} must hold %u, or %n, or %n and %d, or none of them")
    return "".join(parts)


def _literal(text: str) -> str:
    """Text for a regular expression, escaped as POSIX and Python both understand it."""
    return _ERE_SPECIAL.sub(r"\\\g<0>", text)


def _folded(path: Iterable[str]) -> tuple[str, ...]:
    """The levels of a mailbox's name for comparison."""
    return tuple(
        unicodedata.normalize("NFC", unicodedata.normalize("NFC", level).casefold())
        for level in path
    )


def _listed(names: Iterable[str]) -> str:
    """Names between slashes, in every spelling Sieve does not take for equal by itself.

    Its comparator ignores case in ASCII only, and knows nothing of composition.
    """
    spellings: dict[str, None] = {}
    for name in names:
        for cased in (name, name.lower(), name.upper()) if not name.isascii() else (name,):
            for form in ("NFC", "NFD"):
                spellings.setdefault(unicodedata.normalize(form, cased))
    return f"/{'/'.join(spellings)}/"
