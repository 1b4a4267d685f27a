"""What a fleet costs the machine that runs Ansible: bench/ansible/scale.py, as one bench among the others. There is no peer."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchlib import Row, mib, require_programs

sys.path.insert(0, str(Path(__file__).resolve().parent / "ansible"))

from scale import Fleet, run_playbooks  # noqa: E402


def run(*, smoke: bool, rounds: int) -> list[Row]:
    require_programs("ansible-playbook")
    fleet = Fleet(hosts=5, domains=10, forks=5) if smoke else Fleet(hosts=500, domains=100, forks=50)
    rows: list[Row] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="vr-scale-") as directory:
            rows += [
                Row(f"playbook {cost.playbook} over {fleet.hosts} hosts",
                    f"{cost.seconds:.1f} s, {cost.cpu:.1f} s of CPU, {mib(cost.peak)}")
                for cost in run_playbooks(Path(directory), fleet)
            ]
    return rows
