"""The link between host and agent on a real port, treated badly: programs killed, guests reset, ports taken.

What holds throughout: a call ends within its deadline with a clear word, and the next one works.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
import unittest
from dataclasses import dataclass

import bedpath

from vrtest import Disk, EmbedHost, Guest, Reply, VirtReclaim, Workspace, agent_path, host_program_path, main, skip_all
from vrtest import TimedOut, wait_for
from vrtest.guest import NEW_MACHINE
from vrtest.workspace import qemu_processes

DOMAIN = "link"
BUSY = 5
# For a call that works, from the start of the program to its end.
CALL_SECONDS = 2.0
# For a call to a dead, frozen or resetting peer to give up.
GIVE_UP_SECONDS = 60.0
CONNECTS = 100
KILLED = 20


@dataclass(frozen=True)
class Footprint:
    fds: int
    threads: int
    resident_kib: int


class Link(unittest.TestCase):
    slowest = 0.0

    @classmethod
    def setUpClass(cls) -> None:
        cls.space = Workspace()
        cls.addClassCleanup(cls.space.close)
        cls.host = EmbedHost(cls.space.path)
        cls.reclaim = VirtReclaim(PROGRAM, cls.host)
        cls.guest = Guest(
            cls.host, DOMAIN, machine=NEW_MACHINE, agent=AGENT,
            disks=[Disk(f"ext4-{number}", bus="virtio", discard="unmap") for number in range(4)],
        )
        cls.guest.start()

    def setUp(self) -> None:
        self.require_call_works("at the start of a test")

    def tearDown(self) -> None:
        # Even a test that failed leaves the next one a guest that runs.
        for pid in qemu_processes(self.space.path):
            os.kill(pid, signal.SIGCONT)

    def test_a_hundred_connects_twenty_of_them_killed_in_mid_stream(self) -> None:
        # The first calls of each kind make the allocator's pools; growth after that is the session layer's.
        for number in range(10):
            self.require_call_works("while warming up")
            self.kill_a_trim(after=0.08 * number)
        self.require_call_works("at the end of the warm-up")
        before = self.footprint()
        for number in range(CONNECTS):
            if number % (CONNECTS // KILLED) == 0:
                # Spread over the life of a call, from the connect to the stream.
                self.kill_a_trim(after=0.04 * (number // (CONNECTS // KILLED)))
            else:
                self.require_call_works(f"connect {number}")
        self.require_call_works("after all that")
        try:
            after = wait_for("a small agent", lambda: self.footprint_if_within(before), seconds=20)
        except TimedOut:
            self.fail(f"the agent has grown: {before} -> {self.footprint()}")
        print(f"agent before {before}, after {after}; the slowest call took {self.slowest:.2f} s")

    def test_agent_killed_while_nobody_calls(self) -> None:
        self.guest.run("vr-agent kill")
        self.require_clear_failure(self.call("agent", "status", DOMAIN))
        self.guest.run("vr-agent start")
        self.require_call_works("after the agent came back")

    def test_agent_killed_in_mid_call(self) -> None:
        with self.start_trim() as running:
            self.guest.run("vr-agent kill; vr-agent start")
            self.require_ends(running)
        self.require_call_works("after the agent came back")

    def test_guest_reset_in_mid_call(self) -> None:
        with self.start_trim() as running:
            # From inside, at once and without a word to anybody: libvirt is the caller's while it calls.
            self.guest.run("(sleep 0.1; echo b >/proc/sysrq-trigger) >/dev/null 2>&1 &")
            self.require_ends(running)
        self.guest.wait_until_up()
        self.require_call_works("after the guest came back")

    def test_guest_stops_in_mid_call_and_goes_on(self) -> None:
        (qemu,) = qemu_processes(self.space.path)
        with self.start_trim() as running:
            os.kill(qemu, signal.SIGSTOP)
            time.sleep(4)
            os.kill(qemu, signal.SIGCONT)
            self.require_ends(running)
        self.require_call_works("after the guest went on")

    def test_paused_guest_is_named_and_does_not_stall(self) -> None:
        self.guest.pause()
        try:
            reply = self.call("trim", DOMAIN)
        finally:
            self.guest.resume()
        self.assertNotEqual(reply.status, 0, str(reply))
        self.assertIn("paused", reply.stdout + reply.stderr)
        self.require_call_works("after the guest went on")

    def test_a_domain_has_only_so_much_time(self) -> None:
        self.dirty_disks()
        begin = time.monotonic()
        reply = self.call("trim", DOMAIN, "--chunk", "128MiB", "--pause", "2s", "--timeout", "1s")
        self.require_clear_failure(reply)
        self.assertLess(time.monotonic() - begin, 5)
        self.require_call_works("after a trim that ran out of time")

    def test_port_held_by_a_stranger_is_told_and_does_not_stall(self) -> None:
        # A program that takes the socket behind libvirt's back looks from here like an agent that says nothing.
        path = re.search(r"path='([^']*/org\.virt_reclaim\.agent\.v1)'", self.guest.live_xml())
        assert path
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(path[1])
            begin = time.monotonic()
            reply = self.call("agent", "status", DOMAIN)
            self.require_clear_failure(reply)
            self.assertLess(time.monotonic() - begin, 10)
        self.require_call_works("after the port was free again")

    def test_libvirt_in_use_is_busy_at_once(self) -> None:
        with subprocess.Popen(
            ["virsh", "-q", "-c", self.host.uri], env=self.host.environment(), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        ) as holder:
            assert holder.stdin and holder.stdout
            holder.stdin.write("uri\n")
            holder.stdin.flush()
            holder.stdout.readline()
            reply = self.call("agent", "status", DOMAIN)
            holder.stdin.close()
        self.assertEqual(reply.status, BUSY, str(reply))
        self.require_call_works("after the other program had ended")

    # What the tests are made of.

    def call(self, *words: str) -> Reply:
        return self.reclaim.run(*words, seconds=GIVE_UP_SECONDS)

    def require_call_works(self, when: str) -> None:
        begin = time.monotonic()
        reply = self.call("agent", "status", DOMAIN)
        seconds = time.monotonic() - begin
        type(self).slowest = max(self.slowest, seconds)
        self.assertEqual(reply.status, 0, f"{when}: {reply}")
        self.assertLess(seconds, CALL_SECONDS, when)

    def require_clear_failure(self, reply: Reply) -> None:
        self.assertNotEqual(reply.status, 0, str(reply))
        self.assertGreater(reply.status, 0, f"died of a signal: {reply}")
        self.assertTrue((reply.stderr + reply.stdout).strip(), "not a word about what went wrong")

    def require_ends(self, program: subprocess.Popen[str]) -> None:
        """Within its deadline. It may have been done before the blow fell; otherwise it says what happened."""
        stdout, stderr = program.communicate(timeout=GIVE_UP_SECONDS)
        if program.returncode not in (0, 4):
            self.require_clear_failure(Reply(program.returncode, stdout, stderr))

    def dirty_disks(self) -> None:
        """Gives the next trim something to do."""
        self.guest.run(
            "for dir in /mnt/*; do dd if=/dev/zero of=$dir/junk bs=1M count=32; done; sync; rm /mnt/*/junk; sync", seconds=200
        )

    def start_trim(self) -> subprocess.Popen[str]:
        self.dirty_disks()
        program = self.reclaim.start("trim", DOMAIN)
        time.sleep(0.2)  # past the start of the program, into the call
        return program

    def kill_a_trim(self, *, after: float) -> None:
        # In small pieces with pauses it takes 6 s: whenever the blow falls, it falls into the call.
        with self.reclaim.start("trim", DOMAIN, "--chunk", "128MiB", "--pause", "200ms") as program:
            time.sleep(after)
            self.assertIsNone(program.poll(), "the trim was over before it was to be killed")
            program.kill()

    def footprint(self) -> Footprint:
        output = self.guest.run(
            "pid=$(vr-agent pid); ls /proc/$pid/fd | wc -l; grep -E '^(Threads|VmRSS)' /proc/$pid/status"
        ).output
        fds = int(output.split()[0])
        status = dict(re.findall(r"(\w+):\s+(\d+)", output))
        return Footprint(fds, int(status["Threads"]), int(status["VmRSS"]))

    def footprint_if_within(self, before: Footprint) -> Footprint | None:
        """The allocator's pools come and go by 2 MiB (measured); a leak of one frame a session would be 3 and more."""
        now = self.footprint()
        within = (
            now.fds <= before.fds and now.threads <= before.threads and now.resident_kib <= before.resident_kib + 3072
        )
        return now if within else None


if __name__ == "__main__":
    bedpath.require_bed()
    PROGRAM, AGENT = host_program_path(), agent_path()
    if not PROGRAM or not AGENT:
        skip_all("virt-reclaim or virt-reclaim-agent is not built, or VIRT_RECLAIM_BUILD_DIR does not name the build")
    main()
