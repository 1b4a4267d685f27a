"""`report` and the plan of a trim over a fleet: a thousand domains of libvirt's test driver, fifty of them with an agent.

The agents are those of bench/fleet_agents.cc, each on a unix socket of its own that its domain's XML names. A fleet of half
the size is scanned in turn with the whole one: twice the domains may cost twice as much, and not one thread more.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchlib import GIB, MIB, Row, built, median

# What issue 5 asks for, of both together.
MOST_SECONDS, MOST_MIB = 5, 200
# Twice the domains take twice as long, and a watch that looks every 2 ms may miss a thread in ten; one for each would be twice.
LINEAR, SAME_THREADS = 2.2, 1.2
# host/commands/collect.h: fewer agents than are asked at a time make fewer threads.
AT_ONCE = 8
LOOK_EVERY_SECONDS = 0.002

CHANNEL = """\
<controller type='virtio-serial' index='0'/>
<channel type='unix'><source mode='bind' path='{socket}'/><target type='virtio' name='org.virt_reclaim.agent.v1'/></channel>
"""
DOMAIN = """\
<domain type='test'>
<name>vm-{number:04}</name><memory>262144</memory>
<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
<devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/>
<source file='/nonexistent/vm-{number:04}.qcow2'/><target dev='vda' bus='virtio'/>
<address type='pci' domain='0x0000' bus='0x00' slot='0x05' function='0x0'/></disk>
{channel}</devices>
</domain>
"""


@dataclass
class Fleet:
    uri: str
    domains: int
    agents: int


@dataclass
class Scan:
    seconds: float
    peak: int  # bytes resident
    threads: int  # the most that were seen at once


def run(*, smoke: bool, rounds: int) -> list[Row]:
    program = built("virt-reclaim")
    domains, agents = (100, 10) if smoke else (1000, 50)
    # Short, and not below TMPDIR: a socket's path has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="vr-fleet-", dir="/tmp") as name, guests(Path(name), agents):
        directory = Path(name)
        fleets = [make_fleet(directory, domains, agents), make_fleet(directory, domains // 2, agents // 2)]
        rows: list[Row] = []
        together = [0.0] * rounds
        for what, words in (("report", ["report"]), ("plan of trims", ["trim", "--dry-run"])):
            scans: list[list[Scan]] = [[], []]
            for number in range(rounds + 1):
                turns = list(zip(scans, fleets))
                for results, fleet in turns if number % 2 == 0 else reversed(turns):
                    results.append(scan(program, words, fleet, directory))
            counted = [results[1:] for results in scans]  # the first filled the page cache
            rows += compare(what, fleets, counted)
            together = [sum_ + one.seconds for sum_, one in zip(together, counted[0])]
    rows.append(
        Row(f"report and plan of trims, {domains} domains and {agents} agents: wall (target {MOST_SECONDS} s)",
            f"{median(together):.2f} s", "-", [], rounds, limit=MOST_SECONDS, value=median(together))
    )
    return rows


@contextmanager
def guests(directory: Path, count: int) -> Iterator[None]:
    with subprocess.Popen(
        [built("bench_fleet_agents"), directory, str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("bench_fleet_agents did not start")
        try:
            yield
        finally:
            process.stdin.close()


def make_fleet(directory: Path, domains: int, agents: int) -> Fleet:
    def domain(number: int) -> str:
        # Spread over the fleet, as they are when somebody begins to use them.
        agent, first = divmod(number, domains // agents)
        channel = "" if first else CHANNEL.format(socket=directory / f"{agent}.sock")
        return DOMAIN.format(number=number, channel=channel)

    node = directory / f"node-{domains}.xml"
    node.write_text("<node>\n" + "".join(domain(number) for number in range(domains)) + "</node>\n")
    return Fleet(f"test://{node}", domains, agents)


def scan(program: Path, words: list[str], fleet: Fleet, directory: Path) -> Scan:
    """Runs to the end; wait4 tells the memory of this child alone."""
    environment = {
        **os.environ, "VIRT_RECLAIM_RUN_DIR": str(directory / "run"), "VIRT_RECLAIM_STATE_DIR": str(directory / "state")
    }
    output, errors = directory / "output", directory / "errors"
    with open(output, "wb") as out, open(errors, "wb") as err:
        begin = time.monotonic()
        process = subprocess.Popen(
            [str(program), "--connect", fleet.uri, "--json", *words], env=environment, stdin=subprocess.DEVNULL, stdout=out,
            stderr=err,
        )
        watch = ThreadWatch(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        took = time.monotonic() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
    most = watch.end()
    if process.returncode != 0:
        raise RuntimeError(f"{words} ended with {process.returncode}: {errors.read_text(errors='replace')[-2000:]}")
    check(words[0], json.loads(output.read_text()), fleet)
    return Scan(took, usage.ru_maxrss * 1024, most)


def check(verb: str, answer: dict[str, Any], fleet: Fleet) -> None:
    domains = answer["domains"]
    if verb == "report":
        reached = [domain for domain in domains if domain["disks"][0]["guest_used_bytes"] == 3 * GIB]
    else:
        planned = [domain for domain in domains if (domain["action"], domain["way"]) == ("trim", "agent")]
        # Nothing is known of a guest that was not asked.
        reached = [domain for domain in planned if domain["expected_bytes"] is not None]
    if (len(domains), len(reached)) != (fleet.domains, fleet.agents):
        raise RuntimeError(f"{verb}: {len(domains)} domains, {len(reached)} with an agent, of {fleet}: {domains[0]}")


class ThreadWatch:
    """Counts the threads of a process, every 2 ms, for as long as it lives."""

    def __init__(self, pid: int) -> None:
        self.most = 0
        self._tasks = Path(f"/proc/{pid}/task")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def end(self) -> int:
        self._over.set()
        self._thread.join()
        return self.most

    def _watch(self) -> None:
        while not self._over.wait(LOOK_EVERY_SECONDS):
            try:
                self.most = max(self.most, len(os.listdir(self._tasks)))
            except OSError:
                return


def compare(what: str, fleets: list[Fleet], scans: list[list[Scan]]) -> list[Row]:
    whole, half = fleets
    ours, halves = scans
    title = f"{what}, {whole.domains} domains and {whole.agents} agents / {half.domains} and {half.agents}"
    pairs = list(zip(ours, halves))
    return [
        Row(f"{title}: wall", seconds(ours), "-", [], len(pairs)),
        Row(f"{title}: wall (linear is 2)", seconds(ours), seconds(halves),
            [one.seconds / other.seconds for one, other in pairs], len(pairs), limit=LINEAR),
        Row(f"{title}: peak RSS (target {MOST_MIB} MiB)", peak(ours), peak(halves),
            [one.peak / other.peak for one, other in pairs], len(pairs), limit=MOST_MIB,
            value=median([one.peak for one in ours]) / MIB),
        Row(f"{title}: most threads at once", threads(ours), threads(halves),
            [one.threads / other.threads for one, other in pairs], len(pairs),
            limit=SAME_THREADS if half.agents > AT_ONCE else None),
    ]


def seconds(scans: list[Scan]) -> str:
    return f"{median([one.seconds for one in scans]):.2f} s"


def peak(scans: list[Scan]) -> str:
    return f"{median([one.peak for one in scans]) / MIB:.0f} MiB"


def threads(scans: list[Scan]) -> str:
    return str(max(one.threads for one in scans))
