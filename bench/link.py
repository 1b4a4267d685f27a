"""What a call costs: our agent over the link beside qemu-guest-agent, on one guest. bench/link.cc does the timing."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

from benchlib import Row, accelerator, built, require_bed
from vrtest import Disk, EmbedHost, Guest, Workspace
from vrtest.guest import AGENT_PORT, NEW_MACHINE, QEMU_GA_PORT

# libvirt keeps the socket of org.qemu.guest_agent.0 to itself, so the comparison without libvirt has a qemu-ga of its own.
RAW_PORT = "org.virt_reclaim.bench.qemu_ga"

# What is promised (docs/testing.md): ours over the peer's, of these.
LIMITS = {("GetInfo", "guest-ping (virDomainQemuAgentCommand)"): 0.8}

START_QEMU_GA = """
set -e
vr-ports
for port in {ports}; do
  mkdir -p /run/$port
  qemu-ga -m virtio-serial -p /dev/virtio-ports/$port -t /run/$port -f /run/$port/pid -d
done
"""


def run(*, smoke: bool, rounds: int) -> list[Row]:
    require_bed("qemu-ga")
    program, agent = built("bench_link"), built("virt-reclaim-agent")
    with Workspace() as space:
        host = EmbedHost(space.path)
        guest = Guest(
            host, "bench", disks=[Disk("empty", bus="virtio", discard="unmap")], machine=NEW_MACHINE, agent=agent,
            ports=(AGENT_PORT, QEMU_GA_PORT, RAW_PORT), guest_options=("--qemu-ga",),
            domain_type=accelerator().domain_type,
        )
        guest.start()
        guest.run(START_QEMU_GA.format(ports=f"{QEMU_GA_PORT} {RAW_PORT}"))
        raw = re.search(r"path='([^']*/" + re.escape(RAW_PORT) + ")'", guest.live_xml())
        assert raw, "libvirt made no socket for the raw port"
        size = ["--rounds", "1", "--calls", "20", "--trims", "2"] if smoke else ["--rounds", str(rounds)]
        done = subprocess.run(
            [program, host.uri, guest.name, "--json", "--raw-socket", raw[1], *size], env=host.environment(),
            capture_output=True, text=True, timeout=600, check=False, stdin=subprocess.DEVNULL,
        )
        if done.returncode != 0:
            raise RuntimeError(f"bench_link: {done.stderr.strip()}\n--- qemu-ga\n{guest.run('ps').output}")
        measured = json.loads(done.stdout)
        guest.destroy()
    return rows(measured["unary"]) + rows(measured["trim"])


def rows(series: list[dict[str, Any]]) -> list[Row]:
    """The first of a series is ours, each other one a peer."""
    ours, *peers = series
    return [
        Row(f"{ours['name']} / {peer['name']}", figures(ours), figures(peer), peer["ratios"], len(peer["ratios"]),
            LIMITS.get((ours["name"].split()[0], peer["name"])))
        for peer in peers
    ]


def figures(one: dict[str, Any]) -> str:
    return f"{one['median_us']:.0f} us (p95 {one['p95_us']:.0f})"
