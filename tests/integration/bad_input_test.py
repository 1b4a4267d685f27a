"""Wrong words, wrong places, wrong domains: one line that names the thing, the right exit status, nothing changed.

The real program on a real libvirt; no guest is started. What the command line refuses by itself is in tests/golden/cli.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import unittest
from pathlib import Path

import bedpath

from vrtest import EmbedHost, Reply, VirtReclaim, Workspace, host_program_path, main, skip_all
from vrtest.image import new_uuid

DONE, FAILED, USAGE, NOTHING_DONE = 0, 1, 2, 5
VERBS = (["report"], ["trim"], ["migrate", "plan"], ["migrate", "apply"], ["agent", "status"])

DISKS = {
    "no-disks": "",
    "no-file": "<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>",
    "network": "<disk type='network' device='disk'><driver name='qemu' type='raw'/>"
    "<source protocol='nbd' name='export'><host name='nowhere.invalid' port='10809'/></source>"
    "<target dev='vda' bus='virtio'/></disk>",
    "missing": "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
    "<source file='{directory}/gone.qcow2'/><target dev='vda' bus='virtio'/></disk>",
    "directory": "<disk type='file' device='disk'><driver name='qemu' type='raw'/>"
    "<source file='{directory}'/><target dev='vda' bus='virtio'/></disk>",
    "fifo": "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
    "<source file='{directory}/fifo'/><target dev='vda' bus='virtio'/></disk>",
    "no-qcow2": "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
    "<source file='{directory}/text'/><target dev='vda' bus='virtio'/></disk>",
}

DOMAIN = """\
<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type></os><devices>{disks}<memballoon model='none'/></devices></domain>
"""


class BadInput(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.space = Workspace()
        cls.addClassCleanup(cls.space.close)
        cls.host = EmbedHost(cls.space.path)
        cls.reclaim = VirtReclaim(PROGRAM, cls.host)
        os.mkfifo(cls.space.path / "fifo")
        (cls.space.path / "text").write_text("not an image\n" * 100)
        for name, disks in DISKS.items():
            cls.host.define(
                DOMAIN.format(name=name, uuid=new_uuid(), disks=disks.format(directory=cls.space.path))
            )

    def saved(self) -> dict[str, str]:
        return {name: self.host.virsh("dumpxml", "--inactive", "--security-info", name).stdout for name in DISKS}

    def plain(self, *words: str, environment: dict[str, str] | None = None, **pipes: object) -> Reply:
        """As a person types it, without --json and with the default connection when no other is named."""
        done = subprocess.run(
            [PROGRAM, *words], capture_output=True, text=True, timeout=30, check=False,
            **{"stdin": subprocess.DEVNULL, "env": environment or self.host.environment(), **pipes},
        )
        return Reply(done.returncode, done.stdout, done.stderr)

    def require_refusal(self, reply: Reply, *named: str, status: int = FAILED) -> None:
        self.assertEqual(reply.status, status, str(reply))
        problems = [line for line in reply.stderr.splitlines() if not line.startswith("hint: ")]
        self.assertEqual(len(problems), 1, str(reply))
        for word in named:
            self.assertIn(word, problems[0])
        self.assertEqual(reply.stdout, "")

    def test_unknown_domain_of_every_verb(self) -> None:
        before = self.saved()
        for verb in VERBS:
            with self.subTest(verb):
                reply = self.plain("-c", self.host.uri, *verb, "mising")
                self.require_refusal(reply, "'mising'", self.host.uri, "did you mean 'missing'?")
        # A name that exists beside one that does not: nothing is done for it either.
        self.require_refusal(self.plain("-c", self.host.uri, "migrate", "apply", "missing", "nobody"), "'nobody'")
        self.assertEqual(self.saved(), before)

    def test_no_libvirt_there(self) -> None:
        uris = {
            "qemu+unix:///system?socket=/nowhere/libvirt-sock": "/nowhere/libvirt-sock",
            "nonsense:///x": "nonsense",
            "qemu:///embed": "qemu:///embed",
            "qemu+tcp://127.0.0.1:1/system": "127.0.0.1:1",
        }
        for uri, named in uris.items():
            for verb in VERBS:
                with self.subTest(uri=uri, verb=verb):
                    named_domain = ["missing"] if verb[-1] == "apply" else []
                    reply = self.plain("--connect", uri, *verb, *named_domain)
                    self.require_refusal(reply, named)
                    self.assertIn("hint: ", reply.stderr)
        reply = self.plain("report", environment={**os.environ, "LIBVIRT_DEFAULT_URI": "qemu+unix:///system?socket=/nowhere"})
        self.require_refusal(reply, "connect to libvirt", "/nowhere")

    def test_domains_that_have_nothing_for_us(self) -> None:
        before = self.saved()
        report = self.reclaim.run("report")
        self.assertEqual(report.status, DONE, str(report))
        domains = {domain["name"]: domain for domain in report.json["domains"]}
        self.assertEqual(set(domains), set(DISKS))
        self.assertEqual(domains["no-disks"]["disks"], [])
        for name, word in {
            "missing": "gone.qcow2", "directory": "not a regular file", "fifo": "not a regular file", "network": "",
        }.items():
            with self.subTest(name):
                (disk,) = domains[name]["disks"]
                self.assertIsNone(disk["allocation_bytes"], str(disk))
                self.assertIsNone(disk["reclaimable_bytes"], str(disk))
                self.assertTrue(disk["blockers"], str(disk))
                self.assertIn(word, str(disk))
        for verb in VERBS[1:]:
            for name in DISKS:
                with self.subTest(verb=verb, name=name):
                    reply = self.reclaim.run(*verb, name)
                    self.assertIn(reply.status, (DONE, FAILED, NOTHING_DONE), str(reply))
                    self.assertEqual(reply.json["domains"][0]["name"], name)
        changed = {name for name, xml in self.saved().items() if xml != before[name]}
        # These have a disk that could take discards once the image is there; the others have nothing to change.
        self.assertLessEqual(changed, {"missing", "directory", "fifo", "no-qcow2", "network"})

    def test_another_hypervisor(self) -> None:
        for verb in VERBS:
            with self.subTest(verb):
                reply = VirtReclaim(PROGRAM, self.host, uri="test:///default").run(*verb, "test")
                self.assertIn(reply.status, (DONE, NOTHING_DONE), str(reply))
                if verb[0] == "migrate":
                    self.assertEqual(reply.status, NOTHING_DONE, str(reply))
                    self.assertIn("is of type 'test'", reply.stdout)

    def test_a_definition_that_is_none(self) -> None:
        for text, word in (("", ""), ("<domain", ""), ("<pool/>", ""), ("<domain type='xen'><name>x</name></domain>", "")):
            with self.subTest(text):
                done = subprocess.run(
                    [FILTER, "--diff"], input=text, capture_output=True, text=True, timeout=30, check=False
                )
                self.assertNotIn(done.returncode, (DONE, -11, -6), done.stderr)
                self.assertEqual(done.stdout, "")
                self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)

    def test_no_stdin_and_nowhere_to_write(self) -> None:
        words = ["-c", self.host.uri, "report"]
        command = [str(PROGRAM), *words]
        closed = subprocess.run(
            ["sh", "-c", '"$0" "$@" <&-', *command], capture_output=True, text=True, timeout=30, check=False,
            env=self.host.environment(),
        )
        self.assertEqual(closed.returncode, DONE, closed.stderr)
        self.assertIn("no-disks", closed.stdout)
        for target in (">&-", ">/dev/full"):
            with self.subTest(target):
                done = subprocess.run(
                    ["sh", "-c", f'"$0" "$@" {target}', *command], capture_output=True, text=True, timeout=30,
                    check=False, env=self.host.environment(), stdin=subprocess.DEVNULL,
                )
                self.assertEqual(done.returncode, FAILED, done.stderr)
                self.assertIn("virt-reclaim: ", done.stderr)
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "w") as pipe:
            done = subprocess.run(
                command, stdout=pipe, stderr=subprocess.PIPE, timeout=30, check=False, env=self.host.environment(),
                stdin=subprocess.DEVNULL,
            )
        self.assertEqual(done.returncode, FAILED, done.stderr)

    def test_directories_that_cannot_be_written(self) -> None:
        with tempfile.NamedTemporaryFile(dir=self.space.path) as file:
            reclaim = VirtReclaim(PROGRAM, self.host, VIRT_RECLAIM_STATE_DIR=file.name, VIRT_RECLAIM_RUN_DIR=file.name)
            before = self.saved()
            reply = reclaim.run("migrate", "apply", "--assume", "missing")
            self.assertEqual(reply.status, FAILED, str(reply))
            self.assertIn(file.name, reply.stdout)
            self.assertEqual(self.saved(), before)


if __name__ == "__main__":
    bedpath.require_bed()
    PROGRAM = host_program_path()
    if not PROGRAM:
        skip_all("virt-reclaim is not built, or VIRT_RECLAIM_BUILD_DIR does not name the build")
    FILTER = next(Path(os.environ["VIRT_RECLAIM_BUILD_DIR"]).rglob("virt-reclaim-xml"))
    main()
