"""Files over HTTP from a server on this machine that can misbehave."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lstm_lm.data.download import KnownFile, data_root, fetch
from lstm_lm.errors import SettingsError

CONTENT = b"the time machine" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ERROR_PAGE = b'<?xml version="1.0"?><Error><Code>PermanentRedirect</Code></Error>'


class Mirror(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/missing":
            self.send_error(404)
            return
        content = ERROR_PAGE if self.path == "/error-page" else CONTENT
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:100] if self.path == "/cut" else content)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def mirror():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def known(*mirrors):
    return KnownFile("books/text.txt", SHA256, mirrors)


def test_a_file_is_fetched_once_and_kept(mirror, tmp_path):
    assert fetch(known(f"{mirror}/good"), tmp_path) == CONTENT
    assert fetch(known(), tmp_path) == CONTENT
    assert [path.name for path in (tmp_path / "books").iterdir()] == ["text.txt"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("error-page", f"sent {len(ERROR_PAGE)} bytes that are not this file"),
        ("cut", "IncompleteRead"),
        ("missing", "404"),
    ],
)
def test_what_is_not_the_file_is_not_kept(mirror, tmp_path, path, reason):
    with pytest.raises(SettingsError, match=reason) as error:
        fetch(known(f"{mirror}/{path}"), tmp_path)
    assert str(tmp_path / "books/text.txt") in str(error.value)
    assert SHA256 in str(error.value)
    assert not list(tmp_path.iterdir())


def test_the_next_mirror_helps_out(mirror, tmp_path):
    bad = [f"{mirror}/{path}" for path in ("error-page", "cut", "missing")]
    assert fetch(known(*bad, f"{mirror}/good"), tmp_path) == CONTENT


def test_without_a_network_the_message_says_where_to_put_the_file(tmp_path):
    with pytest.raises(SettingsError, match="put the file with SHA-256") as error:
        fetch(known("http://127.0.0.1:9/text.txt"), tmp_path)
    assert "Connection refused" in str(error.value)


def test_another_file_in_its_place_is_neither_used_nor_overwritten(mirror, tmp_path):
    path = tmp_path / "books/text.txt"
    path.parent.mkdir()
    path.write_text("my own notes")
    with pytest.raises(SettingsError, match="is not the expected file"):
        fetch(known(f"{mirror}/good"), tmp_path)
    assert path.read_text() == "my own notes"


def test_a_data_folder_that_cannot_be_made_is_named(mirror, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="choose another data.root"):
        fetch(known(f"{mirror}/good"), tmp_path / "file")


def test_the_data_folder_is_the_setting_then_the_environment_then_a_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("LSTM_LM_DATA", raising=False)
    assert data_root(None) == tmp_path / "lstm_lm"
    monkeypatch.setenv("LSTM_LM_DATA", str(tmp_path / "texts"))
    assert data_root(None) == tmp_path / "texts"
    assert data_root(str(tmp_path / "mine")) == tmp_path / "mine"
