"""One connection from the mail server: LMTP in, LMTP out, a verdict in between.

aiosmtpd reads the commands. What RFC 2033 asks for and aiosmtpd does not do is
here: a reply for each recipient, replies of the next hop passed on as they come,
content taken to the byte, and nothing permanent that the next hop did not say.

MAIL and RCPT are asked of the next hop at once, so that an unknown recipient is
refused where Postfix expects it. After DATA each recipient's copy, since copies
differ, travels in a transaction of its own, and each reply is sent as soon as it
is known: if the filter dies half-way, nobody gets a copy again whose reply has
arrived.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final

from aiosmtpd.lmtp import LMTP

from mailhooks.errors import NextHopError
from mailhooks.lmtp import address, verdicts, wire
from mailhooks.lmtp.next_hop import Mail, NextHop, Reply
from mailhooks.lmtp.stamp import Answer, stamped
from mailhooks.message import read_header
from mailhooks.score import received_ids

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mailhooks.config import LmtpSettings

log = logging.getLogger("mailhooks.lmtp")

IDLE_S: Final = 300.0
"""Seconds without a command, or without a byte of content (RFC 5321, 4.5.3.2.7)."""
MAX_RECIPIENTS: Final = 1000
MEMORY_BYTES: Final = 256 * 1024 * 1024
"""Content of all connections together; what does not fit is asked to come again later."""
HEADROOM_BYTES: Final = 4096
"""What the added header fields may take of the next hop's size limit."""
COMMAND_BYTES: Final = 4096
_PIECE_BYTES: Final = 64 * 1024
_TAIL_BYTES: Final = 2
_PERMANENT: Final = 500
_ROUND_TRIPS: Final = 16
"""At most so many answers of the next hop, connection and Junk address included, for one copy."""

_GENERIC: Final = {
    "4": "not now, try again later",
    "5": "refused by the server that stores mail",
}
_TOO_LARGE: Final = "552 5.3.4 larger than this host takes"
_TEMPORARY: Final = "451 4.3.0 internal trouble, try again later"
_ENHANCED: Final = re.compile(r"\d{3} [245]\.\d+\.\d+( |\Z)")
_CLASSES: Final = {"2": "2.0.0", "4": "4.3.0", "5": "5.5.1"}
_WITHOUT: Final = ("220", "354")
_PARAMETERS: Final = {"BODY": "8BITMIME", "SIZE": "SIZE", "SMTPUTF8": "SMTPUTF8"}
"""Parameters of MAIL, and the keyword of LHLO that offers each."""
_HOST: Final = re.compile(r"[^A-Za-z0-9.:\[\]_-]")


@dataclass(slots=True)
class Memory:
    """Content held by all connections."""

    held_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Filter:
    """What every connection shares.

    Attributes:
        settings: of ``[lmtp]``.
        next_hop: a socket's path, or host and port.
        classify_socket: the daemon's.
        max_message_bytes: larger messages are refused.
        hostname: this host's.
        memory: content held now.
        sessions: the connections that are open, and the task that serves each.
    """

    settings: LmtpSettings
    next_hop: Path | tuple[str, int]
    classify_socket: Path
    max_message_bytes: int
    hostname: str
    memory: Memory = field(default_factory=Memory)
    sessions: dict[Session, asyncio.Task[Any]] = field(default_factory=dict)


