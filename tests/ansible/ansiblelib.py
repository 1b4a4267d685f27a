"""Where the collection is, and an Ansible that sees it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COLLECTION = ROOT / "ansible"

sys.path.insert(0, str(ROOT / "tests" / "lib"))

from vrtest import skip_all  # noqa: E402


def require(*programs: str) -> None:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    for program in programs:
        if not shutil.which(program, path=path):
            skip_all(f"'{program}' is not installed: scripts/install-packages test")


def ansible_python() -> str:
    """The Python that has Ansible, by the first line of its program."""
    program = shutil.which("ansible-playbook")
    if not program:
        skip_all("'ansible-playbook' is not installed: scripts/install-packages test")
    with open(program, encoding="utf-8") as file:
        interpreter = file.readline().removeprefix("#!").split()
    return interpreter[0] if interpreter and os.path.exists(interpreter[0]) else sys.executable


def become_ansibles_python() -> None:
    """Ansible can be imported after it. The build may have found another Python."""
    python = ansible_python()
    try:
        import ansible  # noqa: F401
    except ImportError:
        if os.environ.get("VR_ANSIBLE_PYTHON"):
            skip_all("Ansible cannot be imported")
        os.execve(python, [python, *sys.argv], {**os.environ, "VR_ANSIBLE_PYTHON": python})


def collections_path(parent: Path, *, copied: bool = False) -> Path:
    """A directory as in ANSIBLE_COLLECTIONS_PATH. copied: ansible-test does not follow links."""
    place = parent / "collections" / "ansible_collections" / "virt_reclaim" / "fleet"
    place.parent.mkdir(parents=True)
    if copied:
        shutil.copytree(COLLECTION, place, ignore=shutil.ignore_patterns("__pycache__", "output"))
    else:
        place.symlink_to(COLLECTION)
    return parent / "collections"
