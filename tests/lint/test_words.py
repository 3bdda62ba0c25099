from __future__ import annotations

import pytest

from tests.lint.words import LIST, find, read_words

WORDS = read_words("[forbidden]\nlobby    accept\nin silence    silently\n")


@pytest.mark.parametrize(
    "text", ["a lobby", "lobby_size", "Lobby", "LobbyFull", "TheLobby", "_in_lobby", "in silence", "In\n# silence"]
)
def test_a_word_is_found_alone_in_identifiers_and_over_lines(text: str) -> None:
    assert ["a.py:1"] == [f"{hit.path}:{hit.line}" for hit in find(WORDS, "a.py", text)]


@pytest.mark.parametrize("text", ["lobbyist", "hlobby", "within silence", "in silences"])
def test_parts_of_other_words_are_left_alone(text: str) -> None:
    assert [] == list(find(WORDS, "a.py", text))


def test_the_list_says_what_to_write_instead() -> None:
    words = read_words(LIST.read_text())
    assert {"forbidden", "pending"} >= {word.section for word in words}
    assert all(word.instead and word.pattern for word in words)
