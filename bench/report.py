"""`virt-reclaim report` over a thousand domains beside one virsh that asks for the same disks, domblkinfo by domblkinfo.

On libvirt's test driver: no guest runs and no image exists, so what is left is what the programs themselves cost.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchlib import MIB, Row, built, median, require_programs

# What is promised (docs/testing.md): wall over virsh's; peak resident memory of ours.
MOST_WALL, MOST_MIB = 3.0, 100

DOMAIN = """\
<domain type='test'>
<name>vm-{number:04}</name><memory>262144</memory>
<os><type arch='x86_64'>hvm</type></os>
<devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/nonexistent/vm-{number:04}.qcow2'/>
<target dev='vda' bus='virtio'/></disk>
</devices>
</domain>
"""


@dataclass
class Finished:
    seconds: float
    peak: int  # bytes resident
    output: str


def run(*, smoke: bool, rounds: int) -> list[Row]:
    require_programs("virsh")
    program = built("virt-reclaim")
    count = 50 if smoke else 1000
    with tempfile.TemporaryDirectory(prefix="vr-report-") as directory:
        node = Path(directory) / "node.xml"
        node.write_text("<node>\n" + "".join(DOMAIN.format(number=number) for number in range(count)) + "</node>\n")
        uri = f"test://{node}"
        # One argument, not lines of input: virsh would echo those.
        asked = "; ".join(f"domblkinfo vm-{number:04} vda" for number in range(count))
        ours: list[Finished] = []
        peer: list[Finished] = []
        for number in range(rounds + 1):
            turns = [(peer, ["virsh", "-q", "-c", uri, asked]), (ours, [str(program), "--connect", uri, "report"])]
            for results, command in turns if number % 2 == 0 else reversed(turns):
                results.append(finish(command, Path(directory) / "output"))
        # The first pair filled the page cache.
        del ours[0], peer[0]
    if f"vm-{count - 1:04}" not in ours[-1].output:
        raise RuntimeError(f"virt-reclaim report left domains out:\n{ours[-1].output[-2000:]}")
    if peer[-1].output.count("Capacity:") != count:
        raise RuntimeError(f"virsh did not answer for every disk:\n{peer[-1].output[-2000:]}")
    return [
        Row(f"report of {count} domains / virsh domblkinfo: wall", seconds(ours), seconds(peer),
            [one.seconds / other.seconds for one, other in zip(ours, peer)], rounds, MOST_WALL),
        Row(f"report of {count} domains / virsh domblkinfo: peak RSS", peak(ours), peak(peer),
            [one.peak / other.peak for one, other in zip(ours, peer)], rounds, MOST_MIB,
            max(one.peak for one in ours) / MIB),
    ]


def finish(command: list[str], file: Path) -> Finished:
    """Runs to the end; wait4 tells the memory of this child alone."""
    with open(file, "wb") as output:
        begin = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        took = time.monotonic() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
    text = file.read_text(errors="replace")
    if process.returncode < 0:
        raise RuntimeError(f"'{command[0]}' died of signal {-process.returncode}:\n{text[-2000:]}")
    return Finished(took, usage.ru_maxrss * 1024, text)


def seconds(results: list[Finished]) -> str:
    return f"{median([one.seconds for one in results]):.2f} s"


def peak(results: list[Finished]) -> str:
    return f"{median([one.peak for one in results]) / MIB:.0f} MiB"
