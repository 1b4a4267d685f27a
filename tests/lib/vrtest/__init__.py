"""The test bed: real guests under a libvirt of their own, for integration tests, benches and scripts/quickstart.

    with Workspace() as space:                      # a temporary directory that goes away whatever happens
        host = EmbedHost(space.path)                # qemu:///embed?root=...
        guest = Guest(host, "web", disks=[Disk("root", fs="ext4", bus="virtio")], agent=agent_path())
        guest.start()
        print(guest.run("uname -r").output)

Guest boots in seconds and has nothing but busybox; DebianGuest is a whole Debian that boots from its own disk.
Python's standard library only.
"""

from .daemon import DaemonHost
from .debian_guest import DebianGuest
from .domain import domain_xml
from .guest import Disk, Guest
from .host import DomainProblem, EmbedHost, Host
from .image import allocation, check_image, fsck
from .programs import Reply, VirtReclaim, agent_path, host_program_path
from .storage import LoopDevice, mount_file, mount_without_holes, move_to
from .testcase import DaemonTestCase, HostTestCase, built, main, skip_all
from .waiting import TimedOut, wait_for
from .workspace import Workspace

__all__ = [
    "DaemonHost", "DaemonTestCase", "DebianGuest", "Disk", "DomainProblem", "EmbedHost", "Guest", "Host", "HostTestCase",
    "LoopDevice", "Reply", "TimedOut", "VirtReclaim", "Workspace", "agent_path", "allocation",
    "built", "check_image", "domain_xml", "fsck", "host_program_path", "main", "mount_file", "mount_without_holes", "move_to", "skip_all",
    "wait_for",
]
