#!/usr/bin/env python3
"""What a fleet costs the machine that runs Ansible: the collection's playbooks over so many hosts that all answer at once.

    bench/ansible/scale.py --hosts 500 --domains 100 --forks 50

Hosts are not reached by ssh but by canned.py. What is measured is therefore the control node's own: seconds, CPU, and the resident
memory of its largest process. ssh comes on top, and so does what the hosts take: docs/fleet.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
COLLECTION = HERE.parents[1] / "ansible"
GIB = 1 << 30
PLAYBOOKS = ("report", "migrate", "trim")


@dataclass(frozen=True)
class Fleet:
    hosts: int
    domains: int  # of each host
    forks: int
    host_seconds: float = 0  # how long a host takes to answer


def disk(number: int) -> dict[str, Any]:
    return {
        "domain": f"customer-{number:04}", "state": "running", "agent": None, "last_trim": "2026-01-01T00:00:00Z", "target": "vda",
        "bus": "virtio", "device": "disk", "image": f"/var/lib/libvirt/images/customer-{number:04}.qcow2", "format": "qcow2",
        "capacity_bytes": 40 * GIB, "allocation_bytes": 30 * GIB, "guest_used_bytes": 10 * GIB, "reclaimable_bytes": 20 * GIB,
        "grown_since_trim_bytes": GIB, "blockers": ["discard-ignored"],
    }


def write_answers(directory: Path, domains: int) -> None:
    """As the modules give them with 'full: false'."""
    names = [f"customer-{number:04}" for number in range(domains)]
    amount = domains * 30 * GIB
    total = {
        "disks": domains, "capacity_bytes": amount, "allocation_bytes": amount, "disks_with_guest": domains, "guest_used_bytes": amount,
        "reclaimable_bytes": amount,
    }
    common = {"rc": 0, "status": "done"}
    answers = {
        "report_info": {"changed": False, "total": total, "disks": [disk(n) for n in range(domains)], "not_examined": [], **common},
        "discard": {"changed": True, "to_change": names, "changed_domains": names, "blocked": {}, **common},
        "trim": {"changed": True, "freed_bytes": amount, "trimmed_bytes": amount, **common},
    }
    for name, answer in answers.items():
        (directory / f"{name}.json").write_text(json.dumps(answer))


@dataclass
class Cost:
    playbook: str
    seconds: float
    cpu: float  # seconds, of all processes
    peak: int  # bytes resident, of the largest process so far

    def __str__(self) -> str:
        return f"{self.playbook:8} {self.seconds:7.1f} s, {self.cpu:7.1f} s of CPU, largest process so far {self.peak >> 20} MiB"


def measure(playbook: str, place: Path, environment: dict[str, str], *words: str) -> Cost:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.monotonic()
    with open(place / f"{playbook}.log", "wb") as log:
        done = subprocess.run(
            ["ansible-playbook", f"virt_reclaim.fleet.{playbook}", *words], cwd=place, env=environment, stdout=log, stderr=log,
            stdin=subprocess.DEVNULL, check=False,
        )
    seconds = time.monotonic() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise RuntimeError(f"{playbook} ended with {done.returncode}:\n" + (place / f"{playbook}.log").read_text()[-3000:])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(playbook, seconds, cpu, after.ru_maxrss * 1024)


def run_playbooks(place: Path, fleet: Fleet, playbooks: Sequence[str] = PLAYBOOKS) -> Iterator[Cost]:
    """One after the other, in `place`, which is empty and stays."""
    link = place / "collections" / "ansible_collections" / "virt_reclaim" / "fleet"
    link.parent.mkdir(parents=True)
    link.symlink_to(COLLECTION)
    write_answers(place, fleet.domains)
    hosts = "\n".join(f"host{number:04}" for number in range(fleet.hosts))
    (place / "hosts.ini").write_text(
        f"[hypervisors]\n{hosts}\n[hypervisors:vars]\nansible_connection=canned\nansible_python_interpreter=/usr/bin/python3\n"
    )
    environment = {
        **os.environ, "ANSIBLE_COLLECTIONS_PATH": str(place / "collections"), "ANSIBLE_CONNECTION_PLUGINS": str(HERE),
        "ANSIBLE_INVENTORY": str(place / "hosts.ini"), "ANSIBLE_FORKS": str(fleet.forks), "ANSIBLE_PIPELINING": "1",
        "ANSIBLE_HOME": str(place / "home"), "ANSIBLE_LOCAL_TEMP": str(place / "tmp"), "VR_ANSWERS": str(place),
        "VR_HOST_SECONDS": str(fleet.host_seconds), "PYTHONDONTWRITEBYTECODE": "1",
    }
    for playbook in playbooks:
        words = ["-e", f"virt_reclaim_report_dir={place}"] if playbook == "report" else []
        yield measure(playbook, place, environment, *words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=500)
    parser.add_argument("--domains", type=int, default=100, help="of each host")
    parser.add_argument("--forks", type=int, default=50)
    parser.add_argument("--host-seconds", type=float, default=0, help="how long a host takes to answer")
    parser.add_argument("playbooks", nargs="*", default=PLAYBOOKS)
    arguments = parser.parse_args()
    fleet = Fleet(arguments.hosts, arguments.domains, arguments.forks, arguments.host_seconds)
    with tempfile.TemporaryDirectory(prefix="vr-scale-") as directory:
        place = Path(directory)
        print(f"{fleet.hosts} hosts x {fleet.domains} domains, {fleet.forks} forks, {os.cpu_count()} CPUs", flush=True)
        try:
            for cost in run_playbooks(place, fleet, arguments.playbooks):
                print(cost, flush=True)
        except RuntimeError as problem:
            sys.exit(str(problem))
        for name in ("report.csv", "report.html"):
            if (place / name).exists():
                print(f"{name}: {(place / name).stat().st_size >> 10} KiB")


if __name__ == "__main__":
    main()
