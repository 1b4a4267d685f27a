"""The agent is put into a real guest by its qemu-guest-agent: port plugged in, program copied, checked and started.

The guest has busybox's init, so that its agent is started by the command of the step that is printed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bedpath

from vrtest import Disk, Guest, HostTestCase, built, main, wait_for
from vrtest.guest import AGENT_PORT, NEW_MACHINE, QEMU_GA_PORT

PACKAGING = Path(__file__).resolve().parents[2] / "packaging"
DONE, FAILED, REFUSED = 0, 1, 5
DOMAIN = "fresh"
PROGRAM_IN_GUEST = "/usr/sbin/virt-reclaim-agent"


def start_qemu_ga(*words: str) -> str:
    return f"""
set -e
[ ! -e /run/qemu-ga/pid ] || kill $(cat /run/qemu-ga/pid)
while [ -e /run/qemu-ga/pid ]; do sleep 0.1; done
vr-ports
mkdir -p /run/qemu-ga
qemu-ga -m virtio-serial -p /dev/virtio-ports/{QEMU_GA_PORT} -t /run/qemu-ga -f /run/qemu-ga/pid -d {' '.join(words)}
"""


class AgentInstall(HostTestCase):
    """The methods are one story and run in the order of their names."""

    # The units and the rule are read from there; into a guest without systemd none of them goes.
    environment = {"VIRT_RECLAIM_AGENT_FILES": str(PACKAGING)}

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.guest = Guest(
            cls.host, DOMAIN, machine=NEW_MACHINE, agent=AGENT, ports=(QEMU_GA_PORT,), guest_options=("--qemu-ga",),
            disks=[Disk("root", discard="unmap")],
        )
        cls.guest.start()
        # The libraries stay, the program goes.
        cls.guest.run(f"vr-agent kill; rm {PROGRAM_IN_GUEST}", check=False)
        cls.guest.run(start_qemu_ga())

    def install(self, *words: str) -> tuple[int, dict[str, Any]]:
        reply = self.reclaim.run("agent", "install", DOMAIN, f"--agent-binary={AGENT}", *words, seconds=300)
        try:
            (domain,) = reply.json["domains"]
        except (KeyError, ValueError):
            self.fail(f"no answer: {reply}")
        return reply.status, domain

    def leftovers(self) -> str:
        return self.guest.run("ls -A /usr/sbin | grep virt-reclaim-new; true").output.strip()

    def test_1_a_dry_run_changes_nothing(self) -> None:
        status, domain = self.install("--dry-run")
        self.assertEqual((status, domain["status"]), (DONE, "planned"), domain)
        self.assertEqual(domain["port"], {"definition": "to-add", "running": "to-add"})
        self.assertEqual(domain["files"], [PROGRAM_IN_GUEST])
        self.assertNotIn(AGENT_PORT, self.guest.live_xml() + self.guest.saved_xml())
        self.guest.run(f"[ ! -e {PROGRAM_IN_GUEST} ]")

    def test_2_a_full_disk_leaves_nothing(self) -> None:
        self.guest.run("mount -t tmpfs -o size=64k small /usr/sbin")
        try:
            status, domain = self.install()
            self.assertEqual((status, domain["status"]), (FAILED, "failed"), domain)
            self.assertIn("space", domain["error"])
            self.assertEqual(self.guest.run("ls -A /usr/sbin").output.strip(), "")
        finally:
            self.guest.run("umount /usr/sbin")

    def test_3_it_is_installed_and_its_port_is_plugged_in(self) -> None:
        status, domain = self.install()
        self.assertEqual((status, domain["status"], domain["reasons"]), (DONE, "done", ["no-systemd"]), domain)
        self.assertIn(AGENT_PORT, self.guest.live_xml())
        self.assertIn(AGENT_PORT, self.guest.saved_xml())
        self.assertEqual(self.leftovers(), "")
        (step,) = domain["steps"]
        self.guest.run(f"{' '.join(step['command'])} </dev/null >/dev/null 2>&1 & echo $! >/run/agent-by-hand")
        wait_for("the agent that was installed", lambda: self.agent()["agent"] is not None, seconds=60)
        self.assertEqual(self.agent()["agent"]["version"], domain["version"])

    def test_4_a_second_call_has_nothing_to_do(self) -> None:
        before = self.guest.saved_xml()
        status, domain = self.install()
        self.assertEqual((status, domain["files"], domain["starts"]), (DONE, [], False), domain)
        self.assertEqual(domain["port"], {"definition": "there", "running": "there"})
        self.assertEqual(self.guest.saved_xml(), before)

    def test_5_blocked_commands_are_named(self) -> None:
        self.guest.run(start_qemu_ga("-b", "guest-exec,guest-file-write"))
        # It is of this version, which it says itself.
        self.assertEqual(self.install()[0], DONE)
        self.guest.run("kill $(cat /run/agent-by-hand)")
        wait_for("its end", lambda: self.agent()["agent"] is None, seconds=60)
        status, domain = self.install()
        self.assertEqual((status, domain["reasons"]), (REFUSED, ["commands-blocked"]), domain)
        (explained,) = domain["reasons_explained"]
        self.assertEqual(explained["detail"], "guest-exec, guest-file-write")

    def test_6_for_a_guest_that_is_off_there_are_steps(self) -> None:
        self.guest.shutdown()
        status, domain = self.install()
        self.assertEqual((status, domain["reasons"]), (REFUSED, ["not-running"]), domain)
        (step,) = domain["steps"]
        self.assertEqual(step["command"][0], "virt-customize")
        self.assertIn(f"{AGENT}:{PROGRAM_IN_GUEST}", step["command"])

    def agent(self) -> dict[str, Any]:
        (domain,) = self.reclaim.run("agent", "status", DOMAIN).json["domains"]
        return domain


if __name__ == "__main__":
    bedpath.require_bed("qemu-ga")
    PROGRAM, AGENT = built("virt-reclaim", "virt-reclaim-agent")
    main(one_story=True)
