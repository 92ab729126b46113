"""The folder of a run that goes on. It stays as it was until the first new state is saved.

Whatever fails before that, a setting or the machine, leaves settings, figures, checkpoints and
curves as they were found. A run that diverges there says so, unless it was completed before.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from lstm_lm.config import RunConfig
from lstm_lm.files import ESCAPE, replace_by_link, whole_or_absent, write_whole
from lstm_lm.saved.event_files import cut_back, event_files, sizes_at
from lstm_lm.saved.run_folder import RunFolder, Status, as_yaml
from lstm_lm.training.loggers import forget_kept_rows, put_rows_back


class ResumedFolder:
    """
    Args:
        before: the settings with which its checkpoint was written.
        path: the checkpoint to go on from, if there is one.
        checkpoint: what it holds.
        summary: as the folder has it.

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
        self.is_as_found = True

    @contextlib.contextmanager
    def taking_over(
        self, config: RunConfig, loggers: list[Logger], known: dict[str, Any]
    ) -> Iterator[None]:
        """Once a state is saved in this block, the folder is that of the run as it goes on.

        Args:
            known: of what it goes on with, for the summary.
        """
        folder = self.folder
        if not (self.is_as_found and folder.is_ours):
            yield
            return
        if self.path == folder.previous:
            replace_by_link(folder.last, folder.previous)
        with whole_or_absent(folder.config) as settings:  # a full disk shows itself here
            settings.write_text(as_yaml(config), encoding="utf-8", errors=ESCAPE)
            yield
        self.is_as_found = False
        cut_back(self.event_files, self.sizes, folder.path)
        forget_kept_rows(loggers, folder.path)
        folder.values = without_results(folder.values) | known

    def when_taken_over(self, sizes: dict[str, int]) -> dict[str, int]:
        """The sizes of TensorBoard's files, without what will be cut off."""
        if not self.is_as_found:
            return sizes
        gone = {file.name for file in self.event_files} - self.sizes.keys()
        return {n: min(size, self.sizes.get(n, size)) for n, size in sizes.items() if n not in gone}

    def put_back(self, loggers: list[Logger], diverged_step: int | None) -> None:
        """Undo what was written, but for why it can't go on, where that would come again.

        Args:
            diverged_step: where it diverged, if it would again.
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
            write_whole(folder.summary, self.summary_bytes)
        put_rows_back(loggers, folder.path)


def without_results(summary: dict[str, Any]) -> dict[str, Any]:
    """What stays true of a run that goes on."""
    results = {"diverged_step", "reset_every", "stopped_early"}
    return {n: v for n, v in summary.items() if "/" not in n and n not in results}
