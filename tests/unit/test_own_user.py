"""What keeps other users out of a private Ray, as files on a disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import ray

from actors.own_user import private_directory, require_token
from s2l_ray import ray_bridge
from s2l_ray.errors import PlacementError


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "RAY_TMPDIR"):
        monkeypatch.setenv(name, "")  # so that what the code sets is taken back
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    yield
    monkeypatch.undo()
    ray_bridge.read_token_again()


def mode(path: Path) -> str:
    return oct(path.stat().st_mode & 0o777)


def token_in_use() -> str:
    return ray._raylet.AuthenticationTokenLoader.instance().get_raw_token()


def test_a_new_token_is_for_its_user_alone_and_stays(tmp_path):
    before = os.umask(0)
    try:
        require_token(pytest.fail)
    finally:
        os.umask(before)
    file = tmp_path / "home" / ".ray" / "auth_token"
    token = file.read_text()
    assert (mode(file), mode(file.parent), len(token)) == ("0o600", "0o700", 64)
    assert os.environ["RAY_AUTH_MODE"] == "token" and token_in_use() == token
    require_token(pytest.fail)
    assert file.read_text() == token


def test_a_token_that_others_can_read_is_closed_to_them_and_said(tmp_path):
    file = tmp_path / "home" / ".ray" / "auth_token"
    file.parent.mkdir(parents=True)
    file.write_text("7" * 64)
    file.chmod(0o644)
    notes = []
    require_token(notes.append)
    assert mode(file) == "0o600" and notes[0].startswith(f"others could read Ray's token in {file}")
    assert "7" * 64 not in notes[0] and token_in_use() == "7" * 64


def test_a_token_of_the_environment_is_taken_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "8" * 64)
    require_token(pytest.fail)
    assert token_in_use() == "8" * 64 and not (tmp_path / "home").exists()


def test_without_a_home_the_token_is_of_this_process(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    require_token(pytest.fail)
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64 and token_in_use() == os.environ["RAY_AUTH_TOKEN"]


def test_a_private_ray_asks_for_a_token_whatever_the_environment_says(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    notes = []
    require_token(notes.append)
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert notes == ["RAY_AUTH_MODE=disabled is not for a private Ray, which asks for a token"]


def test_the_directory_of_sessions_is_for_its_user_alone(tmp_path):
    for _ in range(2):
        sessions = private_directory()
        assert sessions == tmp_path / f"s2l-{os.geteuid()}" / "ray" and mode(sessions.parent) == "0o700"
        sessions.parent.chmod(0o777)  # the second time it is closed again


def test_a_directory_of_somebody_else_or_a_link_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    mine = tmp_path / f"s2l-{os.geteuid()}"
    mine.symlink_to("elsewhere")
    with pytest.raises(PlacementError, match=f"{mine} is not a directory of this user"):
        private_directory()
    mine.unlink()
    if os.geteuid() == 0:
        mine.mkdir()
        os.chown(mine, 65534, 65534)
        with pytest.raises(PlacementError, match="somebody else could reach into our Ray. Remove it, or set TMPDIR"):
            private_directory()
        mine.rmdir()
    mine.touch()
    with pytest.raises(PlacementError, match=f"{mine} cannot be made for Ray's sessions: File exists. Set TMPDIR"):
        private_directory()
