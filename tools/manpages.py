"""The manual pages, made of the commands' own help and of docs/: manpages FOLDER.

A page a command, as doveadm and git have them, mailcfg(1), mailhooks.toml(5), and the pages of
docs/ that an administrator looks up at a terminal. Nothing is written twice: who mends a help
text or a page of docs/ mends the manual. tools/build_man.py has them made with every wheel.
"""

from __future__ import annotations

import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from markdown_it import MarkdownIt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[1]

TOPICS = {
    "settings": ("mailhooks.toml", 5, "settings of mailhooks"),
    "hooks": ("mailhooks-hooks", 7, "what Dovecot's Sieve and mailhooks say to each other"),
    "metrics": ("mailhooks-metrics", 7, "what mailhooks counts, and when to be alarmed"),
    "operating": ("mailhooks-operating", 7, "files, services, logs, keys, backup and upgrade"),
    "training": ("mailhooks-training", 7, "what teaches mailhooks, and training by hand"),
    "verdict": ("mailhooks-verdict", 7, "from scores to a verdict"),
}
"""Pages of docs/ that are a page of the manual: its name, section and what it is."""

COMMANDS = {
    "doctor": "mailhooks-doctor",
    "explain": "mailhooks-explain",
    "lmtp": "mailhooks-lmtp",
    "accounts": "mailcfg",
}
"""Pages of docs/ that go on where a command's help ends: the command's page."""

SEE_ALSO = {
    "mailcfg": ("mailhooks.toml(5)", "doveadm-pw(1)", "virtual(5)"),
    "mailhooks-install-hooks": ("mailhooks-hooks(7)",),
    "mailhooks-key": ("mailhooks-verdict(7)", "mailhooks-operating(7)"),
    "mailhooks-learn": ("mailhooks-retrain(1)", "mailhooks-training(7)"),
    "mailhooks-milter": ("mailhooks-verdict(7)", "mailhooks-key(1)"),
    "mailhooks-queue": ("mailhooks-training(7)",),
    "mailhooks-reconcile": ("mailhooks-retrain(1)", "mailhooks-training(7)"),
    "mailhooks-retrain": ("mailhooks-learn(1)", "mailhooks-training(7)", "doveadm(1)"),
    "mailhooks-serve": ("mailhooks-hooks(7)", "mailhooks-metrics(7)", "mailhooks-operating(7)"),
    "mailhooks-setup": ("mailhooks-doctor(1)", "mailhooks-operating(7)"),
    "mailhooks-stats": ("mailhooks-explain(1)", "mailhooks-tune(1)", "mailhooks-training(7)"),
    "mailhooks-tune": ("mailhooks-explain(1)", "mailhooks-stats(1)"),
}

LONG_CHARS = 60

ALWAYS = ("mailhooks(1)", "mailhooks.toml(5)")


@dataclass(frozen=True, slots=True)
class Page:
    """One page: `name` and `section` as in man(1), and its text in the macros of man(7)."""

    name: str
    section: int
    text: str

    @property
    def file(self) -> str:
        """Where it belongs below share/man."""
        return f"man{self.section}/{self.name}.{self.section}"


def pages() -> list[Page]:
    """All pages of the manual."""
    from mailhooks.cli import main
    from mailhooks.cli.mailcfg import main as mailcfg

    found = [_overview(main)]
    context = click.Context(main, info_name="mailhooks", **main.context_settings)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None  # noqa: S101 - the list is the command's own
        found.append(_of_command(command, click.Context(command, parent=context, info_name=name)))
    found.append(
        _of_command(
            mailcfg, click.Context(mailcfg, info_name="mailcfg", **mailcfg.context_settings)
        )
    )
    return found + [_of_topic(stem) for stem in TOPICS]


def _page(name: str, section: int, what: str, body: str, see: Sequence[str]) -> Page:
    from mailhooks import __version__

    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    date = time.strftime("%Y-%m-%d", time.gmtime(epoch))
    references = [each for each in see if each != f"{name}({section})"]
    text = (
        f'.TH {_code(name.upper())} {section} {date} "mailhooks {__version__}" mailhooks\n'
        # What is to be typed must not be broken up.
        ".nh\n.ad l\n"
        f".SH NAME\n{_code(name)} \\- {_plain(what)}\n{body}"
        f".SH SEE ALSO\n{_references(references)}\n"
    )
    # A heading begins a paragraph.
    return Page(name, section, re.sub(r"^(\.S[HS] .*\n)\.PP\n", r"\1", text, flags=re.MULTILINE))


