"""What the daemon of a lab says over HTTP."""

from __future__ import annotations

import http.client
import socket
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from mailhooks.lab import Lab

Series = tuple[str, frozenset[tuple[str, str]]]


def get(lab: Lab, path: str) -> tuple[int, str]:
    """Status and body of what the daemon answers on its socket."""
    connection = http.client.HTTPConnection("localhost")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(lab.root / "run/mailhooks/metrics.sock"))
        connection.sock = sock
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        return response.status, response.read().decode()


def scrape(lab: Lab) -> dict[Series, float]:
    """Every series of ours."""
    status, text = get(lab, "/metrics")
    assert status == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("mailhooks_")
    }


def series(name: str, **labels: str) -> Series:
    return name, frozenset(labels.items())
