"""A hypervisor with 500 domains, of which 5 % fail in five ways: migrated in one go, by a plan that was saved before, and back."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import bedpath

from vrtest import HostTestCase, Reply, VirtReclaim, built, main, wait_for
from vrtest.guest import MIB, OLD_MACHINE

DONE, SOME_FAILED, INTERRUPTED = 0, 3, 130
DOMAINS = 500
EACH = 5  # domains that fail in each of the ways
MANAGED, SAVED, CHANGED, GONE, BROKEN = (range(i * EACH, (i + 1) * EACH) for i in range(5))
WELL = range(5 * EACH, DOMAINS)
PASSWORD = "s3cr3t!"

NOVA = '<metadata><nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1"/></metadata>'


def name_of(number: int) -> str:
    return f"vm-{number:03d}"


def uuid_of(number: int) -> str:
    return str(uuid.UUID(int=0x7C0FFEE << 64 | 0x8000 << 48 | number))


def domain_xml(number: int, image: Path) -> str:
    return f"""<domain type='qemu'>
  <name>{name_of(number)}</name>
  <uuid>{uuid_of(number)}</uuid>
  {NOVA if number in MANAGED else ''}
  <memory unit='MiB'>128</memory>
  <os><type arch='x86_64' machine='{OLD_MACHINE}'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='{image}'/><target dev='vda' bus='virtio'/>
    </disk>
    <graphics type='vnc' passwd='{PASSWORD}'/>
  </devices>
