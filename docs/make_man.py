"""Write the synopsis and the options of docs/edge.1 anew from the command line's parser: `python -m docs.make_man`.

The rest of the page is written by hand.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from edge.cli.main import command_line

PAGE = Path(__file__).with_name("edge.1")


def made(page: str) -> str:
    """`page` with the sections that the parser says."""
    before, _, rest = page.partition(".SH SYNOPSIS\n")
    described, _, rest = rest.partition(".SH OPTIONS\n")
    after = rest[rest.index(".SH SIGNALS\n") :]
    commands = dict(_commands(command_line()))
    synopsis = "\n.br\n".join(_usage(name, parser) for name, parser in commands.items())
    described = described[described.index(".SH ") :]
    options = "\n".join(line for name, parser in commands.items() for line in _options(name, parser))
    own = """\
.TP
.B \\-\\-version
Show the versions of edge and of what it runs on.
.TP
.B \\-\\-help
Show the options of edge, or of a command after its name."""
    return f"{before}.SH SYNOPSIS\n{synopsis}\n{described}.SH OPTIONS\n{own}\n{options}\n{after}"


def _commands(parser: argparse.ArgumentParser, prefix: str = "edge") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command that does something, by its full name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from _commands(below, f"{prefix} {name}")
            return
    yield prefix, parser


def _usage(name: str, parser: argparse.ArgumentParser) -> str:
    parts = [_escaped(name)]
    for action in _listed(parser):
        if action.option_strings:
            parts.append(f"[{' '.join([_escaped(action.option_strings[-1]), *_value(action)])}]")
        else:
            shown = " ".join(_value(action))
            parts.append({"?": f"[{shown}]", "+": f"{shown} ..."}.get(str(action.nargs), shown))
    return ".B " + parts[0] + "\n" + " ".join(parts[1:])


def _options(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    listed = _listed(parser)
    if listed:
        yield f".SS {_escaped(name)}"
    for action in listed:
        yield ".TP"
        yield " ".join([f"\\fB{_escaped(option)}\\fR" for option in action.option_strings[-1:]] + _value(action))
        text = _escaped((action.help or "").replace("%%", "%"))
        yield f"{text[0].upper()}{text[1:]}." if text else "See above."


def _listed(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Options first, then arguments."""
    listed = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    return sorted(listed, key=lambda action: not action.option_strings)


def _value(action: argparse.Action) -> list[str]:
    """How the value of an option or argument is shown."""
    if action.nargs == 0:
        return []
    shown = "|".join(action.choices) if action.choices else action.metavar or action.dest.upper()
    return [f"\\fI{_escaped(str(shown))}\\fR"]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-")


if __name__ == "__main__":
    PAGE.write_text(made(PAGE.read_text()))
