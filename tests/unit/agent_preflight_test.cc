// The guest's configuration as directory trees: what Preflight says of honest and of hostile ones.
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/utf8.h"
#include "guest-agent/preflight.h"
#include "guest-config/device_names.h"
#include "tests/unit/agent_tree.h"

namespace virt_reclaim::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

std::vector<std::string> NamesIn(absl::string_view line) {
  std::vector<std::string> names;
  for (const FoundName& found : FindDeviceNames(line)) names.push_back(found.name);
  return names;
}

TEST(DeviceNamesTest, WhatIsAName) {
  EXPECT_THAT(NamesIn("/dev/vda1 / ext4"), ElementsAre("/dev/vda1"));
  EXPECT_THAT(NamesIn("root=/dev/vdaa12 resume=/dev/vdb"), ElementsAre("/dev/vdaa12", "/dev/vdb"));
  EXPECT_THAT(NamesIn("\"/dev/disk/by-path/pci-0000:00:05.0-part1\""),
              ElementsAre("/dev/disk/by-path/pci-0000:00:05.0-part1"));
  EXPECT_THAT(NamesIn("(hd0) /dev/disk/by-id/virtio-abc_1"),
              ElementsAre("/dev/disk/by-id/virtio-abc_1"));
  EXPECT_THAT(NamesIn("filter = [ \"a|/dev/vd.*|\", \"r|/dev/sda|\" ]"),
              ElementsAre("/dev/vd", "/dev/sda"));
  EXPECT_THAT(NamesIn("/dev/sdb3 /srv"), ElementsAre("/dev/sdb3"));
  for (const std::string name :
       {"/dev/disk/by-id/ata-QEMU_HARDDISK_QM00001-part1", "/dev/disk/by-id/usb-QEMU_1-0:0"})
    EXPECT_THAT(NamesIn(name + " /srv ext4"), ElementsAre(name));
}

TEST(DeviceNamesTest, WhatIsNone) {
  for (const char* line : {"/dev/sr0", "/dev/sdagent", "/dev/vdagent", "/dev/mapper/vda",
                           "/chroot/dev/vda1", "/dev/vda-old", "/dev/vd_x", "/dev/disk/by-uuid/1",
                           "/dev/disk/by-id/scsi-1", "vda1", "/dev/", "/dev/v"}) {
    EXPECT_THAT(NamesIn(line), IsEmpty()) << line;
  }
}

struct PreflightTest : ::testing::Test {
  Preflight Read() {
    auto preflight = ReadPreflight(guest.Sources());
    EXPECT_TRUE(preflight.ok()) << preflight.status();
    return *std::move(preflight);
  }
  // "fstab:2 /dev/vda1 -> UUID=aaaa-1 fixable"
  std::vector<std::string> Names() {
    std::vector<std::string> lines;
    for (const NamedDevice& named : Read().names.names) {
      lines.push_back(absl::StrCat(NameSourceName(named.source), ":", named.line, " ", named.name,
                                   " -> ", named.replacement, named.fixable ? " fixable" : ""));
    }
    return lines;
  }
  std::vector<std::string> FstabNames(const std::string& fstab) {
    guest.tree.Write("etc/fstab", fstab);
    return Names();
  }

  GuestTree guest;
};

