"""The documentation is true as far as a program can tell."""

from __future__ import annotations

import ast
import importlib
import json
import re
from pathlib import Path
from typing import get_type_hints

import click
import msgspec
import prometheus_client
import pytest
from prometheus_client.metrics import MetricWrapperBase

from mailhooks.cli import main
from mailhooks.config import Settings

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def documented() -> dict[str, dict[str, str]]:
    """Sections, keys and defaults as docs/settings.md has them."""
    found: dict[str, dict[str, str]] = {}
    for part in re.split(r"^## `\[", SETTINGS, flags=re.MULTILINE)[1:]:
        rows = re.findall(r"^\| `(\w+)` \| `(.*?)` \|", part, flags=re.MULTILINE)
        found[part.partition("]")[0]] = dict(rows)
    return found


def test_every_setting_is_documented_with_its_default() -> None:
    """No setting is missing from the page, none there does not exist, and defaults agree."""
    actual = {
        section: {
            field.name: msgspec.json.encode(
                field.default_factory() if field.default is msgspec.NODEFAULT else field.default,
                enc_hook=str,
            ).decode()
            for field in msgspec.structs.fields(kind)
        }
        for section, kind in get_type_hints(Settings).items()
    }
    assert {
        section: {key: value.replace(", ", ",") for key, value in keys.items()}
        for section, keys in documented().items()
    } == actual


def test_every_metric_is_documented_with_its_type_and_labels() -> None:
    """No metric is missing from the page, and none there does not exist."""
    importlib.import_module("mailhooks.daemon.service")  # imports all that counts
    actual = {
        metric._name + ("_total" if metric._type == "counter" else ""): (
            metric._type,
            list(metric._labelnames),
        )
        for metric in prometheus_client.REGISTRY._collector_to_names
        if isinstance(metric, MetricWrapperBase) and metric._name.startswith("mailhooks_")
    }
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(mailhooks_\w+)` \| (\w+) \| (.*?) \|", text, flags=re.MULTILINE)
    assert {name: (kind, re.findall(r"`(\w+)`", labels)) for name, kind, labels in rows} == actual


def test_every_value_of_a_label_is_documented() -> None:
    """Whoever writes an alert finds on the page what it may ask for."""
    importlib.import_module("mailhooks.daemon.service")
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    for metric in prometheus_client.REGISTRY.collect():
        if metric.name.startswith("mailhooks_"):
            for sample in metric.samples:
                for label, value in sample.labels.items():
                    # Whoever starts a script server names its program.
                    assert label in ("program", "le") or f"`{value}`" in text, (sample.name, value)


def test_alerts_ask_for_metrics_that_exist() -> None:
    """An alert on a misspelt name would never fire."""
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    tables, _, alerts = text.partition("## Alerts")
    documented_names = set(re.findall(r"^\| `(mailhooks_\w+)`", tables, flags=re.MULTILINE))
    asked = {name.removesuffix("_bucket") for name in re.findall(r"mailhooks_\w+", alerts)}
    assert asked
    assert asked <= documented_names


def test_the_dashboard_asks_for_metrics_and_labels_that_exist() -> None:
    """Every panel shows something: its metrics, labels and values are those of the page."""
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(mailhooks_\w+)` \| \w+ \| (.*?) \|", text, flags=re.MULTILINE)
    labels = {name: set(re.findall(r"`(\w+)`", cell)) for name, cell in rows}
    dashboard = json.loads((ROOT / "contrib/grafana/mailhooks.json").read_text(encoding="utf-8"))
    asked = set()
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            metrics = re.findall(r"[a-z_]+(?=\{)", target["expr"])
            assert metrics, target["expr"]
            for metric in metrics:
                if metric.startswith("process_"):
                    continue  # prometheus-client's own
                name = metric.removesuffix("_bucket")
                by = re.search(r"by \((.*?)\)", target["expr"])
                grouped = set(by[1].split(", ")) - {"le"} if by else set()
                assert grouped <= labels[name], target["expr"]
                assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= grouped
                asked.add(name)
    assert asked == set(labels)  # and none is forgotten


def commands(command: click.Command, path: str) -> list[str]:
    """Every command below one, by its whole name."""
    if not isinstance(command, click.Group):
        return [path]
    context = click.Context(command)
    found: list[str] = []
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        assert below is not None
        found += commands(below, f"{path} {name}")
    return found


@pytest.mark.parametrize("name", commands(main, "mailhooks"))
def test_every_command_is_documented(name: str) -> None:
    """Somebody who reads only the documentation knows of each command."""
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert name in text or (name == "mailhooks lab demo" and "make demo" in text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file that is there."""
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_modules_and_names_of_the_library_page_exist() -> None:
    """What docs/library.md offers can be imported as it says."""
    text = (ROOT / "docs/library.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(mailhooks\.\w+)` \| (.*) \|$", text, flags=re.MULTILINE)
    assert len(rows) > 5
    for module, names in rows:
        for name in re.findall(r"`(\w+)`", names):
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


def names_of_findings() -> set[str]:
    """What the doctor calls its findings: variables of that name, constants, first arguments."""
    variables = {"name", "names", "leaving", "arriving", "NAME", "CLASSIFY", "LEARN"}
    variables |= {"MILTER", "LMTP"}
    makers = {"Check", "ok", "warning", "failed", "skipped", "script", "unknown", "_is_folder"}
    makers |= {"writable", "space", "file_system", "_delivered"}
    values: list[ast.expr] = []
    for path in (ROOT / "src/mailhooks/doctor").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = list(zip(target.elts, node.value.elts, strict=True))
                else:
                    pairs = [(target, node.value)]
                values += [v for t, v in pairs if isinstance(t, ast.Name) and t.id in variables]
            elif isinstance(node, ast.Call) and node.args:
                if getattr(node.func, "id", getattr(node.func, "attr", "")) in makers:
                    values.append(node.args[0])
            elif isinstance(node, ast.For):
                # A tuple for each step, its name first.
                rows = node.iter.elts if isinstance(node.iter, ast.Tuple) else []
                values += [row.elts[0] for row in rows if isinstance(row, ast.Tuple)]
    parts = [part for v in values for part in (v.elts if isinstance(v, ast.Tuple) else [v])]
    texts = [part.value for part in parts if isinstance(part, ast.Constant)]
    return {text for text in texts if isinstance(text, str) and re.fullmatch(r"[a-z -]{4,}", text)}


def test_every_finding_of_the_doctor_is_documented() -> None:
    """No finding is missing from the page, and none there does not exist."""
    text = (ROOT / "docs/doctor.md").read_text(encoding="utf-8")
    tables = re.findall(r"^\| finding \|.*\n.*\n((?:\|.*\n)+)", text, flags=re.MULTILINE)
    rows = [row for table in tables for row in re.findall(r"^\| (.*?) \|", table, re.MULTILINE)]
    listed = {name for row in rows for name in row.split(", ")}
    assert listed == names_of_findings()
