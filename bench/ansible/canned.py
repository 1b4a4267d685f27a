"""An Ansible connection to hosts that answer at once with what is in a file, so that what is left is the control node's own work."""

from __future__ import annotations

import os
import re
import time
from typing import Any

from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: canned
short_description: Hosts that answer with what is in a file
description: For bench/ansible/scale.py only.
author: The virt-reclaim authors
options: {}
"""

# In the program that Ansible would send: which module it is.
MODULE = re.compile(rb"ansible_collections\.virt_reclaim\.fleet\.plugins\.modules\.(\w+)")


class Connection(ConnectionBase):
    transport = "canned"
    has_pipelining = True

    def _connect(self) -> Connection:
        self._connected = True
        return self

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        found = MODULE.search(in_data or b"")
        if not found:
            return 0, b"", b""
        time.sleep(float(os.environ.get("VR_HOST_SECONDS", "0")))
        with open(os.path.join(os.environ["VR_ANSWERS"], f"{found[1].decode()}.json"), "rb") as file:
            return 0, file.read(), b""

    def put_file(self, in_path: str, out_path: str) -> Any:
        raise NotImplementedError("everything goes through pipelining")

    def fetch_file(self, in_path: str, out_path: str) -> Any:
        raise NotImplementedError("nothing is fetched")

    def close(self) -> None:
        self._connected = False
