"""Hypervisors in network namespaces, each with an sshd and a libvirt (qemu:///embed) of its own, for fleet_test.py.

Everything runs in one PID namespace with its own mounts and its own network: when its first process ends, however it does, processes,
mounts and networks are gone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from vrtest import EmbedHost, Workspace, skip_all
from vrtest.guest import MIB, OLD_MACHINE

INSIDE = "VR_FLEET_INSIDE"
NETWORK = "10.77.0"
DOMAINS = ("db", "mail", "web")
# A first process that waits for whatever is left to it; a QEMU that nobody has waited for looks to libvirt as if it still ran.
UNSHARE = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
INIT = '"$@"; status=$?; exit $status'


def enter_namespaces() -> Path:
    """Starts this program once more in namespaces of its own, and ends with it. Inside it returns the directory to use."""
    if os.environ.get(INSIDE):
        return Path(os.environ[INSIDE])
    _outside()


def _outside() -> NoReturn:
    tried = subprocess.run([*UNSHARE, "ip", "link", "add", "fleet", "type", "bridge"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        skip_all(f"no namespaces to be had here: {tried.stderr.strip()}")
    # The clean-up of the directory is outside, where it survives what happens inside.
    with Workspace() as space:
        done = subprocess.run(
            [*UNSHARE, "sh", "-c", INIT, "sh", sys.executable, *sys.argv], env={**os.environ, INSIDE: str(space.path)}, check=False,
        )
        status = done.returncode
    sys.exit(status)


def run(*command: str | Path, text: str = "") -> None:
    subprocess.run([str(word) for word in command], input=text, text=True, check=True, stdout=subprocess.DEVNULL, timeout=120)


def domain_xml(host: str, name: str, image: Path) -> str:
    return f"""<domain type='qemu'>
  <name>{name}</name>
  <uuid>{domain_uuid(host, name)}</uuid>
  <memory unit='MiB'>128</memory>
  <os><type arch='x86_64' machine='{OLD_MACHINE}'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='{image}'/><target dev='vda' bus='virtio'/>
    </disk>
  </devices>
</domain>
"""


def domain_uuid(host: str, name: str) -> uuid.UUID:
    return uuid.uuid5(uuid.NAMESPACE_DNS, f"{name}.{host}")


@dataclass
class FleetHost:
    name: str
    address: str
    directory: Path
    libvirt: EmbedHost

    def define(self) -> None:
        commands = []
        for name in DOMAINS:
            image = self.directory / f"{name}.raw"
            with open(image, "wb") as file:
                file.truncate(64 * MIB)
            path = self.directory / f"{name}.xml"
            path.write_text(domain_xml(self.name, name, image))
            commands.append(f"define {path}")
        subprocess.run(
            ["virsh", "-q", "-c", self.libvirt.uri], env=self.libvirt.environment(), input="\n".join(commands), text=True,
            stdout=subprocess.DEVNULL, check=True, timeout=120,
        )

    def definitions(self) -> dict[str, str]:
        """As libvirt has them on disk."""
        directory = self.libvirt.root / "etc" / "qemu"
        return {path.stem: path.read_text() for path in sorted(directory.glob("*.xml"))}

    def state_of(self, domain: str) -> Path:
        """Where virt-reclaim keeps the domain's migrations."""
        uri = "".join(c if c.isalnum() or c in ".-" else f"%{ord(c):02X}" for c in self.libvirt.uri)
        return self.directory / "state" / "migrate" / uri / str(domain_uuid(self.name, domain))


