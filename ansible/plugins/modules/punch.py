#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright: the virt-reclaim authors. Apache License 2.0
"""virt-reclaim punch, for Ansible."""

from __future__ import absolute_import, division, print_function

DOCUMENTATION = r"""
module: punch
short_description: Make holes of the zero blocks in images and backups
description:
  - What reads as zeroes before reads as zeroes after, and the modification time stays.
version_added: "0.1.0"
author: The virt-reclaim authors (@virt-reclaim)
extends_documentation_fragment: virt_reclaim.fleet.program
attributes:
  check_mode:
    description: Reads the files, and punches nothing.
    support: full
  diff_mode:
    description: Shows for each file how many bytes of zeroes occupy storage, and how many are punched.
    support: full
options:
  paths:
    description: Files, or with I(recursive) directories.
    type: list
    elements: path
    required: true
  recursive:
    description: All files below directories.
    type: bool
  one_file_system:
    description: Only on the same filesystem.
    type: bool
  live:
    description: Also images in use, where that is safe.
    type: bool
  unwritten:
    description: Preallocated space that was never written, too.
    type: bool
  no_release:
    description: On btrfs, do not move what is left of extents.
    type: bool
  new_mtime:
    description: Do not put the modification time back.
    type: bool
  min_hole:
    description: Leave shorter runs of zeroes.
    type: str
  max_rate:
    description: Read at most so much a second.
    type: str
  idle:
    description: Ask the disk only when nobody else does.
    type: bool
  nothing_freed:
    description: What to do when holes were made and nothing came free, as with extents that a snapshot shares.
    type: str
    choices: [warn, fail, ignore]
    default: warn
"""

EXAMPLES = r"""
- name: Backups of the night
  virt_reclaim.fleet.punch:
    paths: [/backup]
    recursive: true
    idle: true
"""

RETURN = r"""
rc:
  description: The program's exit status.
  returned: always
  type: int
status:
  description: Its name, such as C(done), C(some-failed), C(nothing-freed) or C(refused).
  returned: always
  type: str
files:
  description: What the program says of each file, as in C(punch) of docs/json.md; of a directory only files with zeroes or trouble.
  returned: always
  type: list
  elements: dict
total:
  description: The sums over all files.
  returned: always
  type: dict
"""

from typing import Any  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible_collections.virt_reclaim.fleet.plugins.module_utils.program import (  # noqa: E402
    COMMON_SPEC,
    finish,
    run,
    words_of,
)

OPTIONS = ("recursive", "one_file_system", "live", "unwritten", "no_release", "new_mtime", "min_hole", "max_rate", "idle")
SPEC: dict[str, dict[str, Any]] = {
    **COMMON_SPEC,
    "paths": {"type": "list", "elements": "path", "required": True},
    "recursive": {"type": "bool"},
    "one_file_system": {"type": "bool"},
    "live": {"type": "bool"},
    "unwritten": {"type": "bool"},
    "no_release": {"type": "bool"},
    "new_mtime": {"type": "bool"},
    "min_hole": {"type": "str"},
    "max_rate": {"type": "str"},
    "idle": {"type": "bool"},
    "nothing_freed": {"type": "str", "choices": ["warn", "fail", "ignore"], "default": "warn"},
}


def main() -> None:
    module = AnsibleModule(argument_spec=SPEC, supports_check_mode=True)
    dry = module.check_mode
    words = ["--dry-run"] if dry else []
    reply = run(module, "punch", words + words_of(module.params, OPTIONS), module.params["paths"])
    files = reply.document["files"]
    # A backup tree has a million files; those with nothing to say would fill the result.
    shown = [each for each in files if each["status"] != "done" or each["zero_bytes"] > 0 or not module.params["recursive"]]
    field = "zero_bytes" if dry else "punched_bytes"
    punched = [each for each in files if each["status"] == "done" and each[field] > 0]
    result = {
        "changed": reply.total["zero_bytes"] > 0 if dry else reply.total["punched_bytes"] > 0,
        "files": shown,
        "total": reply.total,
        "diff": {
            "before": "".join(f"{each['path']}: {each[field]} bytes of zeroes occupy storage\n" for each in punched),
            # What is left is not measured.
            "after": "".join(f"{each['path']}: {each[field]} bytes {'to punch' if dry else 'punched'}\n" for each in punched),
        },
    }
    finish(module, reply, shown, result, key="path", nothing_freed=module.params["nothing_freed"])


if __name__ == "__main__":
    main()
