"""Readable names of job folders, such as 003_h256_lr0.3."""

import contextlib
import re
from collections.abc import Sequence

SHORT = {
    "data.batch_size": "b",
    "data.num_steps": "t",
    "model.embedding_size": "e",
    "model.hidden_size": "h",
    "model.num_layers": "layers",
    "optimizer.clip_norm": "clip",
    "optimizer.learning_rate": "lr",
}
LONGEST = 100  # characters
LONGEST_IN_BYTES = 200  # of UTF-8; file systems allow 255


def differing(jobs: Sequence[dict[str, str]]) -> dict[str, list[str]]:
    """The settings that differ between jobs, each with all its values in order.

    Jobs without known settings are left out. The default does not count as a value.
    """
    names = dict.fromkeys(name for job in jobs for name in job)
    values = {name: list(dict.fromkeys(job.get(name) for job in jobs if job)) for name in names}
    return {
        name: [value for value in several if value is not None]
        for name, several in values.items()
        if len(several) > 1
    }


def job_name(number: int, job: dict[str, str], names: Sequence[str]) -> str:
    """A folder name from the job's number and differing settings, safe for Hydra and a shell."""
    parts = [f"{number:03}"] + [shorten(name, job[name]) for name in names if name in job]
    name = "_".join(parts)[:LONGEST].encode()[:LONGEST_IN_BYTES]
    return name.decode(errors="ignore").rstrip("._-")  # drops half a character


def shorten(name: str, value: str) -> str:
    with contextlib.suppress(ValueError):
        value = f"{float(value):.4g}" if len(value) > 7 else value  # a random number
    plain = re.sub(r"[^\w.+-]+", "-", value).strip("-.")
    speaks_for_itself = plain[:1].isalpha() and plain not in ("true", "false", "null")
    if name in SHORT:
        return SHORT[name] + plain
    return plain if speaks_for_itself else name.rpartition(".")[2].replace("_", "-") + plain