def _references(names: Sequence[str]) -> str:
    return ",\n".join(_reference(each) for each in dict.fromkeys(names))


def _reference(name: str) -> str:
    page, _, section = name.partition("(")
    return f"\\fB{_code(page)}\\fR({section}"


# Commands


def _overview(main: click.Group) -> Page:
    """mailhooks(1): what it is, and the list of the others."""
    context = click.Context(main, info_name="mailhooks", **main.context_settings)
    readme = _sections("README.md")
    lines = [_synopsis(main, context), ".SH DESCRIPTION\n"]
    lines.append(_blocks(readme[""], "README.md"))
    lines.append(_blocks(readme["A message's way"], "README.md"))
    lines.append(_options(main, context))
    lines.append(".SH COMMANDS\n")
    others = []
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None  # noqa: S101 - the list is the command's own
        reference = f"mailhooks-{name}(1)"
        lines.append(f".TP\n{_reference(reference)}\n{_plain(_first_sentence(command))}.\n")
        others.append(reference)
    lines.append(".SH FILES\n" + _blocks(_sections("docs/operating.md")["Files"], "operating.md"))
    others += [f"{name}({section})" for name, section, _ in TOPICS.values()]
    return _page("mailhooks", 1, _first_sentence(main), "".join(lines), [*others, "mailcfg(1)"])


def _of_command(command: click.Command, context: click.Context) -> Page:
    """A page about one command and those below it."""
    name = context.command_path.replace(" ", "-")
    lines = [_synopsis(command, context), ".SH DESCRIPTION\n", _help(command)]
    doc = next((stem for stem, page in COMMANDS.items() if page == name), "")
    sections = _sections(f"docs/{doc}.md") if doc else {}
    if sections:
        lines.append(_blocks(sections.pop(""), f"{doc}.md"))
    lines.append(_options(command, context))
    if isinstance(command, click.Group):
        lines.append(".SH COMMANDS\n")
        # The page of docs/ has a table of the commands; here each is explained.
        tokens = sections.pop("Commands", [])
        table = [at for at, token in enumerate(tokens) if token.type == "table_close"]
        lines.append(_blocks(tokens[table[0] + 1 :] if table else (), f"{doc}.md"))
        shared: set[str | None] = {param.name for param in command.get_params(context)}
        for each in command.list_commands(context):
            below = command.get_command(context, each)
            assert below is not None  # noqa: S101 - the list is the command's own
            inner = click.Context(below, parent=context, info_name=each)
            lines += [f".SS {_code(inner.command_path)}\n", _usage(below, inner), _help(below)]
            lines += [_option_list(below, inner, shared), _example(below)]
    else:
        lines.append(_example(command, heading=True))
    for title, tokens in sections.items():
        lines.append(f".SH {_plain(title).upper()}\n{_blocks(tokens, f'{doc}.md')}")
    what = _first_sentence(command)
    see = [*SEE_ALSO.get(name, ()), *ALWAYS]
    return _page(name, 1, what, "".join(lines), see)


def _synopsis(command: click.Command, context: click.Context) -> str:
    return ".SH SYNOPSIS\n" + _usage(command, context)


def _usage(command: click.Command, context: click.Context) -> str:
    pieces = " ".join(f"\\fI{_code(each)}\\fR" for each in command.collect_usage_pieces(context))
    return f"\\fB{_code(context.command_path)}\\fR {pieces}\n"


def _first_sentence(command: click.Command) -> str:
    """What a command does, as whatis(1) shows it."""
    paragraph = " ".join((command.help or "").split("\n\n")[0].split())
    sentence = paragraph.partition(". ")[0].removesuffix(".")
    return sentence[:1].lower() + sentence[1:]


def _help(command: click.Command) -> str:
    return "".join(
        f".PP\n{_ticked(' '.join(each.split()))}\n" for each in (command.help or "").split("\n\n")
    )


def _ticked(text: str) -> str:
    """Help texts have no markup but backticks."""
    parts = text.split("`")
    marked = (f"\\fB{_code(part)}\\fR" if n % 2 else _plain(part) for n, part in enumerate(parts))
    return "".join(marked)


def _options(command: click.Command, context: click.Context) -> str:
    return ".SH OPTIONS\n" + _option_list(command, context, set())


