"""Where the command begins, before anything is imported."""

import pytest

from diffguide.eval import cli, entry


def test_an_interruption_while_the_command_starts_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", interrupted)
    assert entry.main() == 130
    assert capsys.readouterr().err == "diffguide: interrupted\n"