</domain>
"""


class Fleet(HostTestCase):
    """The methods are one story and run in the order of their names."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.plan = cls.space.path / "plan.json"
        commands = []
        for number in range(DOMAINS):
            image = cls.space.path / f"{name_of(number)}.raw"
            with open(image, "wb") as file:
                file.truncate(64 * MIB)
            path = cls.space.path / f"{name_of(number)}.xml"
            path.write_text(domain_xml(number, image))
            commands.append(f"define {path}")
        cls.virsh(commands)
        # Where libvirt keeps it; it looks when it is opened.
        saves = cls.host.root / "lib" / "qemu" / "save"
        saves.mkdir(parents=True, exist_ok=True)
        for number in SAVED:
            (saves / f"{name_of(number)}.save").write_bytes(b"")
        cls.before = cls.definitions()

    @classmethod
    def virsh(cls, commands: Iterable[str]) -> None:
        subprocess.run(
            ["virsh", "-q", "-c", cls.host.uri], env=cls.host.environment(), input="\n".join(commands), text=True,
            stdout=subprocess.DEVNULL, check=True, timeout=300,
        )

    @classmethod
    def definitions(cls) -> dict[int, str]:
        """As libvirt has them on disk, passwords and all."""
        directory = cls.host.root / "etc" / "qemu"
        return {n: path.read_text() for n in range(DOMAINS) if (path := directory / f"{name_of(n)}.xml").exists()}

    def run_timed(self, what: str, status: int, *words: str) -> Reply:
        begin = time.monotonic()
        reply = self.reclaim.run("migrate", *words, seconds=300)
        print(f"{what}: {time.monotonic() - begin:.1f} s", flush=True)
        self.assertEqual(reply.status, status, str(reply)[:2000])
        self.assertNotIn(PASSWORD, reply.stdout + reply.stderr)
        return reply

    def assert_migrated(self, numbers: Iterable[int]) -> None:
        now = self.definitions()
        for number in numbers:
            expected = self.before[number].replace("type='raw'/>", "type='raw' discard='unmap'/>")
            expected = expected.replace(OLD_MACHINE, "pc-i440fx-4.0")
            self.assertEqual(now[number], expected)

    def test_1_plan(self) -> None:
        plan = self.run_timed(f"plan of {DOMAINS} domains", DONE, "plan", "--assume", "--save", str(self.plan))
        blockers = Counter(code for domain in plan.json["domains"] for code in domain["blockers"])
        self.assertEqual(blockers, {"managed": EACH, "managed-save": EACH})
        saved = json.loads(self.plan.read_text())
        self.assertEqual(len(saved["domains"]), DOMAINS - 2 * EACH)
        self.assertNotIn(PASSWORD, self.plan.read_text())
        self.assertEqual(self.definitions(), self.before)

    def test_2_apply_what_is_as_it_was(self) -> None:
        for number in CHANGED:
            path = self.space.path / f"{name_of(number)}.xml"
            path.write_text(path.read_text().replace(">128<", ">256<"))
        self.virsh([f"define {self.space.path / name_of(number)}.xml" for number in CHANGED])
        self.virsh([f"undefine {name_of(number)}" for number in GONE])
        now = self.definitions()
        # Where the state of their migrations is to go there is something else.
        journals = self.state_directory()
        for number in BROKEN:
            (journals / uuid_of(number)).write_text("")
        applied = self.run_timed("apply", SOME_FAILED, "apply", "--plan", str(self.plan), "--batch", "10%").json["domains"]
        self.assertEqual(len(applied), DOMAINS - 2 * EACH)
        statuses = Counter(domain["status"] for domain in applied)
        self.assertEqual(statuses, {"done": len(WELL), "skipped": 2 * EACH, "failed": EACH})
        reasons = Counter(code for domain in applied for code in domain["reasons"])
        self.assertEqual(reasons, {"changed-since-plan": 2 * EACH})
        self.assert_migrated(WELL)
        for number in (*MANAGED, *SAVED, *CHANGED, *BROKEN):
            self.assertEqual(self.definitions()[number], now[number])

    def state_directory(self) -> Path:
        """As MigrationStore names it."""
        name = re.sub(r"[^A-Za-z0-9.-]", lambda match: f"%{ord(match[0]):02X}", self.host.uri)
        directory = self.space.path / "state" / "migrate" / name
        directory.mkdir(parents=True)
        return directory

    def test_3_once_more_there_is_nothing_left(self) -> None:
        now = self.definitions()
        again = self.run_timed("apply again", SOME_FAILED, "apply", "--plan", str(self.plan)).json["domains"]
        self.assertEqual(sum(len(domain["changes"]) for domain in again), 0)
        self.assertEqual(self.definitions(), now)
        steps = Counter(
            domain["migration"]["step"]
            for domain in self.run_timed("status", SOME_FAILED, "status", "--plan", str(self.plan)).json["domains"]
            if domain["migration"]
        )
        self.assertEqual(steps, {"defined": len(WELL)})

    def test_4_back(self) -> None:
        self.run_timed("rollback", SOME_FAILED, "rollback", "--plan", str(self.plan))
        now = self.definitions()
        for number in WELL:
            self.assertEqual(now[number], self.before[number])
            self.assertIn(PASSWORD, now[number])

    def test_5_too_many_failures_stop_it(self) -> None:
        # The broken ones come first by name.
        names = [name_of(number) for number in (*BROKEN, *WELL)]
        applied = self.run_timed(
            "apply until too many failed", SOME_FAILED, "apply", "--assume", "--batch", "10", "--max-failures", "4", *names
        ).json["domains"]
        reasons = Counter(code for domain in applied for code in domain["reasons"])
        self.assertEqual(reasons, {"too-many-failures": len(WELL) - 5})
        self.assert_migrated([*WELL][:5])

    def test_6_interrupted_the_first_is_whole_and_the_rest_is_untouched(self) -> None:
        numbers = [*WELL][10:14]
        names = [name_of(number) for number in numbers]
        first, rest = names[0], names[1:]
        program = self.reclaim.start("migrate", "apply", "--assume", "--batch", "1", "--pause", "60s", *names)
        # Interrupted before that is written down it would be undone, as test 7 has it.
        wait_for("the first domain", lambda: self.step_of(numbers[0]) == "defined", seconds=60, pause=0.02)
        program.send_signal(signal.SIGINT)
        begin = time.monotonic()
        stdout, stderr = program.communicate(timeout=60)
        self.assertLess(time.monotonic() - begin, 2)
        self.require_told(Reply(program.returncode, stdout, stderr), {first: "done", **dict.fromkeys(rest, "cancelled")})

    def test_7_interrupted_in_the_middle_of_a_definition_it_says_what_was_done(self) -> None:
        """At each sync of a journal or a definition, of which the first domains have a handful each."""
        numbers = [*WELL][20:24]
        names = [name_of(number) for number in numbers]
        for point in range(1, 10):
            with self.subTest(point=point):
                interrupted = VirtReclaim(
                    PROGRAM, self.host, LD_PRELOAD=str(KILLER), VR_KILL_AT_SYNC=str(point), VR_KILL_IN="/state/:/etc/qemu/",
                    VR_KILL_WITH=str(int(signal.SIGINT)),
                )
                reply = interrupted.run("migrate", "apply", "--assume", "--batch", "1", *names)
                told = {domain["name"]: domain["status"] for domain in reply.json["domains"]}
                self.assertIn("cancelled", told.values())
                self.require_told(reply, told)
                # The next call goes on; then from the beginning again.
                self.assertEqual(self.reclaim.run("migrate", "apply", "--assume", *names).status, DONE)
                self.assert_migrated(numbers)
                self.assertEqual(self.reclaim.run("migrate", "rollback", *names).status, DONE)

    def step_of(self, number: int) -> str:
        """Where the journal of its latest migration stands. 'migrate status' would wait for the other program's libvirt."""
        journals = self.space.path.glob(f"state/migrate/*/{uuid_of(number)}/*/journal.jsonl")
        lines = max(journals).read_text().splitlines()
        return str(json.loads(lines[-1])["step"])

    def require_told(self, reply: Reply, expected: dict[str, str]) -> None:
        """Interrupted; and each definition is what is told of it."""
        self.assertEqual(reply.status, INTERRUPTED, str(reply))
        self.assertEqual({domain["name"]: domain["status"] for domain in reply.json["domains"]}, expected, str(reply))
        now = self.definitions()
        for domain in reply.json["domains"]:
            number = int(domain["name"].removeprefix("vm-"))
            if domain["status"] == "done":
                self.assert_migrated([number])
                self.assertTrue(domain["changes"], str(reply))
            else:
                self.assertEqual(now[number], self.before[number], domain["name"])


if __name__ == "__main__":
    bedpath.require_bed()
    PROGRAM, KILLER = built("virt-reclaim", "libkill_at_sync.so")
    main(one_story=True)
