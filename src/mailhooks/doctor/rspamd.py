"""Rspamd: asked what mailhooks asks it, without teaching anything; and its configuration."""

from __future__ import annotations

import asyncio
import json
import re
import time
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from mailhooks.doctor import probe
from mailhooks.doctor.check import Finding, failed, ok, skipped, warning
from mailhooks.doctor.http import get
from mailhooks.doctor.program import NotRunError, WentWrongError, output_of, unknown, version_of
from mailhooks.errors import RspamdError, RspamdMisconfigured
from mailhooks.lesson import SHARED_USER
from mailhooks.rspamd import RspamdClient
from mailhooks.score import CLOCK_SKEW_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mailhooks.config import RspamdSettings
    from mailhooks.keys import KeyRing

TIMEOUT_S = 5.0
OLDEST_TRIED: Final = (3, 4)
BROKEN_VERSIONS: Final = {
    "3.13": "its learn cache is broken",
    "3.13.0": "its learn cache is broken",
}
CLOCK_OFF_S: Final = 30.0
SETTINGS: Final = {
    "milter": "the milter pass judges with the Bayes statistics of the first recipient",
    "delivery": "who asks with this id gets a full scan",
}
"""The ids of local.d/settings.conf, and what it means when Rspamd ignores one."""
MARK: Final = "mailhooks_settings"
"""A message in the answer that says which settings were applied: an id that Rspamd
does not know changes nothing else that could be seen."""

_START = "Start Rspamd, or correct [rspamd] {key}."


def scans(settings: RspamdSettings) -> list[Finding]:
    """Whether the normal worker answers, and runs Bayes alone when asked to."""
    return asyncio.run(_scans(settings))


async def _scans(settings: RspamdSettings) -> list[Finding]:
    url = settings.scan_url
    async with RspamdClient(scan_url=url, learn_url=url, timeout_s=TIMEOUT_S) as rspamd:
        try:
            await rspamd.ping()
        except RspamdError as problem:
            return [failed("rspamd scan", str(problem), _START.format(key="scan_url"))]
        if url == settings.learn_url:
            first = warning(
                "rspamd scan",
                f"{url}: is scan_url and learn_url, so every delivery waits for one process",
                "Name the normal worker in [rspamd] scan_url, by default on port 11333.",
            )
        else:
            first = ok("rspamd scan", f"{url}: answers")
        return [
            first,
            await _bayes_only(rspamd, url),
            await _settings_known(rspamd, url),
            await _clock(url),
        ]


async def _bayes_only(rspamd: RspamdClient, url: str) -> Finding:
    name = "rspamd bayes"
    try:
        await rspamd.check_bayes(probe.MESSAGE, user=probe.USER)
    except RspamdError as problem:
        return failed(
            name,
            str(problem),
            "See that this host may scan, and that no setting of Rspamd's makes it ignore the "
            "Settings header (a proxy in between may remove it).",
        )
    return ok(name, f"{url}: runs Bayes alone when asked to")


async def _settings_known(rspamd: RspamdClient, url: str) -> Finding:
    name = "rspamd settings"
    try:
        ignored = [
            known
            for known in SETTINGS
            if (await rspamd.check(probe.MESSAGE, user=probe.USER, settings_id=known)).messages.get(
                MARK
            )
            != known
        ]
    except RspamdError as problem:
        return failed(name, str(problem), "See Rspamd's own log.")
    if ignored:
        return failed(
            name,
            f"{url}: Rspamd does not apply the settings {' and '.join(ignored)}: "
            f"{SETTINGS[ignored[0]]}",
            f"Define them in local.d/settings.conf, each with its id and with messages "
            f'{{ {MARK} = "ID"; }} in apply; see that no other settings match every message; '
            "restart Rspamd.",
        )
    return ok(name, f"{url}: applies the settings {' and '.join(SETTINGS)}")


async def _clock(url: str) -> Finding:
    """By the Date of an answer (RFC 9110, 6.6.1), which counts whole seconds."""
    name = "clock"
    try:
        answer = await get(url, "/ping", TIMEOUT_S)
        theirs = parsedate_to_datetime(answer.header.get("Date", "")).timestamp()
    except (aiohttp.ClientError, OSError, ValueError) as problem:
        return skipped(name, f"{url}: Rspamd tells no time: {problem}", "Compare it yourself.")
    return clock(theirs - time.time())


def clock(ahead_s: float) -> Finding:
    """Whether scores are believed, whose time is Rspamd's.

    Args:
        ahead_s: seconds by which Rspamd's clock is ahead of ours.
    """
    name = "clock"
    text = f"Rspamd's is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} ours"
    advice = "Have both hosts set their clocks by NTP."
    if ahead_s > CLOCK_SKEW_S:
        return failed(
            name,
            f"{text}: scores from the future are not believed, no mail has a milter score",
            advice,
        )
    if abs(ahead_s) > CLOCK_OFF_S:
        return warning(name, text, advice)
    return ok(name, "Rspamd's and ours agree")


