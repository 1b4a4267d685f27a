"""Wrong words, wrong places, wrong domains: one line that names the thing, the right exit status, nothing changed.

The real program on a real libvirt; no guest is started. What the command line refuses by itself is in tests/golden/cli.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import bedpath

from vrtest import HostTestCase, Reply, VirtReclaim, built, main
from vrtest.image import new_uuid

DONE, FAILED, USAGE, NOTHING_DONE, INTERRUPTED = 0, 1, 2, 5, 130
VERBS = (["report"], ["trim"], ["migrate", "plan"], ["migrate", "apply"], ["agent", "status"])
# For a program that would ask, or wait for ever.
SECONDS = 30

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

# What `report` says of the one disk, and the thing that it names.
BLOCKERS = {
    "no-file": (["not-a-disk"], "cdrom"),
    "network": (["no-local-image", "discard-ignored"], "nbd"),
    "missing": (["image-missing", "discard-ignored"], "{directory}/gone.qcow2"),
    "directory": (["image-unreadable", "discard-ignored"], "'{directory}' is not a regular file"),
    "fifo": (["image-unreadable", "discard-ignored"], "'{directory}/fifo' is not a regular file"),
    "no-qcow2": (["discard-ignored"], "discard is not set"),
}
# These have nothing that a migration would change; of the others nobody knows what their guests could take.
NOTHING_TO_CHANGE = {"no-disks", "no-file"}

DOMAIN = """\
<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type></os><devices>{disks}<memballoon model='none'/></devices></domain>
"""


class BadInput(HostTestCase):
    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
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
            [PROGRAM, *words], capture_output=True, text=True, timeout=SECONDS, check=False,
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

    def test_ctrl_c_while_libvirtd_does_not_answer(self) -> None:
        # One that is stopped: it lets callers in, and says nothing.
        path = self.space.path / "silent-sock"
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(str(path))
            silent.listen()
            silent.settimeout(SECONDS)
            for signal_number in (signal.SIGINT, signal.SIGTERM):
                with self.subTest(signal_number), subprocess.Popen(
                    [PROGRAM, "--connect", f"qemu+unix:///system?socket={path}", "trim"], stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.host.environment(),
                ) as program:
                    caller, _ = silent.accept()
                    with caller:
                        caller.recv(1)  # it has asked
                        program.send_signal(signal_number)
                        stdout, stderr = program.communicate(timeout=SECONDS)
                    self.require_refusal(Reply(program.returncode, stdout, stderr), str(path), status=INTERRUPTED)

    def test_domains_that_have_nothing_for_us(self) -> None:
        before = self.saved()
        report = self.reclaim.run("report")
        self.assertEqual(report.status, DONE, str(report))
        domains = {domain["name"]: domain for domain in report.json["domains"]}
        self.assertEqual(set(domains), set(DISKS))
        self.assertEqual((domains["no-disks"]["disks"], domains["no-disks"]["reasons"]), ([], ["no-disks"]))
        for name, (blockers, word) in BLOCKERS.items():
            with self.subTest(name):
                (disk,) = domains[name]["disks"]
                self.assertEqual(disk["blockers"], blockers, str(disk))
                details = [one["detail"] for one in disk["blockers_explained"]]
                self.assertTrue(any(word.format(directory=self.space.path) in detail for detail in details), str(details))
                if name != "no-qcow2":
                    self.assertIsNone(disk["allocation_bytes"], str(disk))
                self.assertIsNone(disk["reclaimable_bytes"], str(disk))
        for verb in VERBS[1:]:
            for name in DISKS:
                with self.subTest(verb=verb, name=name):
                    self.require_reason(verb, name)
        for name in ("no-disks", "missing", "network"):
            self.assertIn(f"hint: {name}: ", self.plain("-c", self.host.uri, "report", name).stderr)
        self.assertEqual({name for name, xml in self.saved().items() if xml != before[name]}, set())

    def require_reason(self, verb: list[str], name: str) -> None:
        reply = self.reclaim.run(*verb, name, seconds=SECONDS)
        (domain,) = reply.json["domains"]
        self.assertEqual(domain["name"], name)
        if verb[0] != "migrate":
            expected = NOTHING_DONE, ["not-running"]
        else:
            expected = (DONE, []) if name in NOTHING_TO_CHANGE else (NOTHING_DONE, ["guest-unknown"])
        reasons = domain["blockers" if verb[-1] == "plan" else "reasons"]
        self.assertEqual((reply.status, reasons), expected, str(reply))
        self.assertNotIn("error", domain)
        if verb[-1] == "apply":
            self.assertEqual(domain["changes"], [], str(reply))

    def test_apply_asks_nobody_when_stdin_is_closed(self) -> None:
        """Though a person would see the question: stderr is a terminal."""
        before = self.saved()
        terminal, theirs = os.openpty()
        command = [str(PROGRAM), "-c", self.host.uri, "migrate", "apply", "--assume", "no-qcow2"]
        try:
            done = subprocess.run(
                ["sh", "-c", '"$0" "$@" <&-', *command], stdout=subprocess.PIPE, stderr=theirs, text=True, timeout=SECONDS,
                check=False, env=self.host.environment(),
            )
            os.set_blocking(terminal, False)
            try:
                said = os.read(terminal, 65536).decode()
            except BlockingIOError:
                said = ""
        finally:
            os.close(theirs)
            os.close(terminal)
        self.assertEqual(done.returncode, DONE, done.stdout + said)
        self.assertNotIn("?", done.stdout + said)
        self.assertEqual({name for name, xml in self.saved().items() if xml != before[name]}, {"no-qcow2"})
        self.assertEqual(self.reclaim.run("migrate", "rollback", "no-qcow2").status, DONE)
        self.assertEqual(self.saved(), before)

    def test_another_hypervisor(self) -> None:
        for verb in VERBS:
            with self.subTest(verb):
                reply = VirtReclaim(PROGRAM, self.host, uri="test:///default").run(*verb, "test")
                (domain,) = reply.json["domains"]
                codes = domain["blockers" if verb[-1] == "plan" else "reasons"]
                if verb == ["report"]:
                    expected = DONE, []
                elif verb[0] == "migrate":
                    expected = NOTHING_DONE, ["rewrite-refused"]
                    self.assertIn("is of type 'test'", reply.stdout)
                else:
                    expected = NOTHING_DONE, ["no-controller"]
                self.assertEqual((reply.status, codes), expected, str(reply))

    def test_a_definition_that_is_none(self) -> None:
        for text, status, word in (
            ("", FAILED, "standard input: empty"),
            ("<domain", FAILED, "line 1: Couldn't find end"),
            ("<pool/>", FAILED, "'pool'"),
            ("<domain type='xen'><name>x</name></domain>", NOTHING_DONE, "domain 'x' is of type 'xen'"),
        ):
            with self.subTest(text):
                done = subprocess.run(
                    [FILTER, "--diff"], input=text, capture_output=True, text=True, timeout=SECONDS, check=False
                )
                self.assertEqual(done.returncode, status, done.stderr)
                self.assertIn(word, done.stderr)
                self.assertEqual(done.stdout, "")
                self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)

    def test_no_stdin_and_nowhere_to_write(self) -> None:
        words = ["-c", self.host.uri, "report"]
        command = [str(PROGRAM), *words]
        closed = subprocess.run(
            ["sh", "-c", '"$0" "$@" <&-', *command], capture_output=True, text=True, timeout=SECONDS, check=False,
            env=self.host.environment(),
        )
        self.assertEqual(closed.returncode, DONE, closed.stderr)
        self.assertIn("no-disks", closed.stdout)
        for target in (">&-", ">/dev/full"):
            with self.subTest(target):
                done = subprocess.run(
                    ["sh", "-c", f'"$0" "$@" {target}', *command], capture_output=True, text=True, timeout=SECONDS,
                    check=False, env=self.host.environment(), stdin=subprocess.DEVNULL,
                )
                self.assertEqual(done.returncode, FAILED, done.stderr)
                self.assertIn("virt-reclaim: ", done.stderr)
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "w") as pipe:
            done = subprocess.run(
                command, stdout=pipe, stderr=subprocess.PIPE, timeout=SECONDS, check=False, env=self.host.environment(),
                stdin=subprocess.DEVNULL,
            )
        self.assertEqual(done.returncode, FAILED, done.stderr)

    def test_names_that_are_no_files(self) -> None:
        """A directory where a file belongs is a wrong word; a path through a file leads nowhere. Neither is a refusal."""
        before = self.saved()
        directory = str(self.space.path)
        for words in (
            ["config", "check", "--config", directory], ["run", "--config", directory], ["report", "--html", directory],
            ["metrics", "--textfile", directory], ["migrate", "apply", "--plan", directory], ["punch", "--files-from", directory],
            ["agent", "install", "--agent-binary", directory, "missing"], ["--state-dir", f"{directory}/text", "migrate", "status"],
        ):
            with self.subTest(words):
                self.require_refusal(self.plain("-c", self.host.uri, *words), directory, status=USAGE)
        below = f"{directory}/text/below"
        for words in (["punch", below], ["sparsify", below], ["sync", below, f"{directory}/copy"]):
            with self.subTest(words):
                reply = self.plain("-c", self.host.uri, *words)
                self.assertEqual(reply.status, FAILED, str(reply))
                self.assertIn("Not a directory", reply.stdout)
        for words, advice in ((["punch", directory], "--recursive"), (["sync", directory, f"{directory}-copy"], "--recursive")):
            with self.subTest(words):
                reply = self.plain("-c", self.host.uri, *words)
                self.assertEqual(reply.status, FAILED, str(reply))
                self.assertRegex(reply.stdout, rf"(?m)^{directory} .*{advice}")
        self.assertEqual(self.saved(), before)

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
    (PROGRAM,) = built("virt-reclaim")
    FILTER = next(Path(os.environ["VIRT_RECLAIM_BUILD_DIR"]).rglob("virt-reclaim-xml"))
    main()
