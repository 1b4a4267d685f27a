#!/usr/bin/env python3
"""The RPMs that scripts/build-packages --rpm makes, as far as a Debian can judge them: the files of Debian's packages with the same modes,
owned by root, the policy a configuration file, what they need, what their scripts do; installed into an empty root and removed.
No distribution with rpm is started."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from packagelib import JOBS, PACKAGES, SKIPPED, run

COMPONENTS = ("virt-reclaim", "virt-reclaim-agent", "virt-reclaim-guestfs")
POLICY = "/etc/virt-reclaim/config.toml"
# What the agent needs of the distribution, beside what rpm and ELF say of themselves.
AGENT_NEEDS = {"/bin/sh", "libblkid.so.1", "libc.so.6", "libm.so.6", "libmount.so.1", "ld-linux-x86-64.so.2"}
# Of Debian's packages alone.
DEBIANS_OWN = re.compile(r"/usr/share/(doc/[^/]+/(changelog.*|copyright)|lintian/.*)$")
# rpm's own: links by which debuggers find programs.
RPMS_OWN = re.compile(r"/usr/lib/\.build-id(/|$)")


def as_in_rpm(path: str) -> str:
    """The place of what Debian has at `path`: merged /usr, zsh's own directory, pages compressed by whoever builds the RPM."""
    path = re.sub(r"^/lib/", "/usr/lib/", path).replace("/vendor-completions/", "/site-functions/")
    return re.sub(r"(/man/man\d/.*)\.gz$", r"\1", path)


class Rpm:
    def __init__(self, name: str) -> None:
        (self.path,) = PACKAGES.glob(f"{name}-[0-9]*.rpm")
        self.deb = next(PACKAGES.glob(f"{name}_*.deb"))

    def ask(self, *options: str) -> list[str]:
        return [line for line in run("rpm", "--query", "--package", *options, self.path).splitlines() if line]

    def files(self) -> dict[str, tuple[str, str]]:
        """Path -> (permissions, owner and group); no directories."""
        lines = self.ask("--queryformat", "[%{FILEMODES:perms}|%{FILEUSERNAME}:%{FILEGROUPNAME}|%{FILENAMES}\n]")
        rows = [line.split("|", 2) for line in lines]
        return {as_in_rpm(path): (mode, owner) for mode, owner, path in rows if not mode.startswith("d") and not RPMS_OWN.match(path)}

    def files_of_debian(self) -> dict[str, tuple[str, str]]:
        rows = [line.split(maxsplit=5) for line in run("dpkg-deb", "--contents", self.deb).splitlines()]
        return {
            as_in_rpm(path[1:].split(" -> ")[0]): (mode, owner.replace("/", ":"))
            for mode, owner, _, _, _, path in rows
            if not mode.startswith("d") and not DEBIANS_OWN.match(path[1:])
        }

    def directories(self) -> set[str]:
        lines = self.ask("--queryformat", "[%{FILEMODES:perms}|%{FILENAMES}\n]")
        return {path for mode, path in (line.split("|", 1) for line in lines) if mode.startswith("d") and not RPMS_OWN.match(path)}

    def needs(self) -> set[str]:
        """What it requires, without versions of symbols and rpm's own features."""
        names = {re.sub(r"\(.*\)$", "", line.split()[0]) if ".so" in line else line for line in self.ask("--requires")}
        return {name for name in names if not name.startswith("rpmlib(") and name != "rtld(GNU_HASH)"}

    def script(self, tag: str) -> str:
        return "\n".join(self.ask("--queryformat", f"%{{{tag}}}"))


class Packages(unittest.TestCase):
    maxDiff = None

    def test_there_is_one_for_each_component(self) -> None:
        self.assertEqual(len(list(PACKAGES.glob("*.rpm"))), len(COMPONENTS))
        for name in COMPONENTS:
            rpm = Rpm(name)
            version = run("dpkg-deb", "--field", rpm.deb, "Version").strip()
            self.assertEqual(rpm.ask("--queryformat", "%{NAME} %{VERSION} %{LICENSE}"), [f"{name} {version} Apache-2.0"])
            self.assertIn("digests OK", run("rpm", "--checksig", "--nosignature", rpm.path))

    def test_they_have_the_files_of_debians_packages(self) -> None:
        for name in COMPONENTS:
            with self.subTest(name):
                self.assertEqual(Rpm(name).files(), Rpm(name).files_of_debian())

    def test_they_own_only_directories_of_ours(self) -> None:
        for name in COMPONENTS:
            self.assertEqual([path for path in Rpm(name).directories() if "/virt-reclaim" not in path], [], name)

    def test_an_upgrade_leaves_the_policy_alone(self) -> None:
        flags = {name: Rpm(name).ask("--queryformat", "[%{FILEFLAGS:fflags}|%{FILENAMES}\n]") for name in COMPONENTS}
        configuration = [line for lines in flags.values() for line in lines if "c" in line.split("|")[0]]
        self.assertEqual(configuration, [f"cn|{POLICY}"])

    def test_what_they_need(self) -> None:
        self.assertEqual(Rpm("virt-reclaim-agent").needs() - AGENT_NEEDS, set())
        self.assertLessEqual({"libmount.so.1", "libblkid.so.1", "libc.so.6"}, Rpm("virt-reclaim-agent").needs())
        self.assertLessEqual({"libvirt.so.0", "libvirt-qemu.so.0", "libc.so.6"}, Rpm("virt-reclaim").needs())
        (version,) = Rpm("virt-reclaim").ask("--queryformat", "%{VERSION}")
        self.assertLessEqual({f"virt-reclaim = {version}", "libguestfs.so.0"}, Rpm("virt-reclaim-guestfs").needs())


