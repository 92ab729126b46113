"""The control groups of Linux that this process is in, by which containers set their limits."""

from collections.abc import Iterator
from pathlib import Path


def group_folders(controller: str, root: Path) -> Iterator[tuple[Path, bool]]:
    """Of its groups and all above them, and whether each is of the second version.

    Args:
        controller: of what they set limits, ``cpu`` or ``memory``.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for mount in {controller, controllers} if controllers else {""}:
            for group in (Path(path), *Path(path).parents):
                yield root / "sys/fs/cgroup" / mount / str(group).lstrip("/."), not controllers