TEST_F(PreflightTest, Debian) {
  guest.MakeDebian();
  const Preflight preflight = Read();
  EXPECT_EQ(preflight.kernel_major, 6U);
  EXPECT_EQ(preflight.kernel_minor, 1U);
  EXPECT_EQ(preflight.boot_id, "11111111-2222-3333-4444-555555555555");
  EXPECT_EQ(preflight.initramfs.tool, InitramfsTool::kInitramfsTools);
  EXPECT_EQ(preflight.initramfs.config.modules_policy, "most");
  EXPECT_FALSE(preflight.initramfs.config.virtio_scsi_listed);
  ASSERT_THAT(preflight.initramfs.kernels, SizeIs(1));
  const KernelModules& kernel = preflight.initramfs.kernels[0];
  EXPECT_TRUE(kernel.running);
  EXPECT_TRUE(kernel.newest);
  EXPECT_EQ(kernel.initramfs, "/boot/initrd.img-6.1.0-18-amd64");
  EXPECT_EQ(kernel.virtio_scsi, ModuleState::kModuleOnly);
  EXPECT_EQ(kernel.sd_mod, ModuleState::kModuleOnly);
  EXPECT_EQ(kernel.virtio_blk, ModuleState::kMissing);
  EXPECT_THAT(Names(), ElementsAre("running-command-line:1 /dev/vda1 -> UUID=aaaa-1",
                                   "fstab:2 /dev/vda1 -> UUID=aaaa-1 fixable",
                                   "fstab:3 /dev/vda5 -> UUID=aaaa-5 fixable",
                                   "grub-default:2 /dev/vda1 -> UUID=aaaa-1 fixable",
                                   "grub-default:2 /dev/vda5 -> UUID=aaaa-5 fixable",
                                   "grub-config:1 /dev/vda1 -> UUID=aaaa-1 fixable",
                                   "initramfs-resume:1 /dev/vda5 -> UUID=aaaa-5 fixable"));
  // Nothing of the command line but the word.
  EXPECT_EQ(preflight.names.names[0].text, "root=/dev/vda1");
}

TEST_F(PreflightTest, WhatFindsDisksOnTheBusesThatAMigrationLeaves) {
  guest.MakeDebian();
  const std::string directory = "lib/modules/6.1.0-18-amd64";
  guest.tree.Write(directory + "/modules.builtin", "kernel/drivers/ata/ata_piix.ko\n");
  guest.tree.Write(directory + "/modules.dep",
                   "kernel/drivers/block/virtio_blk.ko:\nkernel/drivers/ata/ahci.ko:\n");
  guest.listing = "init\nusr/lib/modules/6.1.0-18-amd64/kernel/drivers/ata/ahci.ko\n";
  const KernelModules kernel = Read().initramfs.kernels.at(0);
  EXPECT_EQ(kernel.virtio_blk, ModuleState::kModuleOnly);
  EXPECT_EQ(kernel.ahci, ModuleState::kInInitramfs);
  EXPECT_EQ(kernel.ata_piix, ModuleState::kBuiltIn);
}

TEST_F(PreflightTest, Fedora) {
  guest.MakeFedora();
  guest.listing =
      "-rwxr-xr-x   1 root root 0 Jan  1 1970 init\n"
      "-rw-r--r--   1 root root 9 Jan  1 1970 usr/lib/modules/6.1/virtio_scsi.ko.xz\n";
  const Preflight preflight = Read();
  EXPECT_EQ(preflight.initramfs.tool, InitramfsTool::kDracut);
  EXPECT_EQ(preflight.initramfs.config.host_only, "yes");
  EXPECT_EQ(preflight.initramfs.kernels.at(0).virtio_scsi, ModuleState::kInInitramfs);
  EXPECT_EQ(preflight.initramfs.kernels.at(0).sd_mod, ModuleState::kModuleOnly);
  EXPECT_THAT(Names(),
              ElementsAre("running-command-line:1 /dev/vda1 -> UUID=aaaa-1",
                          "loader-entry:2 /dev/disk/by-path/pci-0000:00:05.0-part1 -> UUID=aaaa-1 "
                          "fixable"));
}

TEST_F(PreflightTest, DriversAreKnownOnlyWhenTheyAre) {
  guest.MakeDebian();
  const auto state = [&] { return Read().initramfs.kernels.at(0).virtio_scsi; };
  guest.lister_status = 1;
  EXPECT_EQ(state(), ModuleState::kUnknown);
  guest.lister_status = 0;
  guest.listing = "";  // a damaged archive
  EXPECT_EQ(state(), ModuleState::kUnknown);
  guest.listing = "init\nlib/modules/x/not_virtio_scsi.ko\nlib/modules/x/virtio_scsi.ko.d/a\n";
  EXPECT_EQ(state(), ModuleState::kModuleOnly);
  guest.tree.Write("lib/modules/6.1.0-18-amd64/modules.builtin", "kernel/x/virtio-scsi.ko\n");
  EXPECT_EQ(state(), ModuleState::kBuiltIn);
  guest.tree.Write("lib/modules/6.1.0-18-amd64/modules.builtin", "");
  guest.tree.Write("lib/modules/6.1.0-18-amd64/modules.dep",
                   "kernel/a.ko: kernel/virtio_scsi.ko\n");
  EXPECT_EQ(state(), ModuleState::kMissing);
}

