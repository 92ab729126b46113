"""Disks that are full or broken: at every single write of a run, one after the other."""

import errno
import io
import json
import os
import tempfile

import pytest

from lstm_lm.errors import RunFailed, SettingsError
from lstm_lm.experiment import train
from lstm_lm.resume import resume
from lstm_lm.saved.checkpoint_file import load_checkpoint

SETTINGS = "training.epochs=2", "checkpoint.every_steps=5", "model.dropout=0.2"


class Disk:
    """Counts what is written below a folder; from the write number ``fails_at`` on, all fail."""

    def __init__(self, patch, folder, number, lasts):
        self.folder, self.error, self.lasts = str(folder), number, lasts
        self.writes, self.fails_at = 0, -1
        self.opened = {}
        for module, name in (
            (os, "replace"),
            (os, "link"),
            (os, "truncate"),
            (os, "fsync"),
            (os, "mkdir"),
            (tempfile, "mkstemp"),
        ):
            patch.setattr(module, name, self.failing(getattr(module, name)))
        for module in io, __import__("builtins"):
            patch.setattr(module, "open", self.opening(open))

    def write(self):
        self.writes += 1
        over = self.writes - self.fails_at
        if self.fails_at >= 0 and (over == 0 or (over > 0 and self.lasts)):
            raise OSError(self.error, os.strerror(self.error))

    def failing(self, call):
        def checked(*arguments, **settings):
            self.write()
            return call(*arguments, **settings)

        return checked

    def opening(self, original):
        def opened(file, mode="r", *arguments, **settings):
            stream = original(file, mode, *arguments, **settings)
            if str(file).startswith(self.folder) and set(mode) & set("wax+"):
                return FailingStream(stream, self)
            return stream

        return opened


class FailingStream:
    def __init__(self, stream, disk):
        self.stream, self.disk = stream, disk

    def write(self, content):
        self.disk.write()
        return self.stream.write(content)

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.stream.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tmp_path_factory.mktemp("whole") / "run"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "lasts"),
    [(errno.ENOSPC, True), (errno.EIO, False)],
    ids=["full from then on", "broken for a moment"],
)
def test_a_write_error_anywhere_costs_no_more_than_the_time_since_the_last_checkpoint(
    number, lasts, tiny_run, tmp_path, whole, assert_same_end
):
    config = tiny_run(*SETTINGS)
    if not whole.exists():
        train(config, whole)
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch, tmp_path, number, lasts)
        train(config, tmp_path / "count")
    writes = disk.writes
    assert writes > 100
    # Every write up to the second checkpoint and from the last on, and some of those between.
    tried = sorted({*range(1, 40), *range(40, writes - 15, 17), *range(writes - 15, writes + 1)})
    reported = 0
    for fails_at in tried:
        folder = tmp_path / f"run_{fails_at}"
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch, tmp_path, number, lasts)
            disk.fails_at = fails_at
            try:
                train(config, folder)
            except (RunFailed, SettingsError) as error:
                assert os.strerror(number) in str(error)
                assert "cannot write to" in str(error) or "cannot continue" in str(error)
                reported += 1
        if not (folder / "config.yaml").exists():  # it had not even begun
            train(config, folder)
        else:
            for checkpoint in folder.glob("checkpoints/*.ckpt"):
                load_checkpoint(checkpoint)
            assert json.loads((folder / "summary.json").read_text())
            resume(folder, {})
        assert_same_end(whole, folder)
        assert not list(folder.rglob("*.unfinished"))
    assert reported > len(tried) / 2