class Scripts(unittest.TestCase):
    """What they call, where systemctl and udevadm only write down that they were."""

    def calls(self, name: str, tag: str, argument: str) -> list[str]:
        with tempfile.TemporaryDirectory() as directory:
            for program in ("systemctl", "udevadm"):
                (Path(directory) / program).write_text(f'#!/bin/sh\necho "{program} $*" >>{directory}/calls\nexit 1\n')
                (Path(directory) / program).chmod(0o755)
            script = Rpm(name).script(tag)
            self.assertNotEqual(script, "(none)")
            run("sh", "-ec", script, "sh", argument, PATH=f"{directory}:/usr/bin:/bin")
            log = Path(directory) / "calls"
            return log.read_text().splitlines() if log.exists() else []

    def test_the_host_for_good(self) -> None:
        calls = self.calls("virt-reclaim", "PREUN", "0")
        for job in JOBS:
            self.assertIn(f"systemctl --no-reload disable --now virt-reclaim-{job}.timer", calls)
            self.assertIn(f"systemctl stop virt-reclaim-{job}.service", calls)

    def test_the_agent_for_good(self) -> None:
        self.assertEqual(
            self.calls("virt-reclaim-agent", "PREUN", "0"), ["systemctl stop virt-reclaim-agent.service virt-reclaim-agent-worker.socket"]
        )

    def test_upgrades_stop_nothing(self) -> None:
        self.assertEqual(self.calls("virt-reclaim", "PREUN", "1"), [])
        self.assertEqual(self.calls("virt-reclaim-agent", "PREUN", "1"), [])

    def test_no_other_script(self) -> None:
        """Above all none that enables a timer."""
        tags = ("PREIN", "POSTIN", "PREUN", "POSTUN", "PRETRANS", "POSTTRANS")
        found = {(name, tag) for name in COMPONENTS for tag in tags if Rpm(name).script(tag) != "(none)"}
        self.assertEqual(found, {("virt-reclaim", "PREUN"), ("virt-reclaim-agent", "PREUN"), ("virt-reclaim-agent", "POSTIN")})
        self.assertNotIn("enable", Rpm("virt-reclaim-agent").script("POSTIN"))


class Installed(unittest.TestCase):
    def setUp(self) -> None:
        if os.geteuid() != 0:
            self.skipTest("needs root: rpm --root")
        self.root = Path(self.enterContext(tempfile.TemporaryDirectory(dir="/var/tmp")))

    def rpm(self, *arguments: str | Path) -> str:
        return run("rpm", "--root", self.root, "--nodeps", "--noscripts", *arguments)

    def ours(self) -> set[str]:
        paths = (str(path.relative_to(self.root)) for path in self.root.rglob("*"))
        return {path for path in paths if "virt-reclaim" in path and not path.startswith("var/lib/rpm")}

    def test_installed_and_removed(self) -> None:
        self.rpm("--install", *(Rpm(name).path for name in COMPONENTS))
        for name in COMPONENTS:
            self.assertEqual(self.rpm("--verify", name), "")
        # By this machine's libraries.
        for program in ("bin/virt-reclaim", "bin/virt-reclaim-xml", "sbin/virt-reclaim-agent"):
            self.assertRegex(run(self.root / "usr" / program, "--version"), r"^virt-reclaim\S* \d")
        with (self.root / POLICY[1:]).open("a") as policy:
            policy.write("# ours\n")
        self.rpm("--erase", *COMPONENTS)
        self.assertEqual(self.ours(), {"etc/virt-reclaim", f"{POLICY[1:]}.rpmsave"})


if __name__ == "__main__":
    if shutil.which("rpm") is None or not list(PACKAGES.glob("*.rpm")):
        print(f"SKIP: no rpm, or no RPMs in '{PACKAGES}': run scripts/build-packages --rpm", file=sys.stderr)
        sys.exit(SKIPPED)
    unittest.main(verbosity=2)
