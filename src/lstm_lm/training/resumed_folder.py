"""The folder of a resumed run. It stays as it was until the first new state is saved.

If a setting or the machine fails before that, then settings, metrics, checkpoints and curves stay
as they were. If the run diverges before that, its summary says so, unless it was completed.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from lstm_lm.config import RunConfig
from lstm_lm.files import ESCAPE, atomic_file, link_atomically, write_atomically
from lstm_lm.saved.event_files import cut_back, event_files, sizes_at
from lstm_lm.saved.run_folder import RunFolder, Status, as_yaml
from lstm_lm.training.loggers import remove_backups, restore_backups


class ResumedFolder:
    """The folder of a resumed run; it is taken over by the first save, or put back.

    Args:
        before: the settings of the run before the resume.
        path: the checkpoint to resume from, if there is one.
        checkpoint: its content.
        summary: the summary in the folder.

    Raises:
        DamagedFile: if the checkpoint names files that are not TensorBoard's.
    """

    def __init__(
        self,
        folder: RunFolder,
        before: RunConfig,
        path: Path | None,
        checkpoint: dict[str, Any] | None,
        summary: dict[str, Any],
    ) -> None:
        self.folder, self.before, self.path, self.checkpoint = folder, before, path, checkpoint
        self.summary, self.summary_bytes = summary, folder.summary.read_bytes()
        self.event_files, self.sizes = event_files(folder.path), sizes_at(checkpoint)
        self.is_unchanged = True

    @contextlib.contextmanager
    def take_over(
        self, config: RunConfig, loggers: list[Logger], known: dict[str, Any]
    ) -> Iterator[None]:
        """Context manager in which a state is saved; then the folder belongs to the resumed run.

        Args:
            known: summary entries that the resume may have changed.
        """
        folder = self.folder
        if not (self.is_unchanged and folder.is_ours):
            yield
            return
        if self.path == folder.previous:
            link_atomically(folder.last, folder.previous)
        with atomic_file(folder.config) as settings:  # a full disk fails here
            settings.write_text(as_yaml(config), encoding="utf-8", errors=ESCAPE)
            yield
        self.is_unchanged = False
        cut_back(self.event_files, self.sizes, folder.path)
        remove_backups(loggers, folder.path)
        folder.values = without_results(folder.values) | known

    def sizes_after_take_over(self, sizes: dict[str, int]) -> dict[str, int]:
        """Sizes of TensorBoard's files, in bytes, without the parts that will be cut off."""
        if not self.is_unchanged:
            return sizes
        gone = {file.name for file in self.event_files} - self.sizes.keys()
        return {n: min(size, self.sizes.get(n, size)) for n, size in sizes.items() if n not in gone}

    def put_back(self, loggers: list[Logger], diverged_step: int | None) -> None:
        """Undo what was written, but record a divergence that would happen again.

        Args:
            diverged_step: the step at which the run diverged, if it would again.
        """
        folder = self.folder
        if not folder.is_ours:
            return
        for file in event_files(folder.path) - self.event_files:
            file.unlink()
        folder.values = self.summary
        if diverged_step is not None and self.summary["status"] != Status.completed:
            folder.record(status=Status.diverged.value, diverged_step=diverged_step)
        else:
            write_atomically(folder.summary, self.summary_bytes)
        restore_backups(loggers, folder.path)


def without_results(summary: dict[str, Any]) -> dict[str, Any]:
    """The summary without the entries that a resume makes untrue."""
    results = {"diverged_step", "reset_every", "stopped_early"}
    return {n: v for n, v in summary.items() if "/" not in n and n not in results}
