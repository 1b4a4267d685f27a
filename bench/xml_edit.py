"""`virt-reclaim-xml` over many files in one call beside xsltproc making the mere edit, and xmlstarlet and virt-xml where there
are such: files for each second of CPU time.

The corpus is libvirt's own test XML (scripts/fetch-corpus), only the files that our default edit changes; without it the
inputs of tests/golden/xml, repeated. xsltproc neither checks anything, nor proves its edit, nor keeps the bytes outside it, and writes all results into one stream.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchlib import ROOT, Row, built, median, require_programs

# What remains of the edit without the judgement: discard='unmap' on every hard disk.
STYLESHEET = """\
<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">
<xsl:template match="@*|node()"><xsl:copy><xsl:apply-templates select="@*|node()"/></xsl:copy></xsl:template>
<xsl:template match="/domain/devices/disk[not(@device) or @device='disk']/driver">
<xsl:copy><xsl:apply-templates select="@*"/><xsl:attribute name="discard">unmap</xsl:attribute>
<xsl:apply-templates select="node()"/></xsl:copy></xsl:template>
</xsl:stylesheet>
"""
# A process a file: no more than a sample of them. With the input, or {}, the file's name.
A_PROCESS_A_FILE = {
    "xmlstarlet": (100, ("ed", "-i", "/domain/devices/disk/driver", "-t", "attr", "-n", "discard", "-v", "unmap", "{}")),
    # libvirt's test driver: it looks at the connection's capabilities, whatever it is to edit.
    "virt-xml": (10, ("--connect", "test:///default", "--edit", "all", "--disk", "discard=unmap")),
}
# Promised: 10,000 files a second on one core, with the proof; and no slower than the peer's mere edit.
PROMISED = 10_000


def run(*, smoke: bool, rounds: int) -> list[Row]:
    require_programs("xsltproc")
    program = str(built("virt-reclaim-xml"))
    count = 100 if smoke else 3000
    # In memory where that can be had: creating a file costs some disks more than editing it.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="vr-xml-", dir=memory) as name:
        work = Path(name)
        files, origin = inputs(program, work / "in", count, fetch=not smoke)
        (work / "edit.xsl").write_text(STYLESHEET)
        ours: list[float] = []
        bus: list[float] = []
        peer: list[float] = []
        names = [path.name for path in files]
        for number in range(rounds + 1):
            out = fresh(work / "out")
            turns = [
                (peer, ["xsltproc", "--nonet", "../edit.xsl", *names]),
                (ours, [program, "--output-dir", str(out), *names]),
                (bus, [program, "--bus=virtio-scsi", "--channel=add", "--output-dir", str(out), *names]),
            ]
            for times, command in turns if number % 2 == 0 else reversed(turns):
                times.append(timed(command, work / "in"))
        # The first round filled the page cache.
        del ours[0], bus[0], peer[0]
        rows = [
            Row(f"edit and proof of {count} {origin} / xsltproc, the edit alone", per_second(count, ours), per_second(count, peer),
                [one / other for one, other in zip(ours, peer)], rounds, limit=None if smoke else 1.0),
            Row(f"CPU seconds for {PROMISED:,} of them", f"{PROMISED * median(ours) / count:.2f} s", rounds=rounds,
                limit=None if smoke else 1.0, value=PROMISED * median(ours) / count),
            Row(f"the same with --bus=virtio-scsi --channel=add of {count} {origin} / xsltproc", per_second(count, bus),
                per_second(count, peer), [one / other for one, other in zip(bus, peer)], rounds),
        ]
        for peer_name in A_PROCESS_A_FILE:
            if shutil.which(peer_name):
                rows.append(beside(peer_name, files, work, median(ours) / count))
            else:
                print(f"xml_edit: '{peer_name}' is not installed, and left out: scripts/install-packages bench", file=sys.stderr)
        return rows


def inputs(program: str, directory: Path, count: int, *, fetch: bool) -> tuple[list[Path], str]:
    """`count` files in `directory`, repeated as often as it takes."""
    found: list[Path] = []
    origin = "files of libvirt's tests"
    if fetch:
        done = subprocess.run([str(ROOT / "scripts" / "fetch-corpus")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        if done.returncode == 0:
            found = sorted(p for p in Path(done.stdout.strip()).rglob("*.xml") if p.is_file() and not p.is_symlink())
    if not found:
        origin = "golden files"
        found = sorted((ROOT / "tests" / "golden" / "xml").glob("*.in.xml"))
    said = subprocess.run([program, "--json", *map(str, found)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    edited = [entry["file"] for entry in json.loads(said.stdout)["files"] if entry.get("changed")]
    if not edited:
        raise RuntimeError("virt-reclaim-xml edited none of the files")
    directory.mkdir()
    files = []
    for number in range(count):
        files.append(directory / f"{number:05}.xml")
        shutil.copyfile(edited[number % len(edited)], files[-1])
    return files, origin


def fresh(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    return directory


def timed(command: list[str], directory: Path, text: str = os.devnull) -> float:
    """CPU seconds, on one core: what else the machine does is no part of it. `text`: the file it has as its input."""
    with open(text, "rb") as source:
        process = subprocess.Popen(command, cwd=directory, stdin=source, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"'{command[0]}' failed with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def beside(name: str, files: list[Path], work: Path, ours_each: float) -> Row:
    count, words = A_PROCESS_A_FILE[name]
    each = 0.0
    for path in files[:count]:
        each += timed([name, *(word.format(path) for word in words)], work, str(path)) / len(files[:count])
    return Row(f"edit and proof in one call / {name}, a process a file", f"{1 / ours_each:.0f}/s", f"{1 / each:.1f}/s",
               [ours_each / each], limit=1.0)


def per_second(count: int, times: list[float]) -> str:
    return f"{count / median(times):.0f}/s"
