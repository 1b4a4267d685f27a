#!/usr/bin/env python3
"""What would make a second build of the packages another one, looked for in the packages that scripts/build-packages has made: times,
orders, owners, modes and paths of this build. Costs no build; that all of it together is enough is shown by
scripts/build-packages --twice, which a release runs."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest
from pathlib import Path

from packagelib import NAMES, PACKAGES, SKIPPED

ROOT = Path(__file__).resolve().parents[2]
# Where scripts/build-packages builds, and what of ours is compiled where it lies.
BUILD_PATHS = [b"virt-reclaim-packages-", *(f"{ROOT}/{name}/".encode() for name in ("base", "build", "guest-agent", "host", "proto"))]
# As of __DATE__; no library that is linked statically has one.
COMPILED_ON = re.compile(rb"\b(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [ 123]\d 20\d\d\b")
OF_THE_CLOCK = re.compile(r"__(DATE|TIME|TIMESTAMP)__|string\(TIMESTAMP")
MODES = {0o644, 0o755, 0o777}  # the last one of symbolic links


def ar_members(package: bytes) -> list[tuple[str, str, bytes]]:
    """(name, the rest of its header, content)."""
    assert package.startswith(b"!<arch>\n")
    members, at = [], 8
    while at < len(package):
        header = package[at : at + 60].decode()
        size = int(header[48:58])
        members.append((header[:16].rstrip(" /"), header[16:48], package[at + 60 : at + 60 + size]))
        at += 60 + size + size % 2
    return members


def faults_of_order(entries: list[tarfile.TarInfo]) -> list[str]:
    """dpkg-deb has symbolic links last."""
    names = [(entry.issym(), *entry.name.strip("/").split("/")) for entry in entries]
    return [] if names == sorted(names) else ["not sorted"]


def faults_of_entry(entry: tarfile.TarInfo, epoch: int) -> list[str]:
    found = []
    if int(entry.mtime) != epoch:
        found.append(f"time {int(entry.mtime)} instead of {epoch}")
    if (entry.uid, entry.gid, entry.uname, entry.gname) != (0, 0, "root", "root"):
        found.append(f"owner {entry.uname}:{entry.gname}")
    if entry.mode not in MODES:
        found.append(f"mode {entry.mode:o}")
    return found


def faults_of_content(name: str, content: bytes, epoch: int) -> list[str]:
    found = []
    if content.startswith(b"\x1f\x8b"):
        if content[3] & 8 or content[4:8] != bytes(4):
            found.append("name or time of the file that was compressed")
        content = gzip.decompress(content)
    found += [f"path of the build, {path.decode()}" for path in BUILD_PATHS if path in content]
    if content.startswith(b"\x7fELF") and (date := COMPILED_ON.search(content)):
        found.append(f"date {date[0].decode()}")
    if "/man/man" in name and time.strftime("%Y-%m-%d", time.gmtime(epoch)).encode() not in content:
        found.append("a page of another day")
    return found


def faults(package: bytes, epoch: int) -> list[str]:
    """What of a .deb depends on more than its sources, if they are of `epoch`."""
    found = []
    for member, header, content in ar_members(package):
        if header.split() != [str(epoch), "0", "0", "100644"]:
            found.append(f"{member}: header {header.split()}")
        if not member.endswith(".xz"):
            continue
        with tarfile.open(fileobj=io.BytesIO(lzma.decompress(content))) as archive:
            entries = archive.getmembers()
            found += [f"{member}: {fault}" for fault in faults_of_order(entries)]
            for entry in entries:
                here = faults_of_entry(entry, epoch)
                if entry.isfile():
                    here += faults_of_content(entry.name, archive.extractfile(entry).read(), epoch)  # type: ignore[union-attr]
                found += [f"{member}: {entry.name}: {fault}" for fault in here]
    return found


def output(*command: str, **environment: str) -> str:
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True
    ).stdout


class Packages(unittest.TestCase):
    def test_nothing_of_this_build_is_in_them(self) -> None:
        epoch = int(output("dpkg-parsechangelog", "--show-field=Timestamp"))
        for name in NAMES:  # not their debugging symbols, which --quick does not make
            (package,) = PACKAGES.glob(f"{name}_*.deb")
            with self.subTest(name):
                self.assertEqual(faults(package.read_bytes(), epoch), [])


class Sources(unittest.TestCase):
    def test_the_compiler_is_told_to_leave_paths_out(self) -> None:
        options = re.search(r"DEB_BUILD_MAINT_OPTIONS = (.*)", (ROOT / "debian" / "rules").read_text())
        assert options is not None
        flags = output("dpkg-buildflags", "--get", "CXXFLAGS", DEB_BUILD_MAINT_OPTIONS=options[1])
        self.assertIn("-ffile-prefix-map=", flags)
        self.assertNotIn("-ffile-prefix-map=", output("dpkg-buildflags", "--get", "CXXFLAGS", DEB_BUILD_MAINT_OPTIONS="reproducible=-all"))

    def test_no_source_asks_for_the_time_of_the_build(self) -> None:
        found = []
        for top in (path for path in ROOT.iterdir() if path.is_dir() and path.name not in (".git", "build")):
            for path in top.rglob("*"):
                if path.suffix in (".cc", ".h", ".cmake") or path.name == "CMakeLists.txt":
                    found += [f"{path}: {hit[0]}" for hit in OF_THE_CLOCK.finditer(path.read_text())]
        self.assertEqual(found, [])
        self.assertTrue(OF_THE_CLOCK.search("puts(__DATE__);"))


class SelfTest(unittest.TestCase):
    """Packages that were built badly."""

    EPOCH = 1_700_000_000
    PAGE = b'.TH "x" "1" "2023-11-14"\n'

    def package(self, *more: tuple[str, bytes], written: int = EPOCH, **attributes: object) -> bytes:
        """A good one with `more` files in it; `attributes` are the last file's, and `written` the archive's own."""
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as archive:
            files = [("./usr/share/man/man1/x.1.gz", gzip.compress(self.PAGE, mtime=0)), *more]
            for name, content in files:
                entry = tarfile.TarInfo(name)
                entry.size, entry.mtime, entry.uname, entry.gname = len(content), self.EPOCH, "root", "root"
                for key, value in attributes.items() if name == files[-1][0] else ():
                    setattr(entry, key, value)
                archive.addfile(entry, io.BytesIO(content))
        package = b"!<arch>\n"
        for name, content in (("debian-binary", b"2.0\n"), ("data.tar.xz", lzma.compress(raw.getvalue()))):
            package += f"{name:<16}{written:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
            package += content + b"\n" * (len(content) % 2)
        return package

    def check(self, expected: str, package: bytes) -> None:
        found = faults(package, self.EPOCH)
        self.assertEqual(len(found), 1, found)
        self.assertIn(expected, found[0])

    def test_a_good_one(self) -> None:
        self.assertEqual(faults(self.package(("./usr/share/x", b"x")), self.EPOCH), [])

    def test_bad_ones(self) -> None:
        text = ("./usr/share/x", b"x")
        self.check("time 5 instead", self.package(text, mtime=5))
        self.check("owner nobody", self.package(text, uid=65534, uname="nobody"))
        self.check("mode 640", self.package(text, mode=0o640))
        self.check("mode 664", self.package(text, mode=0o664))
        self.check("not sorted", self.package(("./usr/bin/x", b"x")))
        self.check("path of the build", self.package(("./usr/share/x", b"at /var/tmp/virt-reclaim-packages-abc/one/source/x.cc")))
        self.check("path of the build", self.package(("./usr/share/x.gz", gzip.compress(f"{ROOT}/host/x.cc".encode(), mtime=0))))
        self.check("date Nov 22 2026", self.package(("./usr/share/x", b"\x7fELF\0on Nov 22 2026\0")))
        self.check("another day", self.package(("./usr/share/man/man8/x.8", b'.TH "x" "8" "2023-11-15"\n')))
        self.check("that was compressed", self.package(("./usr/share/x.gz", gzip.compress(b"x", mtime=1))))
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "x.gz"
            with path.open("wb") as raw, gzip.GzipFile(filename="x", mode="wb", fileobj=raw, mtime=0) as named:
                named.write(b"x")
            self.check("that was compressed", self.package(("./usr/share/x.gz", path.read_bytes())))

    def test_a_bad_archive(self) -> None:
        found = faults(self.package(written=1), self.EPOCH)
        self.assertEqual([fault.split(":")[0] for fault in found], ["debian-binary", "data.tar.xz"])


if __name__ == "__main__":
    if shutil.which("dpkg-buildflags") is None or not list(PACKAGES.glob("*.deb")):
        print(f"SKIP: no dpkg-dev, or no packages in '{PACKAGES}': run scripts/build-packages", file=sys.stderr)
        sys.exit(SKIPPED)
    unittest.main(verbosity=2)
