#!/usr/bin/env python3
"""The services where there is a systemd: the packages on a fresh Debian 12 that boots in a container. Each job's hardening lets it
do its work, trim on a real guest of a libvirtd outside of the container; each timer starts its service, each service of the host ends
well; what cloud-init makes of the user-data for fresh guests, and the Ansible roles of a host where the packages are not installed yet.
Needs root, systemd-nspawn, QEMU and the packages that scripts/build-packages makes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any, BinaryIO

from packagelib import ALONE, JOBS, Debian, require, run

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "lib"), str(ROOT / "tests" / "docs")]

from doclib import commands, pages  # noqa: E402
from vrtest import DaemonHost, Disk, Guest, Workspace, allocation, domain_xml, main, skip_all  # noqa: E402
from vrtest.guest import NEW_MACHINE  # noqa: E402

PACKAGING = ROOT / "packaging"
STATIC_AGENT = Path(os.environ.get("VIRT_RECLAIM_STATIC_AGENT", ""))
AGENT = "/usr/sbin/virt-reclaim-agent"
# Of cloud-init's own modules only those that run scripts: how it sets up networks, users and disks is its own business.
CLOUD_INIT = """datasource_list: [NoCloud]
network: {config: disabled}
cloud_init_modules: []
cloud_config_modules: []
cloud_final_modules: [scripts-user]
"""
CLOUD_INIT_STAGES = ("cloud-init-local", "cloud-init", "cloud-config", "cloud-final")
SUPERMIN = Path("/usr/lib/x86_64-linux-gnu/guestfs/supermin.d")
CGROUPS = Path("/sys/fs/cgroup")
NAME = f"virt-reclaim-test-{os.getpid()}"
SECONDS = 60.0
MIB = 1 << 20
DOMAIN = "web"  # as in the documents
JUNK = 32 * MIB
# At once, once.
TIMER = "OnCalendar=\nOnActiveSec=1s\nAccuracySec=1us\nRandomizedDelaySec=0"
# Of the documents: what is run here, and what would wait for somebody.
OF_SYSTEMD = re.compile(r"(?:systemctl|journalctl|apt|apt-get) (?!edit )")
COLLECTIONS = "usr/share/ansible/collections/ansible_collections/virt_reclaim"
# Of the agent's units, one that runs where no port is; the others are the real ones.
AGENT_UNIT = "[Service]\nExecStart=/usr/sbin/virt-reclaim-agent daemon --port=/nonexistent\n"
PLAY = """\
- name: Both roles, on a host without the packages
  hosts: localhost
  connection: local
  gather_facts: false
  roles:
    - role: virt_reclaim.fleet.host
      vars:
        virt_reclaim_host_packages: ["/packages/{package}"]
        virt_reclaim_host_policy: "[defaults]\\nthreshold = \\"1G\\"\\n"
        virt_reclaim_host_timers: [virt-reclaim-trim.timer, virt-reclaim-metrics.timer]
        virt_reclaim_host_timers_off: [virt-reclaim-sparsify.timer]
    - role: virt_reclaim.fleet.agent
      vars:
        virt_reclaim_agent_binary: /root/agent/program
        virt_reclaim_agent_units: /root/agent
