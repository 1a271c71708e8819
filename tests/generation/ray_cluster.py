"""The worker processes of a Ray cluster that this process, or a child of it, has started."""

from pathlib import Path


def workers_below(ancestor: int) -> list[int]:
    """Process ids of the workers whose cluster was started by a process or its descendants."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # The name may hold spaces and brackets; what follows its last bracket does not.
            status = (entry / "stat").read_text().rpartition(")")[2].split()
            title = (entry / "cmdline").read_bytes().split(b"\0")[0]
        except OSError:  # it ended meanwhile
            continue
        parents[int(entry.name)] = (int(status[1]), title)
    return [
        pid
        for pid, (_, title) in parents.items()
        if b"ray::Worker" in title and _is_below(pid, ancestor, parents)
    ]


def _is_below(pid: int, ancestor: int, parents: dict[int, tuple[int, bytes]]) -> bool:
    while pid in parents and pid != ancestor:
        pid = parents[pid][0]
    return pid == ancestor