def _option_list(command: click.Command, context: click.Context, without: set[str | None]) -> str:
    lines: list[str] = []
    for param in command.get_params(context):
        record = param.get_help_record(context)
        # The help texts explain arguments.
        if record is None or param.name in without or isinstance(param, click.Argument):
            continue
        flags, _, metavar = record[0].partition(" ") if "," not in record[0] else _spread(record[0])
        value = f" \\fI{_code(metavar)}\\fR" if metavar else ""
        lines.append(f".TP\n\\fB{_code(flags)}\\fR{value}\n{_plain(' '.join(record[1].split()))}\n")
    return "".join(lines)


def _spread(flags: str) -> tuple[str, str, str]:
    """``-u, --user USER`` apart, as ``str.partition`` would."""
    short, _, rest = flags.rpartition(", ")
    long, _, metavar = rest.partition(" ")
    return f"{short}, {long}", " ", metavar


def _example(command: click.Command, *, heading: bool = False) -> str:
    text = (command.epilog or "").removeprefix("Example: ")
    if not text:
        return ""
    intro = ".SH EXAMPLE\n" if heading else ".PP\nExample:\n"
    return f"{intro}.PP\n.RS 4\n{_code(text)}\n.RE\n"


# Pages of docs/


def _of_topic(stem: str) -> Page:
    name, section, what = TOPICS[stem]
    sections = _sections(f"docs/{stem}.md")
    lines = [".SH DESCRIPTION\n", _blocks(sections.pop(""), f"{stem}.md")]
    for title, tokens in sections.items():
        # A section of the settings file keeps its name as it is written there.
        shown = _code(title) if title.startswith("[") else _plain(title).upper()
        lines.append(f".SH {shown}\n{_blocks(tokens, f'{stem}.md')}")
    return _page(name, section, what, "".join(lines), ALWAYS)


def _sections(path: str) -> dict[str, list[Token]]:
    """A page's tokens by its second-level headings; those before the first one under ``""``."""
    text = (ROOT / path).read_text(encoding="utf-8")
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    sections: dict[str, list[Token]] = {"": []}
    title, at = "", 0
    while at < len(tokens):
        token = tokens[at]
        if token.type == "heading_open" and token.tag in ("h1", "h2"):
            if token.tag == "h2":
                title = tokens[at + 1].content.replace("`", "")
                sections[title] = []
            at += 3
            continue
        sections[title].append(token)
        at += 1
    return sections


def _blocks(tokens: Sequence[Token], page: str) -> str:
    """Tokens of Markdown as text for man(7)."""
    lines: list[str] = []
    lists: list[str] = []
    fresh = False  # at the start of a list's item, whose first paragraph needs no break
    walk = iter(tokens)
    for token in walk:
        match token.type:
            case "heading_open":
                lines.append(f".SS {_inline(next(walk), page)}\n")
                next(walk)
            case "bullet_list_open" | "ordered_list_open":
                if lists:
                    lines.append(".RS 4\n")
                lists.append("\\(bu 2" if token.type.startswith("bullet") else "1. 4")
            case "bullet_list_close" | "ordered_list_close":
                lists.pop()
                # What follows is no part of the last item.
                lines.append(".RE\n" if lists else "")
            case "list_item_open":
                lines.append(f".IP {lists[-1]}\n".replace("1. 4", f"{token.info or 1}. 4"))
                fresh = True
            case "inline":
                text = _inline(token, page)
                before = "" if fresh else ".IP\n" if lists else ".PP\n"
                lines.append(f"{before}{text}\n")
                fresh = False
            case "fence" | "code_block":
                lines.append(_literal(token.content))
            case "table_open":
                lines.append(_table(walk, page))
            case "paragraph_open" | "paragraph_close" | "list_item_close":
                pass
            case other:
                raise ValueError(f"{page}: no idea how to show {other} in a manual page")
    return "".join(lines)


def _literal(text: str) -> str:
    lines = (_code(line) if line else "\\&" for line in text.rstrip("\n").split("\n"))
    return ".PP\n.RS 4\n.nf\n{}\n.fi\n.RE\n".format("\n".join(map(_no_request, lines)))


