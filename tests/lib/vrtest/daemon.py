"""A libvirtd of one's own, that many programs may use at once: as root, but with its state, its sockets and its guests in
a mount namespace and a directory that are ours. It also listens on the loopback, for the way a far host is reached.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
from urllib.parse import quote

from .host import QEMU_CONF, Host
from .waiting import wait_for
from .workspace import Workspace

CONF = """\
unix_sock_dir = "{sockets}"
unix_sock_rw_perms = "0700"
auth_unix_rw = "none"
auth_unix_ro = "none"
listen_tls = 0
listen_tcp = 1
listen_addr = "127.0.0.1"
tcp_port = "{port}"
auth_tcp = "none"
# A client that a test has stopped is not given up.
keepalive_interval = -1
log_outputs = "3:file:{directory}/libvirtd.log"
"""

# What libvirtd knows no other place for.
START = """
set -e
for place in /run /etc/libvirt /var/lib/libvirt /var/log/libvirt; do
  mkdir -p $place
  if [ -d {directory}/lasting ]; then
    mkdir -p {directory}/lasting$place
    mount --bind {directory}/lasting$place $place
  else
    mount -t tmpfs -o mode=0755 tmpfs $place
  fi
done
mkdir -p /var/cache/libvirt
mount --bind {directory}/cache /var/cache/libvirt
mkdir -p /run/lock  # of channels in use
cp {directory}/qemu.conf /etc/libvirt/
exec libvirtd --listen --config {directory}/libvirtd.conf --pid-file {directory}/libvirtd.pid
"""


class DaemonHost(Host):
    def __init__(self, space: Workspace, *, lasting: bool = False) -> None:
        """lasting: what it has written down survives its end, as on a real host, and with it what it knows of its guests."""
        if lasting:
            (space.path / "lasting").mkdir()
        self._socket = space.path / "sockets" / "libvirt-sock"
        self._socket.parent.mkdir()
        uri = "qemu+unix:///system?socket=" + quote(str(self._socket), safe="/")
        super().__init__(space.path, uri, space.path / "cache" / "qemu" / "capabilities")
        port = _free_port()
        self.far_uri = f"qemu+tcp://127.0.0.1:{port}/system"
        (space.path / "qemu.conf").write_text(QEMU_CONF)
        (space.path / "libvirtd.conf").write_text(
            CONF.format(sockets=self._socket.parent, port=port, directory=space.path)
        )
        space.before_close(self.close)
        self.start()

    def start(self) -> None:
        # An end that was not orderly leaves it behind.
        self._socket.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", START.format(directory=shlex.quote(str(self.directory)))],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"},
        )
        wait_for("libvirtd to answer", lambda: self.virsh("uri", check=False).returncode == 0, seconds=60)

    def kill(self) -> None:
        """Without a word to anybody. Guests go on; the next start finds them only where the host is a lasting one: else its /run is
        new."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
