"""A fresh Debian 12 in a directory, made by mmdebstrap from the mirror apt is configured for, and the packages to put into it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

SKIPPED = 77
PACKAGES = Path(os.environ.get("VIRT_RECLAIM_PACKAGES", Path(__file__).resolve().parents[2] / "build" / "packages"))
NAMES = ("virt-reclaim", "virt-reclaim-agent", "virt-reclaim-guestfs", "virt-reclaim-doc")
JOBS = ("trim", "sparsify", "punch", "metrics")
SUITE = "bookworm"
# Whatever is mounted and started ends with us.
ALONE = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]


def require(*programs: str) -> None:
    reason = ""
    if os.geteuid() != 0:
        reason = "needs root: it makes a Debian"
    for program in ("mmdebstrap", "dpkg-deb", *programs):
        if shutil.which(program) is None:
            reason = f"'{program}' is not installed: scripts/install-packages test"
    if not list(PACKAGES.glob("*.deb")):
        reason = f"no packages in '{PACKAGES}': run scripts/build-packages"
    if reason:
        print(f"SKIP: {reason}", file=sys.stderr)
        sys.exit(SKIPPED)


def run(*command: str | Path, **more: str) -> str:
    """What the command said, which has to succeed."""
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive"
    } | more
    done = subprocess.run(
        [str(word) for word in command], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", timeout=900, check=False,
    )
    if done.returncode != 0:
        raise AssertionError(f"{command}: status {done.returncode}\n{done.stdout[-4000:]}")
    return done.stdout


def debian_sources() -> list[str]:
    fields = "$(ORIGIN)|$(CODENAME)|deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
    found: list[str] = []
    for line in run("apt-get", "indextargets", "--format", fields, "Created-By: Packages").splitlines():
        origin, codename, source = line.split("|")
        if origin == "Debian" and codename.startswith(SUITE) and source not in found:
            found.append(source)
    return found


def apt_proxies() -> list[str]:
    return [line for line in run("apt-config", "dump", "Acquire").splitlines() if re.search(r"::Proxy\S* ", line)]


class Debian:
    """The directory. Nothing is left mounted or running there by what is done inside."""

    def __init__(self, root: Path, *packages: str) -> None:
        self.root = root
        run(
            *ALONE, "--mount-proc", "mmdebstrap", "--mode=root", "--variant=apt", "--format=directory",
            f"--include={','.join([*packages, *sorted(self.dependencies())])}", *(f"--aptopt={line}" for line in apt_proxies()), SUITE, root, *debian_sources(),
        )
        (root / "packages").mkdir()
        for name in NAMES:  # not their debugging symbols
            shutil.copy(self.package(name), root / "packages")

    def inside(self, *command: str) -> str:
        script = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
        return run(*ALONE, "sh", "-c", script, self.root, *command)

    def install(self) -> None:
        self.inside("sh", "-c", "dpkg --install /packages/*.deb")

    @classmethod
    def dependencies(cls) -> set[str]:
        """What must be there before: not ours. dpkg looks at the versions."""
        return {entry.split()[0] for name in NAMES for entry in cls.depends(name) if not entry.startswith("virt-reclaim")}

    @classmethod
    def depends(cls, name: str) -> list[str]:
        field = run("dpkg-deb", "--field", cls.package(name), "Depends")
        return [entry.strip() for entry in field.split(",") if entry.strip()]

    @staticmethod
    def package(name: str) -> Path:
        (found,) = PACKAGES.glob(f"{name}_*.deb")
        return found