TEST_F(PreflightTest, NewestKernelIsLookedAtToo) {
  guest.MakeDebian();
  guest.AddKernel("6.1.0-9-amd64");
  guest.AddKernel("6.1.0-20-amd64");
  guest.tree.Write("lib/modules/6.9.9-removed/modules.dep", "");  // no kernel beside it
  const Preflight preflight = Read();
  ASSERT_THAT(preflight.initramfs.kernels, SizeIs(2));
  EXPECT_FALSE(preflight.initramfs.kernels[0].newest);
  EXPECT_EQ(preflight.initramfs.kernels[1].release, "6.1.0-20-amd64");
}

// They are shell that goes into the initramfs: found, and left to their author.
TEST_F(PreflightTest, WhatGoesIntoAnInitramfs) {
  guest.ids["/dev/vda1"] = {"ext4", "filesystem", "aaaa-1", ""};
  guest.tree.Write("etc/dracut.conf", "kernel_cmdline=\"root=/dev/vda1 ro\"\n");
  guest.tree.Write("etc/dracut.conf.d/swap.conf", "# x\nadd_device+=\" /dev/vda5 \"\n");
  guest.tree.Write("etc/dracut.conf.d/README", "/dev/vda7\n");
  guest.tree.Write("etc/initramfs-tools/initramfs.conf", "MODULES=most\nRESUME=/dev/vda1\n");
  EXPECT_THAT(Names(), ElementsAre("kernel-command-line:1 /dev/vda1 -> UUID=aaaa-1",
                                   "initramfs-resume:2 /dev/vda1 -> UUID=aaaa-1 fixable",
                                   "kernel-command-line:2 /dev/vda5 -> "));
}

TEST_F(PreflightTest, FstabPlacesThatAreNotTheDevice) {
  guest.MakeDebian();
  EXPECT_THAT(FstabNames("UUID=x /data ext4 x-systemd.requires=/dev/vda1 0 0\n"),
              ::testing::Contains("fstab:1 /dev/vda1 -> UUID=aaaa-1"));
  EXPECT_THAT(FstabNames("/dev/vdz9 /data ext4 defaults 0 0\n"),
              ::testing::Contains("fstab:1 /dev/vdz9 -> "));
}

TEST_F(PreflightTest, UuidThatIsMoreThanAUuid) {
  guest.ids["/dev/vdb1"] = {"ext4", "filesystem", "1 / ext4 exec\n", "a b"};
  EXPECT_THAT(FstabNames("/dev/vdb1 /data ext4 defaults 0 0\n"),
              ElementsAre("fstab:1 /dev/vdb1 -> "));
}

TEST_F(PreflightTest, LuksAndLvm) {
  guest.sysfs.Disk("vda", "254:0", 4096);
  guest.sysfs.Partition("vda", "vda2", "254:2");
  guest.sysfs.Mapper("dm-0", "253:0", 0, "CRYPT-LUKS2-1", {"vda2"}, "vda2_crypt");
  guest.sysfs.Mapper("dm-1", "253:1", 4096, "CRYPT-LUKS2-2", {"vda"}, "open");
  guest.sysfs.Mapper("dm-2", "253:2", 0, "LVM-1", {"dm-0"}, "vg-root");
  guest.tree.Write("etc/crypttab",
                   "# c\nvda2_crypt /dev/vda2 none luks\nopen /dev/vda none luks,discard\n"
                   "later UUID=1 none luks,discard\n");
  guest.tree.Write("etc/lvm/lvm.conf",
                   "devices {\n  # issue_discards = 0\n\tissue_discards = 1\n"
                   "  filter = [ \"a|/dev/vda2|\" ]\n}\n");
  guest.ids["/dev/vda2"] = {"crypto_LUKS", "crypto", "luks-2", "part-2"};
  guest.ids["/dev/vda"] = {"ext4", "filesystem", "x", ""};  // a key that is made anew each time
  const Preflight preflight = Read();
  ASSERT_THAT(preflight.crypt_devices, SizeIs(3));
  EXPECT_EQ(preflight.crypt_devices[0].passes_discards, DiscardSetting::kDisabled);
  EXPECT_EQ(preflight.crypt_devices[0].crypttab_discard, DiscardSetting::kDisabled);
  EXPECT_EQ(preflight.crypt_devices[1].passes_discards, DiscardSetting::kEnabled);
  EXPECT_EQ(preflight.crypt_devices[1].crypttab_discard, DiscardSetting::kEnabled);
  EXPECT_EQ(preflight.crypt_devices[2].name, "");
  EXPECT_EQ(preflight.crypt_devices[2].passes_discards, DiscardSetting::kUnknown);
  EXPECT_EQ(preflight.lvm_issue_discards, DiscardSetting::kEnabled);
  EXPECT_THAT(Names(),
              ElementsAre("crypttab:2 /dev/vda2 -> UUID=luks-2 fixable", "crypttab:3 /dev/vda -> ",
                          "lvm-config:4 /dev/vda2 -> PARTUUID=part-2"));
}