def learns(settings: RspamdSettings) -> list[Finding]:
    """Whether the controller lets us teach, and has statistics to be taught."""
    return asyncio.run(_learns(settings))


async def _learns(settings: RspamdSettings) -> list[Finding]:
    name, url = "rspamd learn", settings.learn_url
    try:
        client = RspamdClient(
            scan_url=url,
            learn_url=url,
            password=settings.password or None,
            classifier=settings.classifier,
            shared_classifier=settings.shared_classifier,
            timeout_s=TIMEOUT_S,
        )
    except ValueError:  # its text holds the password
        return [
            failed(name, "[rspamd] password cannot be sent in an HTTP header", "Choose another.")
        ]
    async with client as rspamd:
        try:
            await rspamd.ping()
        except RspamdError as problem:
            return [failed(name, str(problem), _START.format(key="learn_url"))]
        try:
            # Rspamd looks at the password first, and then refuses to learn nothing.
            await rspamd.learn_spam(b"", user=probe.USER)
            stat = await rspamd.stat()
        except RspamdMisconfigured as problem:
            return [
                failed(
                    name,
                    str(problem),
                    "Set [rspamd] password to the controller's enable_password, and learn_url to "
                    "the controller, by default on port 11334.",
                )
            ]
        except RspamdError as problem:
            return [failed(name, str(problem), "See Rspamd's own log.")]
        named = await _classifiers(rspamd, settings)
    way = "takes our password" if settings.password else "lets us teach without a password"
    symbols = [statfile.symbol for statfile in stat.statfiles]
    return [
        ok(name, f"{url}: {way}"),
        _version(url, stat.version),
        ok("rspamd statistics", f"{url}: {', '.join(symbols)}")
        if symbols
        else failed(
            "rspamd statistics",
            f"{url}: Rspamd has no classifier that could learn",
            "Define one for each user in local.d/classifier-bayes.conf: backend = redis, "
            "per_user = true.",
        ),
        *named,
    ]


async def _classifiers(rspamd: RspamdClient, settings: RspamdSettings) -> list[Finding]:
    """Whether Rspamd knows the names of the classifiers we teach.

    It looks for the classifier first, and then refuses the message for its lack of text.
    """
    name = "rspamd classifiers"
    both = {
        "classifier": (settings.classifier, probe.USER),
        "shared_classifier": (settings.shared_classifier, SHARED_USER),
    }
    for key, (classifier, user) in both.items():
        if not classifier:
            continue
        try:
            await rspamd.learn_spam(probe.MESSAGE, user=user)
        except RspamdError as problem:
            return [
                failed(
                    name,
                    f"[rspamd] {key} = {classifier!r}: {problem}",
                    f"Correct [rspamd] {key}, or the classifier's name in Rspamd's "
                    "local.d/statistic.conf.",
                )
            ]
    known = [classifier for classifier, _ in both.values() if classifier]
    return [ok(name, f"Rspamd knows {' and '.join(known)}")] if known else []


def _version(url: str, version: str) -> Finding:
    name = "rspamd version"
    if version in BROKEN_VERSIONS:
        return warning(
            name, f"{url}: Rspamd {version}: {BROKEN_VERSIONS[version]}", "Install a newer one."
        )
    if version_of(version) < OLDEST_TRIED:
        return warning(
            name,
            f"{url}: Rspamd {version}: older than any that mailhooks was tried with",
            "Upgrade to Rspamd 3.4 or newer.",
        )
    return ok(name, f"{url}: Rspamd {version}")


class Dump:
    """What ``rspamadm configdump`` prints: Rspamd's configuration as it will be at its next start.

    Args:
        command: ``rspamadm`` with its first arguments.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command

    @cached_property
    def tree(self) -> dict[str, Any]:
        """All of it.

        Raises:
            NotRunError: there is no such program here.
            WentWrongError: it failed.
        """
        try:
            tree = json.loads(output_of(self._command, "configdump", "-j"))
        except ValueError as problem:
            raise WentWrongError(f"{self._command[0]} printed no JSON") from problem
        return dict(tree)

    def sections(self, kind: str, name: str) -> list[dict[str, Any]]:
        """All sections ``kind "name" { ... }``."""
        found = self.tree.get(kind, [])
        blocks = found if isinstance(found, list) else [found]
        inner = [block[name] for block in blocks if isinstance(block, dict) and name in block]
        flat = [each for one in inner for each in (one if isinstance(one, list) else [one])]
        return [each for each in flat if isinstance(each, dict)]

    def milter_ports(self) -> frozenset[int]:
        """Where Rspamd's milter listens; none if that is not to be found out."""
        try:
            proxies = self.sections("worker", "rspamd_proxy")
        except (NotRunError, WentWrongError):
            return frozenset()
        ports = (
            str(address).rpartition(":")[2]
            for proxy in proxies
            if proxy.get("milter")
            for address in _listed(proxy.get("bind_socket"))
        )
        return frozenset(int(port) for port in ports if port.isdecimal())


