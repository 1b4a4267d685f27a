#!/usr/bin/env python3
"""The units as systemd reads them: nothing unknown in them, an exposure of at most 2.0 (systemd-analyze security), each job
of the host with its timer. Starts nothing. Whether the jobs work under it is shown where there is a systemd: install_test."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "packaging" / "systemd"
EXAMPLES = ROOT / "packaging" / "examples"
JOBS = ("trim", "sparsify", "punch", "metrics")
THRESHOLD = 20  # ten times the score
# Unit -> how far it may be more exposed: its comment says why.
EXPOSED = {"virt-reclaim-agent-worker@.service": 82, "virt-reclaim-sparsify.service": 23}
SKIPPED = 77


def run(*command: str, path: str = "") -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"} | ({"SYSTEMD_UNIT_PATH": path} if path else {})
    return subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )


class Units(unittest.TestCase):
    def setUp(self) -> None:
        self.directory = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def test_nothing_is_unknown_to_systemd(self) -> None:
        """With programs that are there, and without manual pages, which are not installed here."""
        texts = {unit.name: unit.read_text() for unit in [*UNITS.iterdir(), EXAMPLES / "block-copy-watch.service"]}
        # And those that a document shows.
        shown = dict(re.findall(r"n a file `(\S+)`:\n\n```ini\n(.*?)^```", (ROOT / "docs" / "fleet.md").read_text(), re.M | re.S))
        self.assertEqual(sorted(shown), ["virt-reclaim-fleet-trim.service", "virt-reclaim-fleet-trim.timer"])
        for name, unit_text in {**texts, **shown}.items():
            text = re.sub(r"^(ExecStart=:?)[^:\s]+", r"\1/bin/true", unit_text, flags=re.M)
            (self.directory / name).write_text(re.sub(r"^Documentation=.*\n", "", text, flags=re.M))
        names = [str(path) for path in sorted(self.directory.iterdir())]
        verified = run("systemd-analyze", "verify", *names, path=f"{self.directory}:/lib/systemd/system")
        ours = [line for line in verified.stderr.splitlines() if "virt-reclaim" in line or "block-copy" in line]
        self.assertEqual(ours, [], verified.stderr)

    def test_little_is_exposed(self) -> None:
        for unit in sorted(UNITS.glob("*.service")):
            with self.subTest(unit.name):
                limit = EXPOSED.get(unit.name, THRESHOLD)
                judged = run("systemd-analyze", "security", "--offline=true", f"--threshold={limit}", str(unit))
                self.assertEqual(judged.returncode, 0, judged.stdout[-200:])

    def test_what_makes_an_initramfs_has_its_devices(self) -> None:
        """systemd hides every device of a unit with DevicePolicy=auto that lists one, and an older one's ProtectClock= does."""
        text = (UNITS / "virt-reclaim-agent-worker@.service").read_text()
        self.assertEqual(re.findall(r"(?m)^(?:ProtectClock|Device\w+|PrivateDevices|RestrictSUIDSGID|RestrictNamespaces|SystemCall\w+)=", text), [])

    def test_each_exception_has_a_comment(self) -> None:
        """A line that opens something again comes right after a comment, or after lines that do."""
        opening = re.compile(r"^(CapabilityBoundingSet|DevicePolicy|MemoryDenyWriteExecute=no|SystemCallFilter=(?![~@]|@system-service$))")
        for unit in sorted(UNITS.glob("*.service")):
            explained = False
            for line in unit.read_text().splitlines():
                if line.startswith("#"):
                    explained = True
                elif opening.match(line):
                    self.assertTrue(explained, f"{unit.name}: {line}")
                    explained = False
                else:
                    explained = explained and bool(line)

    def test_each_job_has_a_timer(self) -> None:
        for job in JOBS:
            timer = (UNITS / f"virt-reclaim-{job}.timer").read_text()
            self.assertTrue((UNITS / f"virt-reclaim-{job}.service").is_file())
            calendar = re.search(r"^OnCalendar=(.*)$", timer, re.M)
            assert calendar is not None
            self.assertEqual(run("systemd-analyze", "calendar", calendar[1]).returncode, 0, calendar[1])
            # A fleet does not start at once, and each host always at its own time.
            self.assertIn("RandomizedDelaySec=", timer)
            self.assertIn("FixedRandomDelay=yes", timer)

    def test_timers_wait_for_the_windows_of_the_policy(self) -> None:
        """Each host comes at a time of its own within some hours: whatever the window, it must not be missed for ever."""
        for job in JOBS[:3]:
            text = (UNITS / f"virt-reclaim-{job}.service").read_text()
            self.assertRegex(text, rf"(?m)^ExecStart=/usr/bin/virt-reclaim run --job {job} --wait 24h$")
            self.assertNotIn("TimeoutStartSec", text, "it would end the wait")
            self.assertEqual(re.findall(r"(?m)^Type=(.*)$", text), ["exec"], "a boot would not be over before the wait is")

    def test_any_name_reaches_trim_as_one_word(self) -> None:
        """systemd expands ${X} in arguments unless there is a ':', and virt-reclaim reads -x as an option unless there is a '--'."""
        (line,) = re.findall(r"(?m)^ExecStart=(.*)$", (UNITS / "virt-reclaim-trim@.service").read_text())
        prefix, program, *words = re.fullmatch(r"(\W*)(/\S+) (\S+) (\S+) (\S+)", line).groups()  # type: ignore[union-attr]
        self.assertIn(":", prefix.rstrip("/"))
        self.assertEqual((program, words), ("/usr/bin/virt-reclaim", ["trim", "--", "%I"]))

    def test_an_upgrade_keeps_timers_on_and_leaves_jobs_alone(self) -> None:
        """A restart would wait for the end of the job, which may wait for a window for a day. By what debhelper writes into the scripts."""
        if shutil.which("dh_installsystemd") is None:
            self.skipTest("no debhelper")
        debian = self.directory / "debian"
        place = debian / "virt-reclaim" / "lib" / "systemd" / "system"
        place.mkdir(parents=True)
        for unit in UNITS.glob("virt-reclaim-[!a]*"):
            shutil.copy(unit, place)
        for name in ("control", "changelog", "rules"):
            shutil.copy(ROOT / "debian" / name, debian)
        made = subprocess.run(
            ["make", "-f", "debian/rules", "override_dh_installsystemd"], cwd=self.directory, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        )
        self.assertEqual(made.returncode, 0, made.stdout + made.stderr)
        scripts = {path.name: path.read_text() for path in debian.rglob("p*") if path.is_file()}
        self.assertEqual([name for name, text in scripts.items() if "deb-systemd-invoke stop" in text], [])
        restarted = re.findall(r"deb-systemd-invoke try-restart (.*?) >", "".join(scripts.values()))
        self.assertEqual(len(restarted), 1, scripts)
        self.assertEqual(sorted(re.findall(r"virt-reclaim-[^' ]+", restarted[0])), sorted(f"virt-reclaim-{job}.timer" for job in JOBS))

    def test_the_directories_are_the_programs_own(self) -> None:
        for job in JOBS:
            text = (UNITS / f"virt-reclaim-{job}.service").read_text()
            for line in ("RuntimeDirectory=virt-reclaim", "RuntimeDirectoryPreserve=yes", "StateDirectory=virt-reclaim"):
                self.assertIn(line + "\n", text, job)

    def test_the_hook_says_nothing_and_never_fails(self) -> None:
        """libvirt would take its output for a new definition, and its failure for a no to the migration."""
        programs = self.directory / "bin"
        programs.mkdir()
        log = self.directory / "log"
        (programs / "systemd-run").write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >>"{log}"\necho noise; exit 1\n')
        (programs / "systemd-run").chmod(0o755)
        for operation, calls in (("prepare", 0), ("started", 0), ("migrate", 1)):
            log.unlink(missing_ok=True)
            done = subprocess.run(
                [EXAMPLES / "libvirt-hook-qemu", "-my web", operation, "begin", "-"], input="<domain/>",
                env={"PATH": f"{programs}:/usr/bin:/bin"}, capture_output=True, text=True, timeout=30, check=False,
            )
            self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""), operation)
            lines = log.read_text().splitlines() if log.exists() else []
            self.assertEqual(len(lines), calls, operation)
            if calls:
                self.assertTrue(lines[0].endswith(r"systemctl start --wait virt-reclaim-trim@\x2dmy\x20web.service"), lines[0])

    def user_data(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [EXAMPLES / "cloud-init-agent", *words], env={"PATH": "/usr/bin:/bin", "VIRT_RECLAIM_AGENT_FILES": str(ROOT / "packaging")},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        )

    def test_user_data_has_the_agents_files(self) -> None:
        """And says what each has to be. It is run by packages/systemd_test and integration/offline_facts_test."""
        agent = self.directory / "an agent"
        agent.write_bytes(bytes(range(256)) * 1000)
        made = self.user_data(str(agent))
        self.assertEqual((made.returncode, made.stderr), (0, ""))
        self.assertTrue(made.stdout.startswith("#!/bin/sh\n"), "cloud-init would not take it for a script")
        checked = subprocess.run(["sh", "-n"], input=made.stdout, capture_output=True, text=True, check=False)
        self.assertEqual((checked.returncode, checked.stderr), (0, ""))
        found = {}
        for place, mode, digest, data in re.findall(r"^take (\S+) (\d+) ([0-9a-f]{64}) <<'END'\n(.*?)^END$", made.stdout, re.M | re.S):
            content = gzip.decompress(base64.b64decode(data))
            self.assertEqual(hashlib.sha256(content).hexdigest(), digest, place)
            found[place] = (mode, content)
        units = [path for path in UNITS.iterdir() if path.name.startswith("virt-reclaim-agent")]
        rule = ROOT / "packaging" / "udev" / "99-virt-reclaim-agent.rules"
        expected = {f"/etc/systemd/system/{path.name}": ("0644", path.read_bytes()) for path in units}
        expected[f"/etc/udev/rules.d/{rule.name}"] = ("0644", rule.read_bytes())
        expected["/usr/sbin/virt-reclaim-agent"] = ("0755", agent.read_bytes())
        self.assertEqual(found, expected)

    def test_no_user_data_without_all_of_it(self) -> None:
        none = self.user_data(str(self.directory / "none"))
        self.assertEqual((none.returncode, none.stdout), (1, ""))
        self.assertRegex(none.stderr, r"^cloud-init-agent: cannot read '.*/none'\n$")
        self.assertEqual(self.user_data("a", "b").returncode, 2)

    def test_block_copies_are_recognized(self) -> None:
        programs = self.directory / "bin"
        programs.mkdir()
        log = self.directory / "log"
        events = (
            "event 'block-job' for domain 'it's web': Block Copy for /i/a.qcow2 completed",
            "event 'block-job' for domain 'other': Block Copy for /i/b.qcow2 ready",
            "event 'block-job' for domain 'third': Active Block Commit for /i/c.qcow2 completed",
        )
        lines = "".join(f'echo "{event}"\n' for event in events)
        # It speaks the language that it is told.
        (programs / "virsh").write_text('#!/bin/sh\n[ "$LC_ALL" = C ] || exit 1\n' + lines)
        (programs / "systemctl").write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >>"{log}"\n')
        for program in programs.iterdir():
            program.chmod(0o755)
        done = subprocess.run(
            [EXAMPLES / "block-copy-watch"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False,
            env={"PATH": f"{programs}:/usr/bin:/bin", "LC_ALL": "de_DE.UTF-8"},
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(log.read_text(), "start --no-block virt-reclaim-trim@it\\x27s\\x20web.service\n")


class BuildPackages(unittest.TestCase):
    def test_no_packages_without_lintian(self) -> None:
        """It ends before the build, and says why."""
        directory = Path(self.enterContext(tempfile.TemporaryDirectory()))
        for name in ("bash", "dirname", "readlink", "mktemp", "rm", "git"):
            found = shutil.which(name)
            assert found, name
            (directory / name).symlink_to(found)
        (directory / "dpkg-buildpackage").write_text(f"#!/bin/sh\n: >{directory}/built\n")
        (directory / "dpkg-buildpackage").chmod(0o755)
        done = subprocess.run(
            [ROOT / "scripts" / "build-packages", "--output", directory / "out"], env={"PATH": str(directory)}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=60, check=False,
        )
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertEqual(done.stderr, "build-packages: 'lintian' is not installed: scripts/install-packages build test\n")
        self.assertFalse((directory / "built").exists() or (directory / "out").exists())


if __name__ == "__main__":
    if shutil.which("systemd-analyze") is None:
        print("SKIP: systemd-analyze is missing", file=sys.stderr)
        sys.exit(SKIPPED)
    unittest.main(verbosity=2)
