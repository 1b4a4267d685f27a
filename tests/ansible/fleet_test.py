"""The playbooks over 22 hypervisors with real sshd: one power-cycles a real guest, one fails, one does not answer."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path
from typing import Any

import ansiblelib
import fleet
from vrtest import Disk, Guest, VirtReclaim, allocation, built, main, skip_all, wait_for
from vrtest.guest import MIB, OLD_MACHINE
from vrtest.programs import find_program

COUNT = 22
CANARY, FAILING, SILENT, ONE_BACK = "host01", "host07", "host22", "host05"
JUNK = 48 * MIB
GARBAGE = 6 * MIB
TARGET_SECONDS = 180
MOST_SECONDS = 150  # of one playbook
# ansible-playbook's: 2 some failed, 4 some did not answer.
FAILED, UNREACHABLE = 2, 4
RECAP = re.compile(r"^(host\d+)\s+: (.*)$", re.M)
MIGRATE = {
    "virt_reclaim_assume": True, "virt_reclaim_power_cycle": "shutdown", "virt_reclaim_shutdown_timeout": "60s",
    "virt_reclaim_verify_timeout": "90s",
}

EXTRA_PLAY = """\
- name: The roles and modules that the playbooks do not use
  hosts: host02:host03
  gather_facts: false
  roles:
    - role: virt_reclaim.fleet.host
      vars:
        virt_reclaim_host_packages: []
        virt_reclaim_host_config_dir: "{{ host_directory }}/etc"
        virt_reclaim_host_state_dir: "{{ host_directory }}/state"
        virt_reclaim_host_policy: "# written by the role\\n"
        virt_reclaim_host_program: "{{ virt_reclaim_program }}"
    - role: virt_reclaim.fleet.agent
      vars:
        virt_reclaim_agent_binary: "{{ agent_binary }}"
        virt_reclaim_agent_units: "{{ agent_units }}"
        virt_reclaim_agent_program: "{{ host_directory }}/virt-reclaim-agent"
        virt_reclaim_agent_unit_dir: "{{ host_directory }}/units/"
        virt_reclaim_agent_udev_dir: "{{ host_directory }}/rules/"
        virt_reclaim_agent_systemd: false
  tasks:
    - name: Punch
      virt_reclaim.fleet.punch:
        program: "{{ virt_reclaim_program }}"
        run_dir: "{{ host_directory }}/run"
        paths: ["{{ host_directory }}/backup.raw"]
    - name: Sparsify
      virt_reclaim.fleet.sparsify:
        program: "{{ virt_reclaim_program }}"
        run_dir: "{{ host_directory }}/run"
        no_libvirt: true
        engine: native
        targets: ["{{ host_directory }}/off.raw"]
      environment:
        VIRT_RECLAIM_FREEMAP: "{{ freemap }}"