"""


def hierarchies() -> list[Path]:
    """Where systemd in a container wants a cgroup of its own: cgroup v2, and beside it what a mixed system has."""
    if (CGROUPS / "cgroup.procs").exists():
        return [CGROUPS]
    return [path for path in (CGROUPS / "unified", CGROUPS / "systemd") if (path / "cgroup.procs").exists()]


class Container:
    def __init__(self, root: Path, shared: Path) -> None:
        """shared: seen in the container at the same place."""
        self.groups = [hierarchy / NAME for hierarchy in hierarchies()]
        for group in self.groups:
            group.mkdir()
        enter = "".join(f'echo $$ >"{group}/cgroup.procs"; ' for group in self.groups)
        with (root.parent / "console").open("wb") as console:
            self.process = self.boot(root, shared, enter, console)
        self.leader = ""
        self.wait(self.has_leader)
        self.wait(lambda: self.status("systemctl", "is-system-running")[1].strip() in ("running", "degraded"))

    @staticmethod
    def boot(root: Path, shared: Path, enter: str, console: BinaryIO) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                *ALONE[:3], "sh", "-c", enter + 'exec "$@"', "sh", "systemd-nspawn", f"--directory={root}", "--boot", "--register=no",
                "--keep-unit", "--private-network", "--console=pipe", "--quiet", f"--bind={shared}",
                # For the free map worker; what nspawn allows by itself is older than landlock.
                "--system-call-filter=landlock_create_ruleset landlock_restrict_self",
            ],
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}, stdin=subprocess.DEVNULL,
            stdout=console, stderr=subprocess.STDOUT,
        )

    def wait(self, condition, log=lambda: "", seconds: float = SECONDS) -> None:  # noqa: ANN001
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end or self.process.poll() is not None:
                raise AssertionError(f"the container does not get there in time\n{log()}")
            time.sleep(0.2)

    def has_leader(self) -> bool:
        """Its systemd: the child of nspawn in another PID namespace."""
        for children in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            for child in children.read_text().split():
                if os.readlink(f"/proc/{child}/ns/pid") != os.readlink("/proc/self/ns/pid"):
                    self.leader = child
        return bool(self.leader)

    def status(self, *command: str) -> tuple[int, str]:
        done = subprocess.run(
            ["nsenter", "--target", self.leader, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", *command],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", timeout=300, check=False,
        )
        return done.returncode, done.stdout

    def run(self, *command: str) -> str:
        status, output = self.status(*command)
        if status != 0:
            raise AssertionError(f"{command}: status {status}\n{output[-4000:]}")
        return output

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for group in self.groups:
            for directory, _, _ in sorted(os.walk(group), reverse=True):
                try:
                    os.rmdir(directory)
                except OSError:
                    pass


class Services(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.root = Path(cls.enterClassContext(tempfile.TemporaryDirectory(dir="/var/tmp"))) / "root"
        debian = Debian(
            cls.root, "systemd-sysv", "udev", "dbus", "e2fsprogs", "procps", "qemu-system-common", "qemu-utils", "cloud-init",
            "ansible-core", "python3-apt", "libvirt-clients",
        )
        debian.install()
        # Not below /var/tmp: each service has one of its own.
        space = Workspace("/srv")
        cls.addClassCleanup(space.close)
        host = DaemonHost(space)
        cls.host, cls.uri, cls.images = host, host.uri, space.path
        cls.guest = Guest(
            host, DOMAIN, machine=NEW_MACHINE, agent=cls.root / AGENT[1:], disks=[Disk("data", discard="unmap", size=256 * MIB)],
        )
        cls.guest.start(wait=False)
        # Its turn comes when a test says so.
        (cls.root / "etc" / "cloud" / "cloud-init.disabled").touch()
        # As the node exporter's package makes it; without it there is nobody to write metrics for.
        cls.metrics = cls.root / "var" / "lib" / "prometheus" / "node-exporter" / "virt-reclaim.prom"
        cls.metrics.parent.mkdir(parents=True)
        for job in (*JOBS, "trim@"):
            cls.drop_in(f"virt-reclaim-{job}.service", "test", f"Environment=LIBVIRT_DEFAULT_URI={cls.uri}")
        cls.container = Container(cls.root, space.path)
        cls.addClassCleanup(cls.container.close)
        cls.guest.wait_until_up()
        cls.container.wait(lambda: cls.container.status("virt-reclaim", "-c", cls.uri, "agent", "status", DOMAIN)[0] == 0)

    def policy(self, text: str) -> Path:
        """Beside the packaged one, until the test ends."""
        file = self.root / "etc" / "virt-reclaim" / "conf.d" / "test.toml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        self.addCleanup(file.unlink)
        return file

    @classmethod
    def drop_in(cls, unit: str, name: str, lines: str) -> Path:
        directory = cls.root / "etc" / "systemd" / "system" / f"{unit}.d"
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / f"{name}.conf"
        file.write_text(f"[{unit.rpartition('.')[2].capitalize()}]\n{lines}\n")
        return file

    def properties(self, unit: str, *names: str) -> dict[str, str]:
        shown = self.container.run("systemctl", "show", f"--property={','.join(names)}", unit)
        return dict(line.split("=", 1) for line in shown.splitlines())

    def start(self, unit: str) -> tuple[str, str]:
        """Its result and exit status, after its end."""
        self.container.status("systemctl", "start", unit)
        ended = ("dead", "failed", "exited")
        self.container.wait(lambda: self.properties(unit, "SubState")["SubState"] in ended, lambda: self.log(unit), seconds=5 * SECONDS)
        values = self.properties(unit, "Result", "ExecMainStatus")
        return values["Result"], values["ExecMainStatus"]

    def log(self, unit: str) -> str:
        return self.container.status("journalctl", "--no-pager", "--unit", unit)[1]

    def instead(self, unit: str, command: str) -> None:
        """`command` in the unit's place and under its hardening. Beside other tests a unit that lets everybody go first comes to nothing."""
        self.addCleanup(self.drop_in(unit, "instead", f"ExecStart=\nExecStart={command}\nNice=0").unlink)
        self.container.run("systemctl", "daemon-reload")
        self.assertEqual(self.start(unit), ("success", "0"), self.log(unit))

    def test_1_punch_works_under_its_hardening(self) -> None:
        backups = self.root / "srv" / "backup"
        backups.mkdir(parents=True)
        (backups / "zeros").write_bytes(bytes(4 * MIB))
        os.chown(backups / "zeros", 1234, 1234)
        os.chmod(backups / "zeros", 0o600)
        before = os.stat(backups / "zeros")
        self.instead("virt-reclaim-punch.service", "/usr/bin/virt-reclaim punch --idle /srv/backup/zeros")
        after = os.stat(backups / "zeros")
        self.assertEqual(after.st_blocks, 0, self.log("virt-reclaim-punch.service"))
        self.assertEqual((after.st_size, after.st_mtime_ns), (before.st_size, before.st_mtime_ns))

    def test_2_sparsify_works_under_its_hardening(self) -> None:
        images = self.root / "srv" / "images"
        images.mkdir(parents=True)
        raw, qcow2 = images / "a.raw", images / "b.qcow2"
        raw.write_bytes(os.urandom(64 * MIB))
        run("mke2fs", "-q", "-F", "-t", "ext4", "-E", "nodiscard", raw)
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2)
        for image in (raw, qcow2):
            os.chown(image, 1234, 1234)
            os.chmod(image, 0o600)
        before = [os.stat(image).st_blocks for image in (raw, qcow2)]
        self.instead(
            "virt-reclaim-sparsify.service",
            "/usr/bin/virt-reclaim sparsify --no-libvirt --allow-thick /srv/images/a.raw /srv/images/b.qcow2",
        )
        for image, blocks in zip((raw, qcow2), before, strict=True):
            self.assertLess(os.stat(image).st_blocks, blocks / 2, f"{image.name}\n{self.log('virt-reclaim-sparsify.service')}")
        run("e2fsck", "-fn", raw)
        run("qemu-img", "check", "-q", qcow2)

    def test_2b_libguestfs_works_under_it_too(self) -> None:
        """Its appliance is emulated here: QEMU writes code while it runs. Made outside, since the container has no kernel."""
        if shutil.which("supermin") is None or not SUPERMIN.is_dir():
            self.skipTest("no supermin, or nothing for it to make an appliance of: scripts/install-packages build")
        appliance = self.root / "srv" / "appliance"
        run("supermin", "--build", "--copy-kernel", "--format", "ext2", "--host-cpu", "x86_64", SUPERMIN, "-o", appliance)
        (appliance / "README.fixed").touch()
        raw, image = self.root / "srv" / "c.raw", self.root / "srv" / "c.qcow2"
        raw.write_bytes(os.urandom(64 * MIB))
        run("mke2fs", "-q", "-F", "-t", "ext4", "-E", "nodiscard", raw)
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image)
        raw.unlink()
        before = os.stat(image).st_blocks
        unit = "virt-reclaim-sparsify.service"
        environment = "Environment=LIBGUESTFS_PATH=/srv/appliance LIBGUESTFS_BACKEND_SETTINGS=force_tcg"
        self.addCleanup(self.drop_in(unit, "appliance", environment).unlink)
        self.instead(unit, "/usr/bin/virt-reclaim sparsify --no-libvirt --engine=libguestfs /srv/c.qcow2")
        self.assertLess(os.stat(image).st_blocks, before / 2, self.log(unit))
        (entry,) = self.entries(f"--unit={unit}", "VIRT_RECLAIM_FILE=/srv/c.qcow2")
        self.assertEqual(entry["VIRT_RECLAIM_OUTCOME"], "done", entry)
        run("qemu-img", "check", "-q", image)

    def report(self) -> dict[str, Any]:
        """Of the guest and its only disk."""
        document = json.loads(self.container.run("virt-reclaim", "-c", self.uri, "report", "--json"))
        self.assertEqual(document["message_type"], "report")
        (domain,) = document["domains"]
        return domain

    def test_3_a_guest_trims_under_the_hardening(self) -> None:
        disk = self.guest.disk("data")
        self.guest.run(f"dd if=/dev/urandom of=/mnt/data/junk bs=1M count={JUNK // MIB}; sync; rm /mnt/data/junk; sync")
        before = disk.allocation()
        self.container.run("systemctl", "daemon-reload")
        unit = "virt-reclaim-trim.service"
        self.assertEqual(self.start(unit), ("success", "0"), self.log(unit))
        freed = before - disk.allocation()
        self.assertGreater(freed, JUNK // 2, self.log(unit))
        (entry,) = self.entries(f"--unit={unit}", f"VIRT_RECLAIM_DOMAIN={DOMAIN}", "VIRT_RECLAIM_OUTCOME=done")
        self.assertEqual(entry["VIRT_RECLAIM_FREED_BYTES"], str(freed))
        # And whoever looks sees it.
        domain = self.report()
        self.assertEqual([each["allocation_bytes"] for each in domain["disks"]], [disk.allocation()])
        self.assertEqual((domain["last_trim"]["status"], domain["last_trim"]["freed_bytes"]), ("done", freed))

    def test_3b_a_block_copy_is_followed_by_a_trim(self) -> None:
        """The example that watches for it, with a real copy."""
        examples, program = PACKAGING / "examples", self.root / "usr" / "local" / "libexec" / "block-copy-watch"
        program.parent.mkdir(exist_ok=True)
        shutil.copy(examples / program.name, program)
        watcher = "block-copy-watch.service"
        shutil.copy(examples / watcher, self.root / "etc" / "systemd" / "system")
        self.drop_in(watcher, "test", f"Environment=LIBVIRT_DEFAULT_URI={self.uri}")
        self.container.run("systemctl", "daemon-reload")
        self.container.run("systemctl", "start", watcher)
        self.addCleanup(self.container.status, "systemctl", "stop", watcher)
        # virsh says nothing when it begins to listen; a connection of its own is as much as can be seen.
        self.container.wait(lambda: "event" in self.container.status("pgrep", "--list-full", "virsh")[1])
        self.guest.run(f"dd if=/dev/urandom of=/mnt/data/junk bs=1M count={JUNK // MIB}; sync; rm /mnt/data/junk; sync")
        copy = self.images / "copy.raw"
        self.host.virsh("blockcopy", DOMAIN, self.guest.disk("data").target, "--dest", copy, "--transient-job", "--wait", "--pivot")
        # By the journal: systemd forgets an instance when it is over.
        unit = f"virt-reclaim-trim@{DOMAIN}.service"
        about = (f"--unit={unit}", f"VIRT_RECLAIM_DOMAIN={DOMAIN}")
        self.container.wait(lambda: bool(self.entries(*about)), lambda: self.log(watcher) + self.log(unit))
        (entry,) = self.entries(*about)
        self.assertEqual(entry["VIRT_RECLAIM_OUTCOME"], "done", entry)
        # All that was copied of the junk is gone again.
        self.assertLess(allocation(copy), JUNK // 2, self.log(unit))

    def test_3c_a_migration_is_followed_by_a_trim(self) -> None:
        """The example of a hook: a timer of a real systemd-run, for any name, and what it starts."""
        hook = self.root / "usr" / "local" / "libexec" / "libvirt-hook-qemu"
        hook.parent.mkdir(exist_ok=True)
        shutil.copy(PACKAGING / "examples" / hook.name, hook)
        for name, instance in (("-my web", r"\x2dmy\x20web"), (DOMAIN, DOMAIN)):
            later = f"later-virt-reclaim-trim@{instance}"
            self.addCleanup(self.container.status, "systemctl", "stop", f"{later}.timer")
            # A second one finds the first; libvirt hears of neither.
            for _ in range(2):
                self.assertEqual(self.container.run(f"/usr/local/libexec/{hook.name}", name, "migrate", "begin", "-"), "")
            listed = self.container.run("systemctl", "list-timers", "--all", "--full", "--no-pager")
            self.assertIn(f"{later}.service", listed)
            timer = self.properties(f"{later}.timer", "ActiveState", "TimersMonotonic", "Unit")
            self.assertEqual((timer["ActiveState"], timer["Unit"]), ("active", f"{later}.service"))
            self.assertRegex(timer["TimersMonotonic"], "OnActiveUSec=10min ")
            starts = self.properties(f"{later}.service", "ExecStart")["ExecStart"]
            unit = f"virt-reclaim-trim@{instance}.service"
            self.assertRegex(starts.replace("\\\\", "\\"), rf"argv\[\]=\S*systemctl start --wait {re.escape(unit)} ;")
            # The guest may not be here yet.
            self.assertEqual(
                self.properties(f"{later}.service", "Restart", "RestartUSec", "StartLimitBurst"),
                {"Restart": "on-failure", "RestartUSec": "10min", "StartLimitBurst": "72"},
            )
        # Ten minutes are not waited for.
        about = (f"--unit={unit}", f"VIRT_RECLAIM_DOMAIN={DOMAIN}")
        before = len(self.entries(*about))
        self.container.run("systemctl", "start", f"{later}.service")
        self.container.wait(lambda: len(self.entries(*about)) > before, lambda: self.log(unit))

    def test_3d_images_of_a_domain_that_is_off_are_punched_under_the_hardening(self) -> None:
        image = self.images / "asleep.raw"
        image.write_bytes((b"x" + bytes(MIB - 1)) * 8)
        os.truncate(image, 64 * MIB)
        os.chmod(image, 0o600)
        before = os.stat(image).st_blocks
        self.host.define(domain_xml("asleep", ("raw", image)))
        self.addCleanup(self.host.virsh, "undefine", "asleep")
        self.policy('[[rule]]\ndomains = ["asleep"]\nways = ["punch"]\n')
        unit = "virt-reclaim-punch.service"
        self.container.run("systemctl", "daemon-reload")
        self.assertEqual(self.start(unit), ("success", "0"), self.log(unit))
        self.assertLess(os.stat(image).st_blocks, before / 8, self.log(unit))
        self.assertEqual(image.read_bytes()[: 8 * MIB], (b"x" + bytes(MIB - 1)) * 8)

    def test_4_each_service_ends_well(self) -> None:
        self.container.run("systemctl", "daemon-reload")
        for job in JOBS:
            with self.subTest(job):
                result, status = self.start(f"virt-reclaim-{job}.service")
                self.assertEqual((result, status), ("success", "0"), self.log(f"virt-reclaim-{job}.service"))
        text = self.metrics.read_text()
        self.assertIn("\nvirt_reclaim_collect_success 1\n", text)
        # The guest told it, and its image was looked at.
        self.assertIn(f'\nvirt_reclaim_domain_agent_up{{domain="{DOMAIN}"}} 1\n', text)
        self.assertRegex(text, rf'\nvirt_reclaim_disk_allocated_bytes{{[^}}]*domain="{DOMAIN}"[^}}]*}} [1-9]')

    def test_4b_a_run_that_waits_for_its_window_keeps_no_boot_waiting(self) -> None:
        """A start that systemd waits for is one of its jobs, and a boot is over when there are none."""
        hour = int(self.container.run("date", "+%H"))
        self.policy(f'[defaults]\nwindow = "{(hour + 6) % 24:02}:00-{(hour + 7) % 24:02}:00"\n')
        unit = "virt-reclaim-trim.service"
        self.container.run("systemctl", "start", unit)
        self.container.wait(lambda: "waits for the window" in self.log(unit), lambda: self.log(unit))
        self.assertNotIn(unit, self.container.run("systemctl", "list-jobs", "--no-pager"))
        self.container.run("systemctl", "stop", unit)
        self.assertEqual(self.properties(unit, "ExecMainStatus")["ExecMainStatus"], "130", self.log(unit))

    def invocation(self, job: str) -> str:
        """Of the service's last run that is over; empty without one."""
        values = self.properties(f"virt-reclaim-{job}.service", "InvocationID", "ActiveState")
        return values["InvocationID"] if values["ActiveState"] in ("inactive", "failed") else ""

    def test_5_timers_start_them(self) -> None:
        timers = [f"virt-reclaim-{job}.timer" for job in JOBS]
        before = {job: self.invocation(job) for job in JOBS}
        for timer in timers:
            self.addCleanup(self.drop_in(timer, "test", TIMER).unlink)
        self.container.run("systemctl", "daemon-reload")
        self.container.run("systemctl", "enable", "--now", *timers)
        for job in JOBS:
            with self.subTest(job):
                self.container.wait(lambda job=job: self.invocation(job) not in ("", before[job]))
                shown = self.container.run("systemctl", "show", "--property=Result", f"virt-reclaim-{job}.service")
                self.assertEqual(shown.strip(), "Result=success", self.log(f"virt-reclaim-{job}.service"))
        listed = self.container.run("systemctl", "list-timers", "--all", "--no-pager", "virt-reclaim-*")
        for timer in timers:
            self.assertIn(timer, listed)

    def entries(self, *matches: str) -> list[dict[str, Any]]:
        """Of the journal, all that match."""
        self.container.run("journalctl", "--sync")
        lines = self.container.run("journalctl", "--no-pager", "--output=json", *matches).splitlines()
        return [json.loads(line) for line in lines if line]

    def test_6_the_journal_has_fields(self) -> None:
        backup = self.root / "srv" / "fields"
        backup.mkdir()
        path = "/srv/fields/zeros of\nPRIORITY=0"
        (backup / path.rsplit("/", 1)[1]).write_bytes(bytes(MIB))
        unit = "virt-reclaim-punch.service"
        policy = self.policy('[[backups]]\ndirectory = "/srv/fields"\n')
        self.container.run("systemctl", "daemon-reload")
        self.assertEqual(self.start(unit), ("success", "0"), self.log(unit))
        # By its unit, although the process was gone soon after.
        files = self.entries(f"--unit={unit}", "MESSAGE_ID=9e69219f72fe451781c4909ff5fdd0bf", "VIRT_RECLAIM_JOB=punch")
        # Others before it were punched under the same unit.
        (file,) = (entry for entry in files if entry["VIRT_RECLAIM_FILE"] == path.replace("\n", "\\x0a"))
        expected = {
            "PRIORITY": "6", "SYSLOG_IDENTIFIER": "virt-reclaim", "VIRT_RECLAIM_JOB": "punch", "VIRT_RECLAIM_OUTCOME": "done",
            "VIRT_RECLAIM_FREED_BYTES": str(MIB), "_TRANSPORT": "journal", "_SYSTEMD_UNIT": unit,
        }
        self.assertEqual({name: file.get(name) for name in expected}, expected)
        (total, *_) = reversed(self.entries(f"--unit={unit}", "MESSAGE_ID=b77e4778ac2b43658248f0a1ee1bb631"))
        self.assertEqual((total["VIRT_RECLAIM_TOTAL_FREED_BYTES"], total["VIRT_RECLAIM_STATUS"]), (str(MIB), "0"))
        # Not once more as a table.
        texts = [entry["MESSAGE"] for entry in self.entries(f"--unit={unit}", "_TRANSPORT=stdout")]
        self.assertFalse([text for text in texts if "/srv/fields" in text], texts)

        # libvirt's test driver has one domain, which has no disk of ours.
        other = self.drop_in("virt-reclaim-trim.service", "test2", "Environment=LIBVIRT_DEFAULT_URI=test:///default")
        self.addCleanup(other.unlink)
        self.container.run("systemctl", "daemon-reload")
        self.start("virt-reclaim-trim.service")
        (domain, *_) = self.entries("--unit=virt-reclaim-trim.service", "VIRT_RECLAIM_DOMAIN=test")
        self.assertEqual(domain["VIRT_RECLAIM_JOB"], "trim")
        self.assertIn(domain["VIRT_RECLAIM_OUTCOME"], ("skipped", "done"), domain)
        self.assertTrue(domain.get("VIRT_RECLAIM_REASON"), domain)

        # What cannot begin.
        policy.write_text("[defaults]\ntreshold = 1\n")
        self.assertEqual(self.start(unit), ("exit-code", "2"))
        (wrong,) = self.entries(f"--unit={unit}", "PRIORITY=3", "MESSAGE_ID=35d6d6153aa94de9a21740f56859687c")
        self.assertIn("conf.d/test.toml:2:1: unknown key 'treshold'", wrong["MESSAGE"])

        # The agent, which waits for a port that is not there. Its own unit is one of virtual machines.
        self.container.run("systemd-run", "--unit=agent-test", "/usr/sbin/virt-reclaim-agent", "daemon", "--port=/nonexistent")
        self.addCleanup(self.container.status, "systemctl", "stop", "agent-test.service")
        self.container.wait(lambda: bool(self.entries("--unit=agent-test.service", "MESSAGE_ID=a595a9c2d0cb40ab992fcee54054bffa")))
        (agent,) = self.entries("--unit=agent-test.service", "SYSLOG_IDENTIFIER=virt-reclaim-agent")
        self.assertEqual((agent["VIRT_RECLAIM_STATE"], agent["PRIORITY"], agent["_TRANSPORT"]), ("waiting", "5", "journal"))

    def test_7_purge_stops_them(self) -> None:
        self.container.run("dpkg", "--purge", "virt-reclaim-guestfs", "virt-reclaim", "virt-reclaim-agent", "virt-reclaim-doc")
        self.assertNotIn("virt-reclaim", self.container.run("systemctl", "list-timers", "--all", "--no-pager"))
        for left in ("etc/virt-reclaim", "var/lib/virt-reclaim", "run/virt-reclaim", self.metrics.relative_to(self.root)):
            self.assertFalse((self.root / left).exists(), left)

    def user_data(self) -> str:
        if not STATIC_AGENT.is_file():
            self.skipTest("VIRT_RECLAIM_STATIC_AGENT names no static agent: scripts/build-static-agent")
        return run(PACKAGING / "examples" / "cloud-init-agent", STATIC_AGENT, VIRT_RECLAIM_AGENT_FILES=str(PACKAGING))

    def agents_files(self) -> dict[str, tuple[str, bytes]]:
        """Of the guest, whatever is there of the agent: mode and content."""
        places = [self.root / "usr" / "sbin", self.root / "etc" / "systemd" / "system", self.root / "etc" / "udev" / "rules.d"]
        found = [path for place in places for path in place.glob("*virt-reclaim-agent*") if path.is_file()]
        self.assertEqual({(path.stat().st_uid, path.stat().st_gid) for path in found} - {(0, 0)}, set())
        return {f"/{path.relative_to(self.root)}": (f"{path.stat().st_mode & 0o7777:04o}", path.read_bytes()) for path in found}

    def test_8_user_data_that_was_damaged_puts_nothing_in_place(self) -> None:
        head, mark, tail = self.user_data().partition("take /etc/udev/")
        script = self.root / "root" / "damaged"
        script.write_text(head + mark + re.sub(r"(<<'END'\n)\w{8}", r"\1AAAAAAAA", tail, count=1))
        status, output = self.container.status("sh", "/root/damaged")
        self.assertNotEqual(status, 0, output)
        self.assertEqual(self.agents_files(), {})

    def test_9_cloud_init_puts_the_agent_into_a_fresh_guest(self) -> None:
        """All but its start: there is no port here. integration/offline_facts_test runs the same user-data where one is."""
        self.assertRegex((self.root / "etc" / "cloud" / "cloud.cfg").read_text(), r"(?m)^ - scripts-user$", "not in Debian's own list")
        (self.root / "etc" / "cloud" / "cloud.cfg.d" / "99-test.cfg").write_text(CLOUD_INIT)
        seed = self.root / "var" / "lib" / "cloud" / "seed" / "nocloud"
        seed.mkdir(parents=True)
        (seed / "meta-data").write_text("instance-id: fresh\n")
        (seed / "user-data").write_text(self.user_data())
        (self.root / "etc" / "cloud" / "cloud-init.disabled").unlink()
        self.container.run("systemctl", "daemon-reload")
        for stage in CLOUD_INIT_STAGES:
            self.assertEqual(self.start(f"{stage}.service"), ("success", "0"), self.log(f"{stage}.service"))
        result = json.loads(self.container.run("cat", "/run/cloud-init/result.json"))
        self.assertEqual(result["v1"]["errors"], [], self.log("cloud-final.service"))
        self.assertIn("NoCloud", result["v1"]["datasource"])
        units = [path for path in (PACKAGING / "systemd").iterdir() if path.name.startswith("virt-reclaim-agent")]
        expected = {f"/etc/systemd/system/{path.name}": ("0644", path.read_bytes()) for path in units}
        rule = PACKAGING / "udev" / "99-virt-reclaim-agent.rules"
        expected[f"/etc/udev/rules.d/{rule.name}"] = ("0644", rule.read_bytes())
        expected[AGENT] = ("0755", STATIC_AGENT.read_bytes())
        self.assertEqual(set(self.agents_files()), set(expected))
        self.assertTrue(self.agents_files() == expected, "other modes or contents")
        version = self.container.run(AGENT, "--version")
        self.assertIn(version, (self.root / "var" / "log" / "cloud-init-output.log").read_text())
        shown = self.container.run("systemctl", "show", "--property=LoadState,FragmentPath", "virt-reclaim-agent.service")
        self.assertIn("LoadState=loaded", shown)
        self.assertIn("FragmentPath=/etc/systemd/system/virt-reclaim-agent.service", shown)

    def play(self, *words: str) -> dict[str, int]:
        """What ansible-playbook counts in the end. No udev runs in a container."""
        told = "/root/stub:/usr/sbin:/usr/bin:/sbin:/bin"
        output = self.container.run("env", f"PATH={told}", "HOME=/root", "ansible-playbook", "/root/roles.yml", *words)
        recap = output.rpartition("PLAY RECAP")[2]
        return {"told": output.count("comes with the packages, and would be started"), **{key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", recap)}}

    def agents_process(self) -> str:
        return self.container.run("systemctl", "show", "--property=MainPID,ActiveState", "virt-reclaim-agent.service")

    def test_a_roles_on_a_host_without_the_packages(self) -> None:
        """After test_7, and without what test_9 has put there."""
        for path in self.agents_files():
            (self.root / path[1:]).unlink()
        shutil.copytree(ROOT / "ansible", self.root / COLLECTIONS / "fleet", ignore=shutil.ignore_patterns("__pycache__", "output"))
        agent = self.root / "root" / "agent"
        shutil.copytree(PACKAGING / "systemd", agent / "systemd")
        shutil.copytree(PACKAGING / "udev", agent / "udev")
        unit = agent / "systemd" / "virt-reclaim-agent.service"
        unit.write_text(AGENT_UNIT)
        run("dpkg-deb", "--extract", Debian.package("virt-reclaim-agent"), self.root / "root" / "extracted")
        shutil.copy(self.root / "root" / "extracted" / AGENT[1:], agent / "program")
        stub = self.root / "root" / "stub" / "udevadm"
        stub.parent.mkdir()
        stub.write_text('#!/bin/sh\necho "$*" >>/root/udevadm.log\n')
        stub.chmod(0o755)
        self.container.run("mkdir", "/dev/virtio-ports")
        self.container.run("touch", "/dev/virtio-ports/org.virt_reclaim.agent.v1")
        (self.root / "root" / "roles.yml").write_text(PLAY.format(package=Debian.package("virt-reclaim").name))

        checked = self.play("--check")
        self.assertEqual((checked["failed"], checked["told"]), (0, 2), checked)
        self.assertFalse((self.root / "usr" / "bin" / "virt-reclaim").exists())

        first = self.play()
        self.assertEqual(first["failed"], 0, first)
        self.assertGreater(first["changed"], 4)
        self.assertIn("config check", self.container.run("virt-reclaim", "config", "--help"))
        self.container.run("systemctl", "is-active", "virt-reclaim-trim.timer", "virt-reclaim-metrics.timer")
        self.container.run("systemctl", "is-enabled", "virt-reclaim-trim.timer", "virt-reclaim-metrics.timer")
        self.assertNotEqual(self.container.status("systemctl", "is-active", "virt-reclaim-sparsify.timer")[0], 0)
        self.assertEqual((self.root / "root" / "udevadm.log").read_text(), "control --reload\n")
        before = self.agents_process()
        self.assertIn("ActiveState=active", before)

        for words in ((), ("--check",)):
            again = self.play(*words)
            self.assertEqual((again["failed"], again["changed"]), (0, 0), again)
        self.assertEqual(self.agents_process(), before)

        # A unit alone is another one.
        unit.write_text(AGENT_UNIT + "Nice=1\n")
        changed = self.play()
        self.assertEqual((changed["failed"], changed["changed"]), (0, 2), changed)
        after = self.agents_process()
        self.assertIn("ActiveState=active", after)
        self.assertNotEqual(after, before)

    def test_b_commands_of_the_documents(self) -> None:
        """Of apt and systemd, on the host that test_a leaves; that of a purge at the end."""
        found = [command for page in pages(ROOT) for command in commands(page, (ROOT / page).read_text()) if OF_SYSTEMD.match(command.text)]
        self.assertGreater(len(found), 8, found)
        (self.root / "root" / "build").mkdir()
        for link in ("build/packages", "packages"):
            (self.root / "root" / link).symlink_to("/packages")
        (self.root / "etc" / "apt" / "apt.conf.d" / "test").write_text('APT::Get::Assume-Yes "true";\n')
        for package in (self.root / "packages").glob("virt-reclaim-agent_*.deb"):
            shutil.copy(package, self.root / "root")
        for command in sorted(found, key=lambda command: "purge" in command.text):
            with self.subTest(str(command)):
                self.container.run("sh", "-c", f"cd /root && {command.text}")
        self.assertFalse((self.root / "usr" / "bin" / "virt-reclaim").exists())


if __name__ == "__main__":
    require("systemd-nspawn", "nsenter", "qemu-img", "mke2fs", "virsh", "qemu-system-x86_64", "busybox")
    if not list(Path("/boot").glob("vmlinuz-*-cloud-*")):
        skip_all("no cloud kernel in /boot: scripts/install-packages run")
    main()