def configuration(dump: Dump, settings: RspamdSettings, keys: KeyRing | None) -> list[Finding]:
    """Whether Rspamd's files say what mailhooks needs.

    Args:
        dump: all of them.
        settings: names the users' own classifier.
        keys: of the key file; one of them must have made the report's secret.
    """
    try:
        proxies = [each for each in dump.sections("worker", "rspamd_proxy") if each.get("milter")]
    except (NotRunError, WentWrongError) as problem:
        return [unknown("rspamd configuration", "Rspamd", "rspamadm", problem)]
    findings = [
        milter_pass(proxies, dump.tree.get("settings", {})),
        per_user(dump.sections("classifier", "bayes"), settings.classifier),
    ]
    if keys:
        custom = dump.tree.get("milter_headers", {}).get("custom", {})
        findings.append(report(str(custom.get("mailhooks", "")), keys))
    return findings


def milter_pass(proxies: Sequence[dict[str, Any]], settings: dict[str, Any]) -> Finding:
    """Whether Bayes is absent from the milter pass.

    Args:
        proxies: the workers that are milters.
        settings: the section of that name.
    """
    name = "rspamd milter pass"
    if not proxies:
        return skipped(
            name,
            "no worker of this Rspamd is a milter",
            "See for yourself that Postfix's first milter is an Rspamd with settings_id = "
            '"milter" in its worker-proxy.',
        )
    ids = {
        str(upstream.get("settings_id", ""))
        for proxy in proxies
        for upstream in proxy.get("upstream", {}).values()
        if isinstance(upstream, dict) and upstream.get("self_scan")
    }
    if not ids or "" in ids:
        return failed(
            name,
            "worker-proxy has no settings_id: Bayes judges for all recipients of a message by "
            "the first one's taste",
            'Set settings_id = "milter" in upstream "local" of local.d/worker-proxy.inc, and '
            "restart Rspamd.",
        )
    for wanted in sorted(ids):
        applied = [
            each.get("apply", {})
            for title, each in settings.items()
            if isinstance(each, dict) and each.get("id", title) == wanted
        ]
        if not any("statistics" in _listed(each.get("groups_disabled")) for each in applied):
            return failed(
                name,
                f"worker-proxy has settings_id = {wanted!r}, and no settings of that id turn off "
                "the group statistics: Bayes judges for all recipients by the first one's taste",
                'Set groups_disabled = ["statistics"] in local.d/settings.conf, and restart '
                "Rspamd.",
            )
    return ok(name, f"worker-proxy has settings_id = {', '.join(sorted(ids))}, Bayes is off")


def per_user(classifiers: Sequence[dict[str, Any]], classifier: str) -> Finding:
    """Whether the classifier we teach keeps statistics for each user.

    Args:
        classifiers: all there are.
        classifier: the name of the one of users; empty for the only one.
    """
    name = "rspamd per user"
    ours = [each for each in classifiers if not classifier or each.get("name") == classifier]
    if not ours:
        return failed(
            name,
            f"no classifier is named {classifier or 'bayes'}",
            'Define it in local.d/statistic.conf: classifier "bayes" { name = ...; per_user = '
            "true; }, and restart Rspamd.",
        )
    if not all(each.get("per_user") for each in ours):
        return failed(
            name,
            "the classifier has no per_user = true: everybody's training counts for everybody",
            "Set per_user = true in local.d/classifier-bayes.conf or local.d/statistic.conf, and "
            "restart Rspamd; what was learned before counts for nobody then.",
        )
    return ok(name, "per_user = true")


def report(script: str, keys: KeyRing) -> Finding:
    """Whether Rspamd signs its report with a secret that the milter believes.

    Args:
        script: the routine ``mailhooks`` of local.d/milter_headers.conf; empty if it is missing.
        keys: of the key file.
    """
    name = "rspamd report"
    match = re.search(r'local KEY = "(.*?)"', script)
    if not match:
        return failed(
            name,
            "milter_headers has no custom routine mailhooks: Rspamd does not tell our milter its "
            "score",
            "Install the local.d/milter_headers.conf of mailhooks, and restart Rspamd.",
        )
    owners = [key.key_id for key in keys.keys if key.report_secret() == match[1]]
    if not owners:
        return failed(
            name,
            "milter_headers signs with a secret of none of the keys: our milter believes no score",
            "Render local.d/milter_headers.conf again with the key file's first key, and restart "
            "Rspamd.",
        )
    if owners[0] != keys.signing.key_id:
        return warning(
            name,
            f"milter_headers signs with the secret of the old key {owners[0]}",
            "Render local.d/milter_headers.conf again with the key file's first key, and restart "
            "Rspamd, before the old one is removed.",
        )
    return ok(name, f"milter_headers signs with the secret of key {owners[0]}")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