TEST_F(PreflightTest, RaidWithOneLegThatTakesNone) {
  guest.sysfs.Disk("vda", "254:0", 4096);
  guest.sysfs.Disk("vdb", "254:16", 0, "pci0000:00/0000:00:06.0/virtio3");
  guest.sysfs.Raid("md0", "9:0", 4096, {"vda", "vdb"});
  const Preflight preflight = Read();
  ASSERT_THAT(preflight.raid_arrays, SizeIs(1));
  EXPECT_THAT(preflight.raid_arrays[0].members, ElementsAre("vda", "vdb"));
  EXPECT_EQ(preflight.raid_arrays[0].passes_discards, DiscardSetting::kDisabled);
}

TEST_F(PreflightTest, MountsAndBootDisk) {
  Filesystem root;
  root.source = "/dev/vda1";
  root.type = "ext4";
  root.uuid = "aaaa-1";
  root.mount_points = {"/"};
  root.options = "rw,discard";
  BlockDevice disk;
  disk.name = "vda";
  disk.kind = DeviceKind::kDisk;
  root.chain.devices = {disk};
  Filesystem data = root;
  data.mount_points = {"/data"};
  data.options = "rw,nodiscard";
  data.chain.devices[0].name = "vdb";
  Filesystem proc;
  proc.mount_points = {"/proc"};
  guest.list = {{root, data, proc}, false};
  const Preflight preflight = Read();
  ASSERT_THAT(preflight.mounts, SizeIs(2));
  EXPECT_EQ(preflight.mounts[0].discard_option, DiscardSetting::kEnabled);
  EXPECT_EQ(preflight.mounts[1].discard_option, DiscardSetting::kDisabled);
  EXPECT_THAT(preflight.boot_disks, ElementsAre("vda"));
}

// What a guest that is off will be mounted with; of one that runs its mounts tell.
TEST_F(PreflightTest, DiscardOptionsOfFstab) {
  guest.tree.Write("etc/fstab",
                   "# /dev/vda9 /none ext4 nodiscard 0 0\n"
                   "UUID=1 / ext4 errors=remount-ro 0 1\n"
                   "UUID=2\t/data\txfs\trw,nodiscard 0 2\n"
                   "UUID=3 /home btrfs subvol=@home,discard=async 0 0\n"
                   "UUID=4 none swap sw,discard 0 0\n"
                   "UUID=5 /short ext4\n");
  Preflight off;
  ReadConfiguration(
      RootFiles(guest.tree.path()), "", [](const std::string&) { return std::nullopt; },
      [](const std::string&) { return std::nullopt; }, off);
  ASSERT_THAT(off.mounts, SizeIs(2));
  EXPECT_THAT(off.mounts[0].mount_points, ElementsAre("/data"));
  EXPECT_EQ(off.mounts[0].discard_option, DiscardSetting::kDisabled);
  EXPECT_THAT(off.mounts[1].mount_points, ElementsAre("/home"));
  EXPECT_EQ(off.mounts[1].discard_option, DiscardSetting::kEnabled);
  EXPECT_THAT(Read().mounts, IsEmpty());
}