def _table(walk: Iterator[Token], page: str) -> str:
    """A table as a list: terminals are narrow, and its last column is mostly prose."""
    rows: list[list[str]] = []
    for token in walk:
        if token.type == "table_close":
            break
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            rows[-1].append(_inline(token, page))
    heads, *body = rows
    lines: list[str] = []
    two_columns = 2
    if len(heads) == two_columns and any(heads):
        lines.append(f".TP\n\\fI{heads[0]}\\fR\n\\fI{heads[1]}\\fR\n")
    for row in body:
        tag, *cells = row
        if heads[1] == "default":
            tag += f" = {cells.pop(0)}"
            cells = [": ".join(cells)]
        elif len(heads) > two_columns:
            cells = [
                cell if not cell or head in ("what", "what it does") else f"\\fI{head}\\fR: {cell}"
                for head, cell in zip(heads[1:], cells, strict=True)
            ]
        text = "\n.br\n".join(filter(None, cells))
        lines.append(".TP\n{}\n{}\n".format(tag or "\\&", text or "\\&"))
    return "".join(lines)


def _inline(token: Token, page: str) -> str:
    """A run of text with its marks."""
    out: list[str] = []
    fonts = ["R"]
    link: list[tuple[str, int]] = []

    def font(name: str | None) -> None:
        fonts.append(name) if name else fonts.pop()
        out.append(f"\\f{fonts[-1]}")

    for child in token.children or ():
        match child.type:
            case "text":
                out.append(_plain(child.content))
            case "code_inline":
                out.append(f"\\fB{_breakable(_code(child.content))}\\f{fonts[-1]}")
            case "softbreak" | "hardbreak":
                out.append("\n")
            case "strong_open":
                font("B")
            case "em_open":
                font("I")
            case "strong_close" | "em_close":
                font(None)
            case "link_open":
                link.append((str(child.attrs["href"]), len(out)))
            case "link_close":
                href, began = link.pop()
                out[began:] = [_link(href, "".join(out[began:]), page)]
            case "image":
                out.append(_plain(child.content))
            case other:
                raise ValueError(f"{page}: no idea how to show {other} in a manual page")
    return "\n".join(map(_no_request, "".join(out).split("\n")))


def _link(href: str, text: str, page: str) -> str:
    """Where a link leads, as a reader at a terminal can follow it."""
    file = href.partition("#")[0].rpartition("/")[2]
    stem = file.removesuffix(".md")
    if "://" in href:
        return f"{text} <{_code(href)}>"
    if not file or file == page:
        return text
    if stem in TOPICS:
        name, section, _ = TOPICS[stem]
    elif stem in COMMANDS:
        name, section = COMMANDS[stem], 1
    else:
        path = href.partition("#")[0].removeprefix("../")
        path = path if "/" in href else f"docs/{path}"
        return f"{text} ({_code(path)})"
    target = _reference(f"{name}({section})")
    # "see [settings](settings.md)" names the page and nothing else.
    bare = re.sub(r"\\f.|\\", "", text).removesuffix(".md")
    return target if bare == stem else f"{text} ({target})"


# Characters


def _code(text: str) -> str:
    """Text that is to be typed or pasted as it stands."""
    for char, escape in (
        ("\\", "\\e"),
        ("-", "\\-"),
        ("'", "\\(aq"),
        ('"', "\\(dq"),
        ("`", "\\(ga"),
        ("^", "\\(ha"),
        ("~", "\\(ti"),
    ):
        text = text.replace(char, escape)
    return text


def _breakable(code: str) -> str:
    """Code that is longer than a line may go on in the next one behind a slash."""
    return re.sub(r"/(?=[^/])", r"/\\:", code) if len(code) > LONG_CHARS else code


def _plain(text: str) -> str:
    """Prose; a hyphen that begins an option is no hyphen."""
    text = text.replace("\\", "\\e").replace('"', "\\(dq").replace("~", "\\(ti")
    return re.sub(r"(?<!\w)-+(?=\w)", lambda found: found[0].replace("-", "\\-"), text)


def _no_request(line: str) -> str:
    """A line that roff does not take for a command."""
    return f"\\&{line}" if line.startswith((".", "'")) else line


def write(folder: Path, say: Callable[[str], object] = str) -> None:
    """Make all pages below a folder, as below share/man."""
    for page in pages():
        path = folder / page.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page.text, encoding="utf-8")
        say(str(path))


if __name__ == "__main__":
    if len(sys.argv) != 2:  # noqa: PLR2004
        raise SystemExit(__doc__)
    sys.path.insert(0, str(ROOT / "src"))
    write(Path(sys.argv[1]), print)