class Session(LMTP):
    """One connection; aiosmtpd calls a method for each command.

    Args:
        filter_: what it shares with the others.
    """

    # Longer than aiosmtpd's 512, for addresses in UTF-8 and parameters. Its own
    # table of limits is shared by all servers of a process and grows with each EHLO.
    command_size_limit = COMMAND_BYTES
    line_length_limit = _PIECE_BYTES

    def __init__(self, filter_: Filter) -> None:
        super().__init__(
            object(),
            hostname=filter_.hostname,
            ident="LMTP mailhooks",
            enable_SMTPUTF8=True,
            timeout=IDLE_S,
            loop=asyncio.get_running_loop(),
        )
        self.command_size_limits = defaultdict(lambda: COMMAND_BYTES)
        self._filter = filter_
        self._hop: NextHop | None = None
        self._greeted = False
        self._offers: Mapping[str, str] = {}
        self._mail: Mail | None = None
        self._recipients: list[str] = []
        self._held_bytes = 0
        self._is_busy = self._is_ending = False

    def end(self) -> None:
        """Close the connection once the message under way has been answered for."""
        self._is_ending = True
        if not self._is_busy and isinstance(self.transport, asyncio.Transport):
            self.transport.write(b"421 4.3.2 the service stops\r\n")
            self.transport.close()

    async def _handle_client(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is a coroutine
        self._filter.sessions[self] = task
        try:
            with suppress(ConnectionError):
                await super()._handle_client()
        finally:
            del self._filter.sessions[self]
            self._drop_hop()

    async def handle_exception(self, error: Exception) -> str:
        """What a bug is answered with: a temporary failure, without a word about it."""
        log.error("a bug: answered as a temporary failure", exc_info=error)
        self._drop_hop()
        self._forget()
        return _TEMPORARY

    async def push(self, status: str | bytes) -> None:
        """Send a reply, with an enhanced status code whoever wrote it (RFC 2034)."""
        text = status.decode() if isinstance(status, bytes) else status
        code = text[:3]
        plain = text[3:4] != "-" and code not in _WITHOUT and not _ENHANCED.match(text)
        if plain and code[0] in _CLASSES:
            text = f"{code} {_CLASSES[code[0]]}{text[3:]}"
        await super().push(text)

    async def smtp_LHLO(self, arg: str | None) -> None:
        """Greet the next hop too: what it does not offer, this does not either."""
        if not arg:
            await self.push("501 5.5.4 expected LHLO hostname")
            return
        self._forget()
        self._drop_hop()
        try:
            hop = await self._connected()
        except NextHopError as error:
            # Not a greeting that offers less: a message that needs more would bounce.
            await self.push(self._unavailable(error))
            return
        assert self.session is not None  # noqa: S101 - aiosmtpd makes it with the connection
        self.session.host_name = arg
        self.session.extended_smtp = True
        self._greeted = True
        self._offers = {
            "PIPELINING": "",
            "ENHANCEDSTATUSCODES": "",
            "SIZE": str(self._max_bytes(hop)),
            **{key: "" for key in ("8BITMIME", "SMTPUTF8") if key in hop.offers},
        }
        lines = [self.hostname, *(f"{key} {value}".strip() for key, value in self._offers.items())]
        for line in lines[:-1]:
            await self.push(f"250-{line}")
        await super().push(f"250 {lines[-1]}")

    async def smtp_MAIL(self, arg: str | None) -> None:
        """Begin a message, here and at the next hop."""
        if not self._greeted:
            await self.push("503 5.5.1 expected LHLO first")
            return
        if self._mail:
            await self.push("503 5.5.1 expected one MAIL")
            return
        try:
            path, parameters = address.parse_argument(arg, "FROM:")
            mail = _mail(path, parameters, self._offers)
        except ValueError as error:
            await self.push(f"501 5.5.4 {error}")
            return
        except LookupError as error:
            await self.push(f"555 5.5.4 {error.args[0]} is not offered")
            return
        if (mail.size_bytes or 0) > int(self._offers["SIZE"]):
            await self.push(_TOO_LARGE)
            return
        try:
            reply = await self._begun(mail)
        except NextHopError as error:
            await self.push(self._unavailable(error))
            return
        if reply.is_ok:
            self._mail = mail
        await self.push(_passed_on(reply))

    async def smtp_RCPT(self, arg: str | None) -> None:
        """Ask the next hop whether it takes mail for somebody."""
        if not self._mail:
            await self.push("503 5.5.1 expected MAIL first")
            return
        if len(self._recipients) >= MAX_RECIPIENTS:
            await self.push("452 4.5.3 too many recipients for one message")
            return
        try:
            path, parameters = address.parse_argument(arg, "TO:")
        except ValueError as error:
            await self.push(f"501 5.5.4 {error}")
            return
        if parameters:
            await self.push(f"555 5.5.4 {next(iter(parameters))} is not offered")
            return
        try:
            reply = await self._asked(path)
        except NextHopError as error:
            await self.push(self._unavailable(error))
            return
        if reply.is_ok:
            self._recipients.append(path)
        else:
            log.info("recipient refused: %d %s %s", reply.code, reply.enhanced, reply.text)
        await self.push(_passed_on(reply))

    async def smtp_RSET(self, _arg: str | None) -> None:
        """Give up the message under way."""
        self._forget()
        if self._hop:
            with suppress(NextHopError):  # noticed again with the next MAIL
                await self._hop.reset()
        await self.push("250 2.0.0 forgotten")

    async def smtp_DATA(self, arg: str | None) -> None:
        """Take the content, and answer for each recipient in turn."""
        if not self._recipients or not self._mail:
            await self.push("503 5.5.1 expected MAIL and RCPT first")
            return
        if arg:
            await self.push("501 5.5.4 DATA takes no argument")
            return
        self._is_busy = True
        try:
            await self.push("354 end with a lone dot")
            content, refusal = await self._content()
            if refusal:
                for _ in self._recipients:
                    await self.push(refusal)
            else:
                await self._deliver(self._mail, self._recipients, content)
        except ConnectionError:
            raise
        except Exception:
            # How many replies are missing, and where the content ends, is not known.
            log.exception("a bug: the connection is closed")
            await self.push("421 4.3.0 internal trouble, try again later")
            self._writer.close()
        finally:
            self._filter.memory.held_bytes -= self._held_bytes
            self._held_bytes = 0
            self._forget()
            self._is_busy = False
        if self._is_ending:
            self.end()

    async def _not_offered(self, _arg: str | None) -> None:
        await self.push("502 5.5.1 not offered here")

    smtp_AUTH = smtp_EXPN = smtp_HELP = smtp_STARTTLS = smtp_VRFY = _not_offered  # type: ignore[assignment]
    smtp_HELO = smtp_EHLO = _not_offered  # type: ignore[assignment]

    async def _content(self) -> tuple[bytes, str]:
        """Read up to the lone dot.

        Returns:
            The message; or nothing, and the reply that refuses it.
        """
        limit_bytes = int(self._offers["SIZE"])
        wire_limit_bytes = limit_bytes * 4 // 3 + 1  # each line a dot, doubled
        content = bytearray()
        refusal = ""
        is_complete = False
        while not is_complete:
            self._reset_timeout()
            try:
                piece = await self._reader.readuntil(wire.END)
                content += piece[: -len(wire.END)]
                is_complete = wire.is_end(content)
                if not is_complete:
                    content += wire.END
            except asyncio.LimitOverrunError as error:
                content += await self._reader.read(error.consumed)
            refusal = refusal or self._refusal(len(content), wire_limit_bytes)
            if refusal:
                self._hold(0)
                # Enough to know the end by.
                del content[:-_TAIL_BYTES]
        if not refusal:
            message = wire.decode(bytes(content))
            if len(message) <= limit_bytes:
                return message, ""
            refusal = _TOO_LARGE
        return b"", refusal

    def _refusal(self, size_bytes: int, limit_bytes: int) -> str:
        """Why content of this size is not kept, if it is not."""
        if size_bytes > limit_bytes:
            return _TOO_LARGE
        others_bytes = self._filter.memory.held_bytes - self._held_bytes
        if others_bytes and others_bytes + size_bytes > MEMORY_BYTES:
            log.warning("no memory for another message of %d bytes or more", size_bytes)
            return "452 4.3.1 too much mail at once, try again later"
        self._hold(size_bytes)
        return ""

    def _hold(self, size_bytes: int) -> None:
        self._filter.memory.held_bytes += size_bytes - self._held_bytes
        self._held_bytes = size_bytes

    async def _deliver(self, mail: Mail, recipients: list[str], message: bytes) -> None:
        """Forward each recipient's copy, and pass on what the next hop says of it."""
        settings = self._filter.settings
        queue_id = next(iter(received_ids(read_header(message), 1)), "-")
        message = self._trace(mail) + message
        users = [
            address.user_of(
                path,
                delimiters=settings.recipient_delimiter,
                with_domain=settings.username == "address",
            )
            for path in recipients
        ]
        # aiosmtpd's clock is for a client that says nothing, not for one that waits for us.
        self._reset_timeout(settings.deadline_s + IDLE_S)
        answers = await verdicts.ask(
            self._filter.classify_socket,
            message,
            users,
            {"SENDER": mail.path[1:-1], "HOST": self._filter.hostname},
            settings.deadline_s,
        )
        silent: NextHopError | None = None
        for path, user in zip(recipients, users, strict=True):
            self._reset_timeout(_ROUND_TRIPS * settings.next_hop_timeout_s + IDLE_S)
            answer = answers[user]
            try:
                reply = await self._forwarded(mail, path, message, answer, silent)
                text = _passed_on(reply)
                said = f"{reply.code} {reply.enhanced} {reply.text}"
            except NextHopError as error:
                silent = error if error.is_silent else None
                text, said = self._unavailable(error), f"next hop: {error}"
            except Exception:
                log.exception("%s: user=%s: a bug", queue_id, user)
                self._drop_hop()
                text, said = _TEMPORARY, "a bug"
            folder = "junk" if answer.is_junk else "inbox"
            log.info("%s: user=%s %s: %s: %s", queue_id, user, folder, answer.status, said)
            await self.push(text)

    async def _forwarded(
        self, mail: Mail, path: str, message: bytes, answer: Answer, silent: NextHopError | None
    ) -> Reply:
        """Deliver one recipient's copy, to the Junk address if there is one."""
        if silent:
            # It would be silent for the next recipient as long again.
            raise silent
        settings = self._filter.settings
        copy = stamped(message, answer)
        hop = await self._connected()
        if answer.is_junk and settings.junk_detail:
            junk = address.with_detail(path, settings.junk_detail, settings.recipient_delimiter)
            reply = await hop.deliver(mail, junk, copy)
            if reply.is_ok or reply.code < _PERMANENT:
                return reply
            # It was our address, not the sender's: that must not cost the message.
            log.warning("next hop refuses %s: %d %s", junk, reply.code, reply.text)
        return await hop.deliver(mail, path, copy)

    def _trace(self, mail: Mail) -> bytes:
        """The Received field of this hop (RFC 5321, 4.4)."""
        assert self.session is not None  # noqa: S101 - as in LHLO
        client = _HOST.sub("?", self.session.host_name or "")[:255]
        protocol = "UTF8LMTP" if mail.utf8 else "LMTP"
        return (
            f"Received: from {client}\r\n\tby {self._filter.hostname} (mailhooks) "
            f"with {protocol} id {secrets.token_hex(8)};\r\n\t{formatdate(localtime=True)}\r\n"
        ).encode("ascii", "replace")

    async def _begun(self, mail: Mail) -> Reply:
        """MAIL at the next hop, which may have closed a connection that was idle."""
        is_new = self._hop is None or not self._hop.is_open
        try:
            return await (await self._connected()).mail(mail)
        except NextHopError as error:
            if is_new or error.is_silent:
                raise
        return await (await self._connected()).mail(mail)

    async def _asked(self, path: str) -> Reply:
        """RCPT at the next hop; not on a new connection, which has seen no MAIL."""
        if self._hop is None or not self._hop.is_open:
            raise NextHopError("went away between MAIL and RCPT", "4.4.2")
        return await self._hop.rcpt(path)

    async def _connected(self) -> NextHop:
        if self._hop is None or not self._hop.is_open:
            shared = self._filter
            self._hop = await NextHop.connect(
                shared.next_hop, shared.hostname, shared.settings.next_hop_timeout_s
            )
        return self._hop

    def _drop_hop(self) -> None:
        if self._hop:
            self._hop.close()
            self._hop = None

    def _forget(self) -> None:
        self._mail = None
        self._recipients = []

    def _max_bytes(self, hop: NextHop) -> int:
        """The largest message that fits here, and with its new header fields at the next hop."""
        theirs = hop.offers.get("SIZE", "")
        limit = self._filter.max_message_bytes
        if theirs.isdecimal() and int(theirs) > HEADROOM_BYTES:  # 0 is no limit (RFC 1870, 3)
            return min(limit, int(theirs) - HEADROOM_BYTES)
        return limit

    @staticmethod
    def _unavailable(error: NextHopError) -> str:
        log.warning("next hop: %s", error)
        return f"451 {error.enhanced} the server that stores mail is not available"


def _mail(path: str, parameters: Mapping[str, str | None], offers: Mapping[str, str]) -> Mail:
    """MAIL with its parameters.

    Raises:
        ValueError: one has no such value.
        LookupError: one was not offered.
    """
    for name in parameters:
        if _PARAMETERS.get(name) not in offers:
            raise LookupError(name)
    body = (parameters.get("BODY") or "").upper() or None
    if "BODY" in parameters and body not in ("7BIT", "8BITMIME"):
        raise ValueError("expected BODY=7BIT or BODY=8BITMIME")
    size = parameters.get("SIZE")
    if "SIZE" in parameters and not re.fullmatch("[0-9]{1,20}", size or ""):
        raise ValueError("expected SIZE=bytes")
    if parameters.get("SMTPUTF8"):
        raise ValueError("expected SMTPUTF8 without a value")
    return Mail(path, body, "SMTPUTF8" in parameters, int(size) if size else None)


def _passed_on(reply: Reply) -> str:
    """The next hop's reply, its own words only where they are good news."""
    kind = str(reply.code)[0]
    text = _GENERIC.get(kind) or reply.text.encode("ascii", "replace").decode()[:400]
    return f"{reply.code} {reply.enhanced} {text}".rstrip()
