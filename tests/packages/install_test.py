#!/usr/bin/env python3
"""The packages on a fresh Debian 12: installed, tested by debian/tests, used, upgraded, removed, purged, and given to autopkgtest. Needs
root, and the packages that scripts/build-packages makes."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import unittest
from pathlib import Path

from packagelib import ALONE, JOBS, NAMES, Debian, require, run

DEBIAN_TESTS = Path(__file__).resolve().parents[2] / "debian" / "tests"
NOBODY = "65534"
TIMERS = [f"virt-reclaim-{job}.timer" for job in JOBS]
# autopkgtest makes a repository of our packages in there, and looks at their source.
AUTOPKGTEST_NEEDS = {"apt-utils", "dpkg-dev"}
AGENT_NEEDS = {"libblkid1", "libc6", "libmount1"}
# What apt, dpkg and their like write for themselves.
NOT_OURS = re.compile(
    r"/(proc|sys|dev|tmp|run|packages)(/|$)|/var/(cache|log|lib/apt|lib/dpkg|lib/systemd/deb-systemd-helper-(enabled|masked)$)|/etc/ld.so.cache$"
)


def debian_tests() -> dict[str, set[str]]:
    """Of debian/tests/control: name of a test -> packages it needs that are not ours."""
    found = {}
    for stanza in (DEBIAN_TESTS / "control").read_text().split("\n\n"):
        fields = dict(re.findall(r"^(\S+): (.*)$", stanza, flags=re.M))
        found[fields["Tests"]] = {name for name in fields["Depends"].split(", ") if name not in NAMES}
    return found


class Install(unittest.TestCase):
    debian: Debian
    root: Path

    @classmethod
    def setUpClass(cls) -> None:
        cls.root = Path(cls.enterClassContext(tempfile.TemporaryDirectory(dir="/var/tmp"))) / "root"
        cls.debian = Debian(cls.root, *sorted({"systemd", "udev", "e2fsprogs"}.union(AUTOPKGTEST_NEEDS, *debian_tests().values())))
        # systemd's own, of its first boot.
        (cls.root / "var" / "lib" / "systemd" / "timers").mkdir(exist_ok=True)
        cls.before = cls.snapshot()

    @classmethod
    def inside(cls, *command: str) -> str:
        return cls.debian.inside(*command)

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
        self.assertEqual({entry.split()[0] for entry in self.debian.depends("virt-reclaim-agent")}, AGENT_NEEDS)

    def test_2_installed(self) -> None:
        self.debian.install()
        self.assertEqual(self.inside("dpkg", "--audit"), "")
        for program in ("virt-reclaim", "virt-reclaim-xml", "virt-reclaim-agent"):
            self.assertRegex(self.inside(program, "--version"), rf"^{program} \d")
        wanted = self.root / "etc" / "systemd" / "system" / "timers.target.wants"
        self.assertEqual([path.name for path in wanted.glob("virt-reclaim*")], [], "a timer enabled by itself")

    def test_3_tested_by_debian(self) -> None:
        """Every test of debian/tests, as root and as somebody else."""
        scripts = {path.name for path in DEBIAN_TESTS.iterdir()} - {"control"}
        self.assertEqual(set(debian_tests()), scripts)
        shutil.copytree(DEBIAN_TESTS, self.root / "packages" / "tests")
        for name in sorted(scripts):
            for user in ("0", NOBODY):
                with self.subTest(name, user=user):
                    place = f"/tmp/{name}-{user}"
                    (self.root / place[1:]).mkdir()
                    os.chown(self.root / place[1:], int(user), int(user))
                    self.inside(
                        "setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "env", f"AUTOPKGTEST_TMP={place}", f"HOME={place}",
                        "PYTHONDONTWRITEBYTECODE=1", f"/packages/tests/{name}",
                    )

    def test_4_used(self) -> None:
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

    def test_5_upgraded(self) -> None:
        for name in NAMES:
            with tempfile.TemporaryDirectory() as directory:
                run("dpkg-deb", "--raw-extract", self.debian.package(name), f"{directory}/x")
                control = Path(directory) / "x" / "DEBIAN" / "control"
                text = re.sub(r"^Version: .*$", "Version: 0.9999", control.read_text(), flags=re.M)
                control.write_text(re.sub(r"virt-reclaim \(= .*?\)", "virt-reclaim (= 0.9999)", text))
                run("dpkg-deb", "--root-owner-group", "--build", f"{directory}/x", self.root / "packages" / f"{name}-next.deb")
        self.inside("sh", "-c", "dpkg --install /packages/*-next.deb")
        wanted = self.root / "etc" / "systemd" / "system" / "timers.target.wants"
        self.assertEqual(sorted(path.name for path in wanted.glob("virt-reclaim*")), sorted(TIMERS))

    def test_6_removed(self) -> None:
        self.inside("dpkg", "--remove", *NAMES)
        self.assertEqual([path for path in self.snapshot() if "/bin/virt-reclaim" in path], [])
        self.assertTrue((self.root / "var" / "lib" / "virt-reclaim").exists(), "what migrations may need is kept")

    def test_7_purge_leaves_nothing(self) -> None:
        self.inside("dpkg", "--purge", *NAMES)
        self.assertEqual(sorted(path for path in self.snapshot() - self.before if not path.startswith("/tmp")), [])

    def test_8_tested_by_autopkgtest(self) -> None:
        """The real one, which installs what each test of debian/tests/control needs: of ours all, and of Debian nothing that is not there."""
        # It brings apt's lists up to date, of which no network is to be needed.
        for sources in (self.root / "etc" / "apt").glob("sources.list*"):
            shutil.rmtree(sources) if sources.is_dir() else sources.unlink()
        (self.root / "etc" / "apt" / "sources.list.d").mkdir()
        directory = Path(self.enterContext(tempfile.TemporaryDirectory()))
        shutil.copytree(DEBIAN_TESTS.parent, directory / "source" / "debian")
        said = run(
            *ALONE, "--mount-proc", "sh", "-c", 'mount -t proc proc "$0/proc" && exec autopkgtest "$@"', self.root,
            f"--summary-file={directory / 'summary'}", "--no-built-binaries", *(self.debian.package(name) for name in NAMES),
            directory / "source", "--", "chroot", self.root,
        )
        results = dict(line.split(maxsplit=1) for line in (directory / "summary").read_text().splitlines())
        self.assertEqual(results, dict.fromkeys(debian_tests(), "PASS"), said[-4000:])


if __name__ == "__main__":
    require("autopkgtest")
    unittest.main(verbosity=2, failfast=True)
