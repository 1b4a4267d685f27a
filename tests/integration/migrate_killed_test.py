"""apply and rollback of a domain that is off, killed before every line of the journal and at every sync of it and of libvirt's
definition, embedded and with a libvirtd; and a second run at once, at every sync of the first. No guest is booted."""

from __future__ import annotations

import os
import signal
import subprocess
import unittest

import bedpath

from vrtest import DaemonHost, EmbedHost, Reply, VirtReclaim, Workspace, built, main
from vrtest.guest import MIB, OLD_MACHINE
from vrtest.host import Host

DONE, REFUSED = 0, 5
APPLY, ROLLBACK = ("migrate", "apply", "--assume", "web"), ("migrate", "rollback", "web")
PASSWORD = "s3cr3t!"


class OneDomain(unittest.TestCase):
    """A domain that is off, on a host of its own."""

    def make_host(self) -> Host:
        return EmbedHost(self.space.path)

    def setUp(self) -> None:
        self.space = Workspace()
        self.addCleanup(self.space.close)
        self.host = self.make_host()
        self.reclaim = VirtReclaim(PROGRAM, self.host)
        image = self.space.path / "web.raw"
        with open(image, "wb") as file:
            file.truncate(64 * MIB)
        xml = self.space.path / "web.xml"
        xml.write_text(
            f"<domain type='qemu'><name>web</name><memory unit='MiB'>128</memory>"
            f"<os><type arch='x86_64' machine='{OLD_MACHINE}'>hvm</type></os>"
            f"<devices><disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{image}'/>"
            f"<target dev='vda' bus='virtio'/></disk><graphics type='vnc' passwd='{PASSWORD}'/></devices></domain>"
        )
        self.host.virsh("define", xml)
        self.old = self.saved()

    def saved(self) -> str:
        return self.host.virsh("dumpxml", "--inactive", "--security-info", "web").stdout


class Killed(OneDomain):
    def killed(self, point: int, words: tuple[str, ...]) -> Reply:
        killer = VirtReclaim(
            PROGRAM, self.host, LD_PRELOAD=str(KILLER), VR_KILL_AT_SYNC=str(point), VR_KILL_IN="/state/:/etc/qemu/",
            VR_KILL_AT_WRITE="/journal.jsonl",
        )
        return killer.run(*words)

    def require_whole(self) -> None:
        """The domain has the one definition or the other; and every migration that has begun has the old one, secrets and all."""
        saved = self.saved()
        self.assertTrue(saved == self.old or saved.count("discard='unmap'") == 1, saved)
        for journal in (self.space.path / "state" / "migrate").rglob("journal.jsonl"):
            if journal.stat().st_size:
                kept = (journal.parent / "old.xml").read_text()
                self.assertNotIn("unmap", kept)
                self.assertIn(PASSWORD, kept)
                self.assertTrue(kept.rstrip().endswith("</domain>"), kept)

    def converges(self, first: tuple[str, ...], then: tuple[str, ...], least: int) -> None:
        point = 0
        while True:
            point += 1
            if first is ROLLBACK:
                self.assertEqual(self.reclaim.run(*APPLY).status, DONE)
            killed = self.killed(point, first)
            if killed.status != -signal.SIGKILL:
                break
            with self.subTest(killed_at=point):
                self.require_whole()
                reply = self.reclaim.run(*then)
                # Before it had begun there is nothing to roll back.
                self.assertIn(reply.status, (DONE,) if then is first else (DONE, REFUSED), str(reply))
                self.require_whole()
                if then is APPLY:
                    self.assertIn("discard='unmap'", self.saved())
                    self.assertEqual(self.reclaim.run(*ROLLBACK).status, DONE)
                self.assertEqual(self.saved(), self.old)
        self.assertEqual(killed.status, DONE, str(killed))
        self.assertGreater(point, least)

    def test_in_an_apply_the_next_one_goes_on(self) -> None:
        self.converges(APPLY, APPLY, 8)

    def test_in_an_apply_a_rollback_puts_the_old_one_back(self) -> None:
        self.converges(APPLY, ROLLBACK, 8)

    def test_in_a_rollback_the_next_one_goes_on(self) -> None:
        self.converges(ROLLBACK, ROLLBACK, 6)


class KilledWithDaemon(Killed):
    """The definition is then libvirtd's, which lives on."""

    def make_host(self) -> Host:
        return DaemonHost(self.space)


class TwiceAtOnce(OneDomain):
    """The first run is stopped at each sync of its journal, and the second comes meanwhile. An embedded driver lets in one of them;
    with a libvirtd it is our lock that keeps the second out."""

    def definition(self) -> str:
        # Nobody else gets into an embedded driver that somebody has open.
        return (self.space.path / "libvirt" / "etc" / "qemu" / "web.xml").read_text()

    def kept(self) -> dict[str, bytes]:
        state = self.space.path / "state"
        return {str(path): path.read_bytes() for path in sorted(state.rglob("*")) if path.is_file()}

    def stopped_at(self, point: int) -> tuple[subprocess.Popen[str], bool]:
        """The first run, and whether it was stopped; else it has ended."""
        stopper = VirtReclaim(
            PROGRAM, self.host, LD_PRELOAD=str(KILLER), VR_KILL_AT_SYNC=str(point), VR_KILL_IN="/state/",
            VR_KILL_WITH=str(int(signal.SIGSTOP)),
        )
        first = stopper.start(*APPLY)
        self.addCleanup(self.end, first)
        # Looked at only: it is Popen that hears of the end.
        seen = os.waitid(os.P_PID, first.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        return first, seen is not None and seen.si_code == os.CLD_STOPPED

    @staticmethod
    def end(process: subprocess.Popen[str]) -> None:
        if process.poll() is None:
            process.kill()
        process.communicate()

    def require_busy(self, reply: Reply) -> None:
        self.assertEqual(reply.status, REFUSED, str(reply))
        self.assertIn("pid file", reply.json["error"])

    def test_the_second_is_busy_and_changes_nothing(self) -> None:
        point = 0
        while True:
            point += 1
            first, stopped = self.stopped_at(point)
            if not stopped:
                break
            with self.subTest(first_stopped_at=point):
                definition, kept = self.definition(), self.kept()
                for words in (APPLY, ("migrate", "apply", "--all", "--assume"), ROLLBACK):
                    self.require_busy(self.reclaim.run(*words))
                self.assertEqual(self.definition(), definition)
                self.assertEqual(self.kept(), kept)
                first.send_signal(signal.SIGCONT)
                output, errors = first.communicate(timeout=60)
                self.assertEqual(first.returncode, DONE, output + errors)
                self.assertEqual(self.saved().count("discard='unmap'"), 1)
                self.assertEqual(self.reclaim.run(*ROLLBACK).status, DONE)
                self.assertEqual(self.saved(), self.old)
        first.communicate(timeout=60)
        self.assertEqual(first.returncode, DONE)
        self.assertGreater(point, 4)
        print(f"a second run at each of {point - 1} points of a first one")


class TwiceAtOnceWithDaemon(TwiceAtOnce):
    def make_host(self) -> Host:
        return DaemonHost(self.space)

    def definition(self) -> str:
        return self.saved()

    def require_busy(self, reply: Reply) -> None:
        self.assertEqual(reply.status, REFUSED, str(reply))
        (domain,) = reply.json["domains"]
        self.assertEqual(domain["reasons"], ["busy"], str(reply))


if __name__ == "__main__":
    bedpath.require_bed("libvirtd", "unshare")
    PROGRAM, KILLER = built("virt-reclaim", "libkill_at_sync.so")
    main()
