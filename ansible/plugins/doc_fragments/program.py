"""What every module takes."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  program:
    description: C(virt-reclaim) on the host, by name or path.
    type: str
    default: virt-reclaim
  connect:
    description: The hypervisor, as a libvirt URI. Without it C(LIBVIRT_DEFAULT_URI), else libvirt's own choice.
    type: str
  state_dir:
    description: Where old definitions and the history of trims are kept. Without it C(/var/lib/virt-reclaim).
    type: path
  run_dir:
    description: Where locks are. Without it C(/run/virt-reclaim).
    type: path
requirements:
  - virt-reclaim on the host
notes:
  - The module starts the program with C(--json) and returns what it says; field by field it is described in docs/json.md.
  - Sizes are written as for the program (C(64M), C(5G)), and so are times (C(90s), C(30m)).
"""