"""


class Recap:
    """The last lines of ansible-playbook: what became of each host."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.status = done.returncode
        self.text = done.stdout + done.stderr
        self.hosts = {
            name: {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", counts)} for name, counts in RECAP.findall(done.stdout)
        }

    def those(self, what: str) -> set[str]:
        return {name for name, counts in self.hosts.items() if counts[what]}


class Story(unittest.TestCase):
    """The methods are one story and run in the order of their names."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.begin = time.monotonic()
        cls.seconds: dict[str, float] = {}
        cls.collections = ansiblelib.collections_path(SPACE)
        cls.fleet = fleet.Fleet(SPACE, COUNT, silent=SILENT)
        cls.addClassCleanup(cls.fleet.close)
        cls.fleet.write_inventory(PROGRAM)
        canary = cls.fleet.hosts[CANARY]
        cls.guest = Guest(canary.libvirt, "real", machine=OLD_MACHINE, agent=AGENT, disks=[Disk("data", size=256 * MIB)])
        cls.guest.start()
        cls.addClassCleanup(cls.guest.destroy)
        cls.guest.run("head -c 1000000 /dev/urandom >/mnt/data/precious; sync")
        reclaim = VirtReclaim(PROGRAM, canary.libvirt)
        wait_for("the guest's agent", lambda: reclaim.run("agent", "status", "real").status == 0, seconds=60)
        cls.sum = cls.guest.run("sha256sum /mnt/data/precious").output
        # Its migration cannot be written down.
        broken = cls.fleet.hosts[FAILING].state_of("db")
        broken.parent.mkdir(parents=True)
        broken.write_text("")
        cls.before = cls.definitions()
        cls.note("the fleet", cls.begin)

    @classmethod
    def tearDownClass(cls) -> None:
        whole = time.monotonic() - cls.begin
        print("; ".join(f"{what} {seconds:.1f} s" for what, seconds in cls.seconds.items()), f"; all {whole:.1f} s", flush=True)

    @classmethod
    def note(cls, what: str, begin: float) -> None:
        cls.seconds[what] = time.monotonic() - begin

    @classmethod
    def definitions(cls) -> dict[str, dict[str, str]]:
        return {name: host.definitions() for name, host in cls.fleet.hosts.items()}

    def play(self, what: str, playbook: str, *words: str, **variables: Any) -> Recap:
        begin = time.monotonic()
        environment = {
            **os.environ, "ANSIBLE_CONFIG": str(SPACE / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(self.collections),
            "ANSIBLE_NOCOLOR": "1", "ANSIBLE_HOME": str(SPACE / "home"), "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = ["ansible-playbook", playbook, "-e", json.dumps(variables), *words]
        # Into a file: whatever a playbook leaves behind would hold a pipe open.
        with (SPACE / "play.log").open("w+", encoding="utf-8") as log:
            with subprocess.Popen(
                command, env=environment, cwd=SPACE, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            ) as ansible:
                try:
                    status = ansible.wait(MOST_SECONDS)
                except subprocess.TimeoutExpired:
                    # Only this PID namespace is seen.
                    shown = subprocess.run(["ps", "axfo", "pid,stat,wchan:24,etimes,args"], capture_output=True, text=True, check=False)
                    os.killpg(ansible.pid, signal.SIGKILL)
                    log.seek(0)
                    self.fail(f"{what}: hangs\n{log.read()}\n{shown.stdout}")
            log.seek(0)
            done = subprocess.CompletedProcess(command, status, log.read(), "")
        self.note(what, begin)
        print(f"{what}: {self.seconds[what]:.1f} s", flush=True)
        return Recap(done)

    def migrated(self, old: str) -> str:
        return old.replace("type='raw'/>", "type='raw' discard='unmap'/>").replace(OLD_MACHINE, "pc-i440fx-4.0")

    def assert_definitions(self, expected: dict[str, bool]) -> None:
        """Per host: migrated, or as at the beginning."""
        now = self.definitions()
        for name, new in expected.items():
            for domain, old in self.before[name].items():
                self.assertEqual(now[name][domain], self.migrated(old) if new else old, f"{name}: {domain}")

    def all_but(self, *names: str) -> set[str]:
        return set(self.fleet.hosts) - set(names)

    def test_1_report(self) -> None:
        recap = self.play("report", "virt_reclaim.fleet.report", virt_reclaim_report_dir=str(SPACE))
        self.assertEqual(recap.status, 0, recap.text)
        with open(SPACE / "report.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        disks = [row for row in rows if row["domain"]]
        self.assertEqual(len(disks), (COUNT - 1) * len(fleet.DOMAINS) + 1)
        self.assertEqual({row["host"] for row in rows if row["error"]}, {SILENT})
        (real,) = [row for row in rows if row["domain"] == "real"]
        self.assertEqual((real["host"], real["blockers"]), (CANARY, "machine-too-old discard-ignored"))
        self.assertGreater(int(real["guest_used_bytes"] or 0), 0, real)
        html = (SPACE / "report.html").read_text()
        self.assertIn(f"<p class=\"trouble\">Nothing is known of 1: {SILENT}", html)
        self.assertEqual(html.count("<td>vda</td>"), len(disks))

    def test_2_check_mode_says_it_and_changes_nothing(self) -> None:
        recap = self.play("check", "virt_reclaim.fleet.migrate", "--check", "--diff", "--limit", "host02:host03", **MIGRATE)
        self.assertEqual(recap.status, 0, recap.text)
        self.assertEqual(recap.those("changed"), {"host02", "host03"})
        self.assertIn("discard='unmap'", recap.text)
        self.assertFalse((self.fleet.hosts["host02"].directory / "state" / "plan.json").exists())
        self.assertEqual(self.definitions(), self.before)

    def test_3_a_wave_with_a_failure_is_the_last(self) -> None:
        recap = self.play("migrate, stops", "virt_reclaim.fleet.migrate", virt_reclaim_waves=[1, 6, "100%"], **MIGRATE)
        self.assertEqual(recap.status & FAILED, FAILED, recap.text)
        self.assertEqual(recap.those("unreachable"), {SILENT}, recap.text)
        self.assertEqual(recap.those("failed"), {FAILING}, recap.text)
        # Where it failed what was done is undone; what comes after it was not begun.
        first = {f"host{number:02}" for number in range(1, 7)}
        self.assert_definitions({name: name in first for name in self.fleet.hosts})
        self.assertEqual(recap.those("changed"), first | {FAILING}, recap.text)
        self.guest.was_power_cycled()
        self.assertIn("discard='unmap'", self.guest.live_xml())
        self.assertEqual(self.guest.run("sha256sum /mnt/data/precious").output, self.sum)

    def test_4_more_failures_are_allowed(self) -> None:
        recap = self.play(
            "migrate, goes on", "virt_reclaim.fleet.migrate", virt_reclaim_waves=["50%", "100%"], virt_reclaim_max_fail_percentage=20,
            **MIGRATE,
        )
        self.assertEqual(recap.those("failed"), {FAILING}, recap.text)
        self.assert_definitions({name: name not in (FAILING, SILENT) for name in self.fleet.hosts})
        self.assertEqual(recap.those("changed"), self.all_but(SILENT, *[f"host{number:02}" for number in range(1, 7)]))

    def test_5_once_more_nothing_changes(self) -> None:
        now = self.definitions()
        recap = self.play("migrate again", "virt_reclaim.fleet.migrate", "--limit", f"all:!{FAILING}", **MIGRATE)
        self.assertEqual(recap.status, UNREACHABLE, recap.text)
        self.assertEqual((recap.those("changed"), recap.those("failed")), (set(), set()), recap.text)
        self.assertEqual(self.definitions(), now)

    def test_6_repaired(self) -> None:
        self.fleet.hosts[FAILING].state_of("db").unlink()
        recap = self.play("repaired", "virt_reclaim.fleet.migrate", "--limit", FAILING, **MIGRATE)
        self.assertEqual((recap.status, recap.those("changed")), (0, {FAILING}), recap.text)
        self.assert_definitions({FAILING: True})

    def test_7_one_back(self) -> None:
        recap = self.play("rollback of one", "virt_reclaim.fleet.rollback", virt_reclaim_hosts=ONE_BACK)
        self.assertEqual((recap.status, recap.those("changed")), (0, {ONE_BACK}), recap.text)
        self.assert_definitions({name: name not in (SILENT, ONE_BACK) for name in self.fleet.hosts})
        again = self.play("rollback again", "virt_reclaim.fleet.rollback", virt_reclaim_hosts=ONE_BACK)
        self.assertEqual((again.status, again.those("changed")), (0, set()), again.text)

    def test_8_trim(self) -> None:
        self.guest.run(f"dd if=/dev/urandom of=/mnt/data/junk bs=1M count={JUNK // MIB}; sync; rm /mnt/data/junk; sync")
        disk = self.guest.disk("data")
        before = disk.allocation()
        recap = self.play("trim", "virt_reclaim.fleet.trim", "--diff", "--limit", CANARY)
        self.assertEqual((recap.status, recap.those("changed")), (0, {CANARY}), recap.text)
        self.assertGreater(before - disk.allocation(), JUNK // 2)
        again = self.play("trim again", "virt_reclaim.fleet.trim", "--limit", CANARY)
        self.assertEqual((again.status, again.those("changed")), (0, set()), again.text)

    def test_9_roles_and_the_other_modules(self) -> None:
        self.before_sparsify: dict[str, int] = {}
        for name in ("host02", "host03"):
            directory = self.fleet.hosts[name].directory
            (directory / "backup.raw").write_bytes(b"x" * MIB + bytes(4 * MIB) + b"y" * MIB)
            image = directory / "off.raw"
            with open(image, "wb") as file:
                file.truncate(64 * MIB)
            fleet.run("/usr/sbin/mke2fs", "-q", "-t", "ext4", image)
            with open(image, "r+b") as file:
                # Within the seventh group of blocks, which has nothing of the filesystem's own.
                file.seek(49 * MIB)
                file.write(b"z" * GARBAGE)
            self.before_sparsify[name] = allocation(image)
            for part in ("units", "rules"):
                (directory / part).mkdir()
        path = SPACE / "extra.yml"
        path.write_text(EXTRA_PLAY)
        variables = {
            "agent_binary": str(AGENT), "agent_units": str(ansiblelib.ROOT / "packaging"), "freemap": str(find_program("virt-reclaim-freemap")),
        }
        first = self.play("roles, punch, sparsify", str(path), **variables)
        self.assertEqual((first.status, first.those("changed")), (0, {"host02", "host03"}), first.text)
        for name in ("host02", "host03"):
            directory = self.fleet.hosts[name].directory
            self.assertLess(allocation(directory / "backup.raw"), 3 * MIB)
            self.assertGreaterEqual(self.before_sparsify[name] - allocation(directory / "off.raw"), GARBAGE)
            self.assertEqual((directory / "etc" / "conf.d" / "50-ansible.toml").read_text(), "# written by the role\n")
            self.assertTrue(os.access(directory / "virt-reclaim-agent", os.X_OK))
        again = self.play("roles, punch, sparsify again", str(path), **variables)
        self.assertEqual((again.status, again.those("changed")), (0, set()), again.text)

    def test_a_it_was_quick(self) -> None:
        playbooks = sum(seconds for what, seconds in self.seconds.items() if what.startswith(("migrate", "rollback", "repaired")))
        self.assertLess(playbooks, TARGET_SECONDS, str(self.seconds))


if __name__ == "__main__":
    if os.geteuid() != 0:
        skip_all("needs root: namespaces, QEMU and the images belong to it")
    ansiblelib.require("ansible-playbook", "sshd", "ssh-keygen", "ip", "unshare", "virsh", "qemu-system-x86_64", "busybox", "mke2fs")
    if not list(Path("/boot").glob("vmlinuz-*-cloud-*")):
        skip_all("no cloud kernel in /boot: scripts/install-packages run")
    PROGRAM, AGENT = built("virt-reclaim", "virt-reclaim-agent")
    SPACE = fleet.enter_namespaces()
    sys.dont_write_bytecode = True
    main(one_story=True)
