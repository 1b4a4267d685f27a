#!/usr/bin/env python3
"""The packages on a fresh Debian 12: installed, used, upgraded, removed, purged. In a directory that mmdebstrap makes from the
mirror apt is configured for; needs root and the packages, which scripts/build-packages makes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SKIPPED = 77
PACKAGES = Path(os.environ.get("VIRT_RECLAIM_PACKAGES", Path(__file__).resolve().parents[2] / "build" / "packages"))
NAMES = ("virt-reclaim", "virt-reclaim-agent", "virt-reclaim-guestfs", "virt-reclaim-doc")
TIMERS = [f"virt-reclaim-{job}.timer" for job in ("trim", "sparsify", "punch", "metrics")]
SUITE = "bookworm"
AGENT_NEEDS = {"libblkid1", "libc6", "libmount1"}
# What apt, dpkg and their like write for themselves.
NOT_OURS = re.compile(
    r"/(proc|sys|dev|tmp|run|packages)(/|$)|/var/(cache|log|lib/apt|lib/dpkg|lib/systemd/deb-systemd-helper-(enabled|masked)$)|/etc/ld.so.cache$"
)
# Whatever is mounted and started ends with us.
ALONE = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]


def run(*command: str | Path, **more: str) -> str:
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


class Install(unittest.TestCase):
    root: Path

    @classmethod
    def setUpClass(cls) -> None:
        cls.root = Path(cls.enterClassContext(tempfile.TemporaryDirectory(dir="/var/tmp"))) / "root"
        run(
            *ALONE, "--mount-proc", "mmdebstrap", "--mode=root", "--variant=apt", "--format=directory", "--include=systemd,udev,e2fsprogs",
            *(f"--aptopt={line}" for line in apt_proxies()), SUITE, cls.root, *debian_sources(),
        )
        shutil.copytree(PACKAGES, cls.root / "packages", ignore=lambda _, names: [n for n in names if not n.endswith(".deb")])
        cls.inside("apt-get", "satisfy", "-y", "--no-install-recommends", ", ".join(sorted(cls.dependencies())))
        cls.before = cls.snapshot()

    @classmethod
    def inside(cls, *command: str) -> str:
        script = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
        return run(*ALONE, "sh", "-c", script, cls.root, *command)

    @classmethod
    def dependencies(cls) -> set[str]:
        return {entry for name in NAMES for entry in cls.depends(name) if not entry.startswith("virt-reclaim")}

    @classmethod
    def depends(cls, name: str) -> list[str]:
        field = run("dpkg-deb", "--field", cls.package(name), "Depends")
        return [entry.strip() for entry in field.split(",") if entry.strip()]

    @classmethod
    def package(cls, name: str) -> Path:
        (found,) = PACKAGES.glob(f"{name}_*.deb")
        return found

    @classmethod
    def snapshot(cls) -> set[str]:
        paths = set()
        for directory, subdirectories, files in os.walk(cls.root):
            for name in [*subdirectories, *files]:
                path = f"{directory}/{name}"[len(str(cls.root)) :]
                if not NOT_OURS.match(path):
                    paths.add(path)
        return paths

    def test_1_the_agent_needs_next_to_nothing(self) -> None:
        self.assertEqual({entry.split()[0] for entry in self.depends("virt-reclaim-agent")}, AGENT_NEEDS)

    def test_2_installed(self) -> None:
        self.inside("sh", "-c", "dpkg --install /packages/*.deb")
        self.assertEqual(self.inside("dpkg", "--audit"), "")
        for program in ("virt-reclaim", "virt-reclaim-xml", "virt-reclaim-agent"):
            self.assertRegex(self.inside(program, "--version"), rf"^{program} \d")
        wanted = self.root / "etc" / "systemd" / "system" / "timers.target.wants"
        self.assertEqual([path.name for path in wanted.glob("virt-reclaim*")], [], "a timer enabled by itself")

    def test_3_used(self) -> None:
        self.inside("virt-reclaim", "--connect", "test:///default", "report")
        self.inside(
            "sh", "-exc",
            "cd /tmp; head -c 64M /dev/urandom >disk; mke2fs -q -F -t ext4 -E nodiscard disk; before=$(stat -c %b disk)\n"
            "virt-reclaim sparsify --no-libvirt --allow-thick ./disk; [ $(stat -c %b disk) -lt $before ]; e2fsck -fn disk",
        )
        self.inside("systemctl", "enable", *TIMERS)
        # As the services leave them behind.
        for path in ("var/lib/virt-reclaim/x", "var/lib/systemd/timers/stamp-virt-reclaim-trim.timer"):
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).touch()

    def test_4_upgraded(self) -> None:
        for name in NAMES:
            with tempfile.TemporaryDirectory() as directory:
                run("dpkg-deb", "--raw-extract", self.package(name), f"{directory}/x")
                control = Path(directory) / "x" / "DEBIAN" / "control"
                text = re.sub(r"^Version: .*$", "Version: 0.9999", control.read_text(), flags=re.M)
                control.write_text(re.sub(r"virt-reclaim \(= .*?\)", "virt-reclaim (= 0.9999)", text))
                run("dpkg-deb", "--root-owner-group", "--build", f"{directory}/x", self.root / "packages" / f"{name}-next.deb")
        self.inside("sh", "-c", "dpkg --install /packages/*-next.deb")
        wanted = self.root / "etc" / "systemd" / "system" / "timers.target.wants"
        self.assertEqual(sorted(path.name for path in wanted.glob("virt-reclaim*")), sorted(TIMERS))

    def test_5_removed(self) -> None:
        self.inside("dpkg", "--remove", *NAMES)
        self.assertEqual([path for path in self.snapshot() if "/bin/virt-reclaim" in path], [])
        self.assertTrue((self.root / "var" / "lib" / "virt-reclaim").exists(), "what migrations may need is kept")

    def test_6_purge_leaves_nothing(self) -> None:
        self.inside("dpkg", "--purge", *NAMES)
        self.assertEqual(sorted(path for path in self.snapshot() - self.before if not path.startswith("/tmp")), [])


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("SKIP: needs root: it makes a Debian", file=sys.stderr)
        sys.exit(SKIPPED)
    for program in ("mmdebstrap", "dpkg-deb"):
        if shutil.which(program) is None:
            print(f"SKIP: '{program}' is not installed: scripts/install-packages test", file=sys.stderr)
            sys.exit(SKIPPED)
    if not list(PACKAGES.glob("*.deb")):
        print(f"SKIP: no packages in '{PACKAGES}': run scripts/build-packages", file=sys.stderr)
        sys.exit(SKIPPED)
    unittest.main(verbosity=2, failfast=True, exit=True)
