"""How a job stands: by what its process tells while it runs, by its run's folder otherwise."""

import contextlib

from lstm_lm.comparison.results import read_run
from lstm_lm.errors import DamagedFile
from lstm_lm.sweep.processes import JobProcess
from lstm_lm.sweep.sweep_folder import Job, SweepFolder
from lstm_lm.sweep.table import Row


def row_of_process(process: JobProcess) -> Row:
    progress = process.progress()
    row = Row(process.job.name, "running", seconds=process.seconds)
    if progress:
        row.epoch = progress["epoch"]
        row.perplexity = progress["validation/perplexity"] or progress["train/perplexity"]
        row.tokens_per_second = progress["tokens_per_second"]
        done = progress["share"] - (process.share_at_start or 0.0)
        if done > 0:
            row.seconds_left = process.seconds * (1 - progress["share"]) / done
    return row


def row_of_folder(folder: SweepFolder, job: Job) -> Row:
    row = Row(job.name, job.status)
    with contextlib.suppress(DamagedFile):
        if folder.run_folder(job).holds_a_run():
            summary = folder.run_folder(job).read_summary()
            row.epoch = summary["epochs"]
            row.perplexity = summary.get("best/validation/perplexity")
            if row.perplexity is None:  # so its curves must be read
                row.perplexity = read_run(folder.run_folder(job)).so_far
            row.tokens_per_second = summary.get("tokens_per_second")
            row.seconds = summary["seconds"]
    return row