TEST_F(PreflightTest, FstrimTimer) {
  EXPECT_EQ(Read().fstrim_timer, DiscardSetting::kUnknown);
  guest.tree.Write("usr/lib/systemd/system/fstrim.timer", "");
  EXPECT_EQ(Read().fstrim_timer, DiscardSetting::kDisabled);
  guest.tree.Link("etc/systemd/system/timers.target.wants/fstrim.timer",
                  "usr/lib/systemd/system/fstrim.timer");
  EXPECT_EQ(Read().fstrim_timer, DiscardSetting::kEnabled);
  std::filesystem::create_symlink("/dev/null",
                                  guest.tree.path() + "/etc/systemd/system/fstrim.timer");
  EXPECT_EQ(Read().fstrim_timer, DiscardSetting::kDisabled);
}

TEST_F(PreflightTest, KernelReleases) {
  uint32_t major = 0;
  uint32_t minor = 0;
  EXPECT_TRUE(ParseKernelRelease("4.19.0-26-amd64", major, minor));
  EXPECT_EQ(major, 4U);
  EXPECT_EQ(minor, 19U);
  EXPECT_TRUE(ParseKernelRelease("10.0", major, minor));
  for (const char* release : {"", "six", "6", "6.", ".1", "-1.2", "99999999999.1", " 6.1"}) {
    EXPECT_FALSE(ParseKernelRelease(release, major, minor)) << release;
  }
}

TEST_F(PreflightTest, NoConfigurationAtAll) {
  const Preflight preflight = Read();
  EXPECT_EQ(preflight.initramfs.tool, InitramfsTool::kNoneKnown);
  EXPECT_EQ(preflight.initramfs.kernels.at(0).virtio_scsi, ModuleState::kUnknown);
  EXPECT_THAT(preflight.names.names, IsEmpty());
  EXPECT_THAT(preflight.names.unread, IsEmpty());
  EXPECT_THAT(PreflightText(preflight), HasSubstr("name by path        none"));
}

TEST_F(PreflightTest, HostileFiles) {
  guest.MakeDebian();
  guest.tree.Write("etc/fstab", std::string(10 << 20, 'x'));
  const std::string crypttab = guest.tree.path() + "/etc/crypttab";
  ASSERT_EQ(mkfifo(crypttab.c_str(), 0600), 0);
  std::filesystem::create_directories(guest.tree.path() + "/etc/kernel");
  std::filesystem::create_symlink("cmdline", guest.tree.path() + "/etc/kernel/cmdline");
  std::filesystem::create_directories(guest.tree.path() + "/etc/lvm/lvm.conf");
  guest.tree.Write("etc/default/grub", std::string("root=/dev/vda1\0\xff\x1b[2J\n", 20));
  const Preflight preflight = Read();
  EXPECT_THAT(preflight.names.unread,
              ElementsAre(HasSubstr("/etc/fstab: "), HasSubstr("/etc/crypttab: "),
                          HasSubstr("/etc/kernel/cmdline: "), HasSubstr("/etc/lvm/lvm.conf: ")));
  EXPECT_THAT(PreflightText(preflight), Not(HasSubstr("\x1b")));
  EXPECT_THAT(PreflightJson(preflight), Not(HasSubstr("\xff")));
}

TEST_F(PreflightTest, LinksStayBelowTheRoot) {
  guest.MakeDebian();
  TempTree outside;
  outside.Write("fstab", "/dev/vda1 /outside ext4 defaults 0 0\n");
  std::filesystem::remove(guest.tree.path() + "/etc/fstab");
  std::filesystem::create_symlink(outside.path() + "/fstab", guest.tree.path() + "/etc/fstab");
  for (const std::string& name : Names()) EXPECT_THAT(name, Not(HasSubstr("fstab:")));
}

TEST_F(PreflightTest, ManyNamesAreCut) {
  std::string fstab;
  for (int i = 0; i < 1000; ++i) absl::StrAppend(&fstab, "/dev/vdb", i, " /m ext4 defaults 0 0\n");
  guest.tree.Write("etc/fstab", fstab);
  const Preflight preflight = Read();
  EXPECT_THAT(preflight.names.names, SizeIs(kMaxPreflightEntries));
  EXPECT_TRUE(preflight.truncated);
}

}  // namespace
}  // namespace virt_reclaim::agent
