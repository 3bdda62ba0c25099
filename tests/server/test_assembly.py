"""What is made of what; that it works together, the other tests show."""

from __future__ import annotations

import pytest

from edge.server.assembly import proxy_for


def test_the_proxy_of_the_environment_is_read_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:1")
    monkeypatch.setenv("https_proxy", "http://proxy:2")
    monkeypatch.setenv("no_proxy", "internal.example,127.0.0.1")
    assert proxy_for("https://a.example/", None) is None
    assert "http://fixed:3" == proxy_for("https://internal.example/", "http://fixed:3")
    assert "http://proxy:2" == proxy_for("https://a.example/", "environment")
    assert "http://proxy:1" == proxy_for("http://a.example/", "environment")
    assert proxy_for("https://user:secret@internal.example:8443/", "environment") is None
