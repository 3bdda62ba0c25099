"""The arguments of the client commands: where they may stand, and what of them no URL and no header takes."""

from __future__ import annotations

import pytest

from tests.cli.process import edge
from tests.faults.hub import HubProcess


@pytest.mark.parametrize("command", [("publish", "p"), ("trigger", "p", "job")])
async def test_an_argument_that_is_not_utf8_is_refused_in_words(hub: HubProcess, command: tuple[str, ...]) -> None:
    status, out, err = await edge(hub, *command, "\udcff")
    assert (1, "") == (status, out)
    assert "UTF-8" in err
    assert 1 == err.count("\n")


@pytest.mark.parametrize(
    "command",
    [
        ("status", "\udcff"),
        ("history", "\udcff"),
        ("explain", "\udcff"),
        ("subscribe", "\udcff"),
        ("subscribe", "p", "\udcff"),
        ("subscribe", "p", "--since", "\udcff"),
        ("publish", "\udcff", "x"),
        ("publish", "p", "x", "--type", "\udcff"),
        ("publish", "p", "x", "--key", "\udcff"),
        ("publish", "p", "x", "--key", "€"),
        ("publish", "p", "x", "--key", ""),
        ("publish", "p", "-", "--key", ""),
    ],
    ids=repr,
)
async def test_the_hub_refuses_in_words_what_no_url_or_header_takes(hub: HubProcess, command: tuple[str, ...]) -> None:
    status, out, err = await edge(hub, *command, given=b"x")
    assert (1, "") == (status, out)
    assert err.startswith("edge: 400: ")
    assert 1 == err.count("\n")


async def test_a_line_end_in_a_header_is_refused_and_a_secret_in_it_not_shown(hub: HubProcess) -> None:
    refused = "edge: there is a line end in what is sent as {}; remove it\n"
    assert (2, "", refused.format("Idempotency-Key")) == await edge(hub, "publish", "p", "x", "--key", "a\nb")
    assert (2, "", refused.format("Authorization")) == await edge(hub, "status", more={"EDGE_TOKEN": "a\nb"})


@pytest.mark.parametrize(
    "command",
    [
        ("publish", "p", "--type", "t", "--key", "k", "x"),
        ("publish", "--type", "t", "p", "x"),
        ("publish", "p", "--type=t", "--", "x"),
    ],
    ids=" ".join,
)
async def test_options_may_stand_between_arguments(hub: HubProcess, command: tuple[str, ...]) -> None:
    status, _, err = await edge(hub, *command)
    assert (0, "") == (status, err)
    _, printed, _ = await edge(hub, "history", "p")
    assert ["t", "x"] == printed.split()[1:]


@pytest.mark.parametrize("data", ["--final", "--url=http://127.0.0.1:1", "-x"])
async def test_behind_two_hyphens_everything_is_an_argument(hub: HubProcess, data: str) -> None:
    for command in (("publish", "--", "p", data), ("publish", "p", "--type", "message", "--", data)):
        assert 0 == (await edge(hub, *command))[0]
    _, printed, _ = await edge(hub, "history", "p")
    assert [data, data] == [line.split("\t")[2] for line in printed.splitlines()]


@pytest.mark.parametrize(
    "command", [("publish", "p", "x", "--type"), ("publish", "p", "x", "--finall"), ("serve", "x")]
)
async def test_a_mistyped_option_is_refused(hub: HubProcess, command: tuple[str, ...]) -> None:
    status, out, err = await edge(hub, *command)
    assert (2, "") == (status, out)
    assert command[-1] in err