class Fleet:
    def __init__(self, space: Path, count: int, *, silent: str) -> None:
        """silent: a host that answers nobody."""
        self.space = space
        self.hosts: dict[str, FleetHost] = {}
        self._daemons: list[subprocess.Popen[bytes]] = []
        for number in range(1, count + 1):
            directory = space / f"h{number:02}"
            (directory / "state").mkdir(parents=True)
            name = f"host{number:02}"
            self.hosts[name] = FleetHost(name, f"{NETWORK}.{10 + number}", directory, EmbedHost(directory))
        self._make_keys()
        self._make_network(silent)
        self._make_domains()
        for host in self.hosts.values():
            if host.name != silent:
                self._start_sshd(host)

    def _make_keys(self) -> None:
        self.ssh = self.space / "ssh"
        self.ssh.mkdir()
        for name in ("host_key", "control"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", self.ssh / name)
        key = (self.ssh / "host_key.pub").read_text()
        (self.ssh / "known_hosts").write_text("".join(f"{host.address} {key}" for host in self.hosts.values()))

    def _make_network(self, silent: str) -> None:
        # sshd and ip want directories there that the machine may not have; libvirt locks the channels it opens in /var/lock.
        run("mount", "-t", "tmpfs", "tmpfs", "/run")
        for name in ("sshd", "lock"):
            (Path("/run") / name).mkdir()
        lines = ["link set lo up", "link add fleet type bridge", f"addr add {NETWORK}.1/24 dev fleet", "link set fleet up"]
        for name in self.hosts:
            lines += [f"netns add {name}", f"link add {name} type veth peer name eth0 netns {name}", f"link set {name} master fleet up"]
        run("ip", "-batch", "-", text="\n".join(lines) + "\n")
        for name, host in self.hosts.items():
            address = [] if name == silent else [f"addr add {host.address}/24 dev eth0"]
            run("ip", "-n", name, "-batch", "-", text="\n".join(["link set lo up", *address, "link set eth0 up"]) + "\n")

    def _make_domains(self) -> None:
        first, *others = self.hosts.values()
        first.define()
        # What libvirt found out of QEMU takes it seconds, and is the same everywhere.
        cache = first.libvirt.root / "cache"
        for host in others:
            if cache.is_dir():
                shutil.copytree(cache, host.libvirt.root / "cache", dirs_exist_ok=True)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(FleetHost.define, others))

    def _start_sshd(self, host: FleetHost) -> None:
        config = host.directory / "sshd_config"
        config.write_text(
            f"Port 22\nHostKey {self.ssh}/host_key\nAuthorizedKeysFile {self.ssh}/control.pub\nPermitRootLogin prohibit-password\n"
            f"StrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile none\nLogLevel ERROR\nUseDNS no\n"
            # SHLVL: a shell that is not the first one leaves out the ~/.bashrc of this machine's root.
            f"Subsystem sftp internal-sftp\nSetEnv LIBVIRT_LOG_OUTPUTS=3:file:{host.directory}/libvirt.log SHLVL=2\n"
        )
        command = ["ip", "netns", "exec", host.name, "/usr/sbin/sshd", "-D", "-f", str(config)]
        with open(host.directory / "sshd.log", "wb") as log:
            self._daemons.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def close(self) -> None:
        for daemon in self._daemons:
            daemon.kill()
            daemon.wait()

    def write_inventory(self, program: Path) -> None:
        lines = ["[hypervisors]"]
        for host in self.hosts.values():
            variables = {
                "ansible_host": host.address, "ansible_remote_tmp": host.directory / "tmp", "virt_reclaim_connect": host.libvirt.uri,
                "virt_reclaim_state_dir": host.directory / "state", "virt_reclaim_run_dir": host.directory / "run",
                "virt_reclaim_plan": host.directory / "state" / "plan.json", "host_directory": host.directory,
            }
            lines.append(" ".join([host.name, *[f"{name}='{value}'" for name, value in variables.items()]]))
        lines += [
            "[hypervisors:vars]", "ansible_user=root", "ansible_python_interpreter=/usr/bin/python3",
            f"virt_reclaim_program={program}",
        ]
        (self.space / "inventory.ini").write_text("\n".join(lines) + "\n")
        (self.space / "ansible.cfg").write_text(
            f"[defaults]\ninventory={self.space}/inventory.ini\nforks={len(self.hosts)}\ntimeout=4\nlocal_tmp={self.space}/tmp\n"
            f"retry_files_enabled=false\nnocows=true\n"
            f"[ssh_connection]\npipelining=true\ncontrol_path_dir={self.space}/cp\n"
            f"ssh_args=-F none -o ControlMaster=auto -o ControlPersist=300s -o IdentityFile={self.ssh}/control"
            f" -o IdentitiesOnly=yes -o UserKnownHostsFile={self.ssh}/known_hosts\n"
        )
