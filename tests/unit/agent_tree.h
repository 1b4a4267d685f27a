// Guests as directory trees, for what reads and fixes their configuration. One thread.
#ifndef VIRT_RECLAIM_TESTS_UNIT_AGENT_TREE_H_
#define VIRT_RECLAIM_TESTS_UNIT_AGENT_TREE_H_

#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "guest-agent/preflight.h"
#include "tests/unit/agent_fixtures.h"

namespace virt_reclaim::agent {

class GuestTree {
 public:
  // Debian with initramfs-tools, everything by path on /dev/vda, drivers as modules only.
  void MakeDebian() {
    tree.Write("usr/sbin/update-initramfs", "");
    tree.Write("usr/sbin/update-grub", "");
    tree.Write("usr/bin/lsinitramfs", "");
    tree.Write("usr/share/initramfs-tools/hook-functions", "");
    tree.Write("etc/initramfs-tools/initramfs.conf", "# c\nMODULES=most\n");
    tree.Write("etc/initramfs-tools/modules", "# List\n");
    tree.Write("etc/initramfs-tools/conf.d/resume", "RESUME=/dev/vda5\n");
    tree.Write("etc/fstab",
               "# /dev/vda1 was / during installation\n"
               "/dev/vda1\t/\text4 errors=remount-ro 0 1\n"
               "/dev/vda5 none swap sw 0 0\n"
               "UUID=3333-3333 /boot/efi vfat umask=0077 0 1\n");
    tree.Write("etc/default/grub",
               "GRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX=\"root=/dev/vda1 quiet resume=/dev/vda5\"\n");
    tree.Write("boot/grub/grub.cfg", "linux /vmlinuz root=/dev/vda1 ro\n");
    tree.Write("proc/cmdline", "BOOT_IMAGE=/vmlinuz root=/dev/vda1 ro secret=hunter2\n");
    tree.Write("proc/sys/kernel/random/boot_id", "11111111-2222-3333-4444-555555555555\n");
    AddKernel("6.1.0-18-amd64");
    ids["/dev/vda1"] = {"ext4", "filesystem", "aaaa-1", "part-1"};
    ids["/dev/vda5"] = {"swap", "other", "aaaa-5", "part-5"};
  }

  // Fedora with dracut; the loader entry names the root by path.
  void MakeFedora() {
    tree.Write("usr/bin/dracut", "");
    tree.Write("usr/bin/lsinitrd", "");
    tree.Write("usr/sbin/grub2-mkconfig", "");
    tree.Write("boot/grub2/grub.cfg", "set default=0\n");
    tree.Write("etc/dracut.conf", "");
    tree.Write("etc/dracut.conf.d/host.conf", "hostonly=\"yes\"\n");
    tree.Write("etc/fstab", "UUID=aaaa-1 / xfs defaults 0 0\n");
    tree.Write("boot/loader/entries/fedora.conf",
               "title Fedora\noptions root=/dev/disk/by-path/pci-0000:00:05.0-part1 ro\n");
    tree.Write("proc/cmdline", "root=/dev/vda1 ro");
    AddKernel("6.1.0-18-amd64", "boot/initramfs-6.1.0-18-amd64.img");
    ids["/dev/vda1"] = {"xfs", "filesystem", "aaaa-1", "part-1"};
    ids["/dev/disk/by-path/pci-0000:00:05.0-part1"] = ids["/dev/vda1"];
  }

  void AddKernel(const std::string& release, const std::string& initramfs = "") {
    const std::string directory = "lib/modules/" + release;
    tree.Write(directory + "/modules.builtin", "kernel/fs/ext4/ext4.ko\n");
    tree.Write(directory + "/modules.dep",
               "kernel/drivers/scsi/virtio_scsi.ko: kernel/drivers/scsi/scsi_mod.ko\n"
               "kernel/drivers/scsi/sd_mod.ko.xz:\n");
    tree.Write("boot/vmlinuz-" + release, "");
    tree.Write(initramfs.empty() ? "boot/initrd.img-" + release : initramfs, "");
  }

  std::string Read(const std::string& path) {
    return RootFiles(tree.path()).Read("/" + path).value_or("(cannot be read)");
  }

  PreflightSources Sources() {
    PreflightSources sources;
    sources.files = RootFiles(tree.path());
    sources.sysfs = sysfs.path();
    sources.kernel_release = "6.1.0-18-amd64";
    sources.read_filesystems = [this] { return list; };
    sources.identify = [this](const std::string& path) -> std::optional<DeviceIds> {
      const auto found = ids.find(path);
      if (found == ids.end()) return std::nullopt;
      return found->second;
    };
    sources.run = [this](const std::vector<std::string>& arguments,
                         const CommandLimits&) -> absl::StatusOr<CommandResult> {
      if (arguments[0].find("lsinit") != std::string::npos) {
        return CommandResult{lister_status, listing, false};
      }
      std::string line;
      for (const std::string& argument : arguments) {
        absl::StrAppend(&line, line.empty() ? "" : " ", argument);
      }
      commands.push_back(line);
      CommandResult result{0, "done\n", false};
      if (!failing.empty() && line.find(failing) != std::string::npos && fail_times-- > 0) {
        result = {1, "no space left on device\n", false};
      } else if (drivers_get_in && (line.find("initramfs") != std::string::npos ||
                                    line.find("dracut") != std::string::npos)) {
        listing =
            "init\nusr/lib/modules/6.1/kernel/virtio_scsi.ko\nusr/lib/modules/sd-mod.ko.zst\n";
      } else if (line.find("grub") != std::string::npos) {
        tree.Write("boot/grub/grub.cfg", "linux /vmlinuz root=UUID=aaaa-1 ro\n");
      }
      return result;
    };
    return sources;
  }

  TempTree tree;
  FakeSysfs sysfs;
  FilesystemList list;
  std::map<std::string, DeviceIds> ids;
  std::string listing = "init\nusr/lib/modules/6.1/kernel/drivers/block/virtio_blk.ko\n";
  int lister_status = 0;
  std::vector<std::string> commands;
  std::string failing;  // a part of the command that fails
  int fail_times = 1;
  bool drivers_get_in = true;  // update-initramfs does what it is asked for
};

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_TESTS_UNIT_AGENT_TREE_H_
