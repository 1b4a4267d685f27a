// FixGuest on directory trees: what it changes, what it leaves, and that there is always a way
// back.
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest-agent/fix_files.h"
#include "guest-agent/fix_guest.h"
#include "tests/unit/agent_tree.h"

namespace virt_reclaim::agent {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr char kUpdateInitramfs[] = "/usr/sbin/update-initramfs -u -k 6.1.0-18-amd64";

struct FixTest : ::testing::Test {
  FixReport Run(FixAction action) {
    auto report = FixGuest(guest.Sources(), action, {});
    EXPECT_TRUE(report.ok()) << report.status();
    return report.ok() ? *std::move(report) : FixReport();
  }
  // Every regular file with its content, mode and time of change of the content.
  std::map<std::string, std::string> Snapshot() {
    std::map<std::string, std::string> files;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(guest.tree.path())) {
      const std::string path = std::filesystem::relative(entry.path(), guest.tree.path()).string();
      if (!entry.is_regular_file() || path.rfind("var/lib", 0) == 0 ||
          path.rfind("boot/grub/", 0) == 0) {
        continue;
      }
      struct stat status {};
      stat(entry.path().c_str(), &status);
      files[path] = absl::StrCat(status.st_mode, " ", status.st_uid, " ", guest.Read(path));
    }
    return files;
  }

  GuestTree guest;
};

TEST_F(FixTest, DebianEditsNoMoreThanItMust) {
  guest.MakeDebian();
  ASSERT_EQ(chmod((guest.tree.path() + "/etc/fstab").c_str(), 0640), 0);
  const auto before = Snapshot();
  const FixReport plan = Run(FixAction::kPlan);
  EXPECT_EQ(plan.result, FixResult::kPlanned);
  EXPECT_EQ(Snapshot(), before);
  EXPECT_THAT(guest.commands, IsEmpty());

  const FixReport report = Run(FixAction::kApply);
  EXPECT_EQ(report.result, FixResult::kDone);
  EXPECT_THAT(report.refusals, IsEmpty());
  EXPECT_EQ(guest.Read("etc/fstab"),
            "# /dev/vda1 was / during installation\n"
            "UUID=aaaa-1\t/\text4 errors=remount-ro 0 1\n"
            "UUID=aaaa-5 none swap sw 0 0\n"
            "UUID=3333-3333 /boot/efi vfat umask=0077 0 1\n");
  EXPECT_EQ(guest.Read("etc/default/grub"),
            "GRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX=\"root=UUID=aaaa-1 quiet resume=UUID=aaaa-5\"\n");
  EXPECT_EQ(guest.Read("etc/initramfs-tools/conf.d/resume"), "RESUME=UUID=aaaa-5\n");
  EXPECT_EQ(guest.Read("etc/initramfs-tools/modules"), "# List\nvirtio_scsi\nsd_mod\n");
  EXPECT_THAT(guest.commands, ElementsAre(kUpdateInitramfs, "/usr/sbin/update-grub"));
  struct stat status {};
  ASSERT_EQ(stat((guest.tree.path() + "/etc/fstab").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0640U);
  EXPECT_EQ(guest.Read("etc/fstab.virt-reclaim-bak").substr(0, 10), "# /dev/vda");
}

// mkinitramfs sources every file of conf.d in the order of their names.
TEST_F(FixTest, BackupIsNoDropIn) {
  guest.MakeDebian();
  Run(FixAction::kApply);
  EXPECT_THAT(RootFiles(guest.tree.path()).List("/etc/initramfs-tools/conf.d"),
              ElementsAre("resume"));
  EXPECT_EQ(guest.Read("etc/initramfs-tools/conf.d.resume.virt-reclaim-bak"), "RESUME=/dev/vda5\n");
}

TEST_F(FixTest, SecondTimeThereIsNothingToDo) {
  guest.MakeDebian();
  Run(FixAction::kApply);
  guest.tree.Write("proc/cmdline", "root=UUID=aaaa-1 ro\n");
  const auto before = Snapshot();
  guest.commands.clear();
  EXPECT_EQ(Run(FixAction::kApply).result, FixResult::kNothingToDo);
  EXPECT_EQ(Snapshot(), before);
  EXPECT_THAT(guest.commands, IsEmpty());
}

TEST_F(FixTest, UndoPutsEverythingBack) {
  guest.MakeDebian();
  const auto before = Snapshot();
  Run(FixAction::kApply);
  guest.commands.clear();
  const FixReport report = Run(FixAction::kUndo);
  EXPECT_EQ(report.result, FixResult::kDone);
  EXPECT_EQ(Snapshot(), before);
  EXPECT_THAT(guest.commands, ElementsAre(kUpdateInitramfs, "/usr/sbin/update-grub"));
  EXPECT_EQ(Run(FixAction::kUndo).result, FixResult::kNothingToDo);
}

// The disk is on another bus, or another disk has its name.
TEST_F(FixTest, UndoWritesNoNameThatIsNotTheDevicesOwn) {
  for (const bool is_there : {false, true}) {
    GuestTree fresh;
    fresh.MakeDebian();
    const std::string fstab = fresh.Read("etc/fstab");
    ASSERT_TRUE(FixGuest(fresh.Sources(), FixAction::kApply, {}).ok());
    const std::string fixed = fresh.Read("etc/fstab");
    const auto ids = fresh.ids;
    fresh.ids.erase("/dev/vda1");
    if (is_there) fresh.ids["/dev/vda1"] = {"ext4", "filesystem", "bbbb-1", "part-b"};
    fresh.commands.clear();
    const auto refused = FixGuest(fresh.Sources(), FixAction::kUndo, {});
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(refused.status().message()),
                HasSubstr(is_there ? "'/dev/vda1' is another device" : "'/dev/vda1' is not there"));
    EXPECT_EQ(fresh.Read("etc/fstab"), fixed);
    EXPECT_EQ(fresh.Read("etc/initramfs-tools/modules"), "# List\nvirtio_scsi\nsd_mod\n");
    EXPECT_THAT(fresh.commands, IsEmpty());
    // Back on its old bus.
    fresh.ids = ids;
    const auto undone = FixGuest(fresh.Sources(), FixAction::kUndo, {});
    ASSERT_TRUE(undone.ok()) << undone.status();
    EXPECT_EQ(undone->result, FixResult::kDone);
    EXPECT_EQ(fresh.Read("etc/fstab"), fstab);
  }
}

TEST_F(FixTest, UndoTakesNoDriverFromARootThatNeedsIt) {
  guest.MakeDebian();
  Run(FixAction::kApply);
  const auto fixed = Snapshot();
  BlockDevice disk;
  disk.name = "sda";
  disk.kind = DeviceKind::kDisk;
  disk.bus_path = "pci0000:00/0000:00:05.0/virtio2/host0/target0:0:0/0:0:0:0";
  disk.scsi_address = "0:0:0:0";
  Filesystem root;
  root.mount_points = {"/"};
  root.chain.devices = {disk};
  guest.list.filesystems = {root};
  const auto refused = FixGuest(guest.Sources(), FixAction::kUndo, {});
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("the root is on 'sda'"));
  EXPECT_EQ(Snapshot(), fixed);
  // A disk like that which is not the root's, and a root on SATA, do not matter.
  guest.list.filesystems[0].mount_points = {"/srv"};
  guest.list.filesystems.push_back(root);
  guest.list.filesystems[1].chain.devices[0].bus_path = "pci0000:00/0000:00:1f.2/ata1/host0";
  EXPECT_EQ(Run(FixAction::kUndo).result, FixResult::kDone);
}

TEST_F(FixTest, UndoLeavesWhatSomebodyChangedSince) {
  guest.MakeDebian();
  Run(FixAction::kApply);
  guest.tree.Write("etc/fstab", "mine\n");
  const FixReport report = Run(FixAction::kUndo);
  EXPECT_EQ(report.result, FixResult::kFailed);
  EXPECT_THAT(report.refusals, ElementsAre("/etc/fstab: somebody changed it since"));
  EXPECT_EQ(guest.Read("etc/fstab"), "mine\n");
  EXPECT_EQ(guest.Read("etc/initramfs-tools/modules"), "# List\n");
}

TEST_F(FixTest, FailedCommandRollsBack) {
  for (const char* failing : {"update-initramfs", "update-grub"}) {
    GuestTree fresh;
    fresh.MakeDebian();
    fresh.failing = failing;
    const std::string fstab = fresh.Read("etc/fstab");
    const auto report = FixGuest(fresh.Sources(), FixAction::kApply, {});
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->result, FixResult::kRolledBack) << failing;
    EXPECT_EQ(fresh.Read("etc/fstab"), fstab);
    EXPECT_EQ(fresh.Read("etc/initramfs-tools/modules"), "# List\n");
    EXPECT_FALSE(std::filesystem::exists(fresh.tree.path() + "/etc/fstab.virt-reclaim-bak"));
    EXPECT_THAT(report->commands.back().arguments[0], HasSubstr(failing));
  }
}

TEST_F(FixTest, InitramfsThatLacksTheDriversAllTheSameRollsBack) {
  guest.MakeDebian();
  guest.drivers_get_in = false;
  const auto before = Snapshot();
  const FixReport report = Run(FixAction::kApply);
  EXPECT_EQ(report.result, FixResult::kRolledBack);
  EXPECT_THAT(report.refusals, Contains(HasSubstr("has not got the drivers")));
  EXPECT_EQ(Snapshot(), before);
}

TEST_F(FixTest, FailureThatStaysIsTold) {
  guest.MakeDebian();
  guest.failing = "update-initramfs";
  guest.fail_times = 2;
  EXPECT_EQ(Run(FixAction::kApply).result, FixResult::kFailed);
  EXPECT_THAT(guest.Read("etc/fstab"), HasSubstr("/dev/vda1\t"));
}

TEST_F(FixTest, StoppedIsRolledBack) {
  guest.MakeDebian();
  const auto before = Snapshot();
  std::stop_source stop;
  stop.request_stop();
  const auto report = FixGuest(guest.Sources(), FixAction::kApply, stop.get_token());
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->result, FixResult::kRolledBack);
  EXPECT_EQ(Snapshot(), before);
}

TEST_F(FixTest, Fedora) {
  guest.MakeFedora();
  const FixReport report = Run(FixAction::kApply);
  EXPECT_EQ(report.result, FixResult::kDone);
  EXPECT_EQ(guest.Read("etc/dracut.conf.d/90-virt-reclaim.conf"),
            "add_drivers+=\" virtio_scsi sd_mod \"\n");
  EXPECT_EQ(guest.Read("boot/loader/entries/fedora.conf"),
            "title Fedora\noptions root=UUID=aaaa-1 ro\n");
  EXPECT_THAT(guest.commands,
              ElementsAre("/usr/bin/dracut -f /boot/initramfs-6.1.0-18-amd64.img 6.1.0-18-amd64"));
  EXPECT_EQ(Run(FixAction::kUndo).result, FixResult::kDone);
  EXPECT_FALSE(
      std::filesystem::exists(guest.tree.path() + "/etc/dracut.conf.d/90-virt-reclaim.conf"));
}

TEST_F(FixTest, NeverTouchesTheOptionsOfLuks) {
  guest.MakeDebian();
  guest.tree.Write("etc/crypttab", "root_crypt /dev/vda1 none luks,initramfs\n");
  guest.ids["/dev/vda1"] = {"crypto_LUKS", "crypto", "luks-1", "part-1"};
  Run(FixAction::kApply);
  EXPECT_EQ(guest.Read("etc/crypttab"), "root_crypt UUID=luks-1 none luks,initramfs\n");
}

TEST_F(FixTest, UpdateGrubMayNameByUuid) {
  guest.MakeDebian();
  guest.tree.Write("etc/default/grub",
                   "GRUB_DISABLE_LINUX_UUID=true\n#GRUB_DISABLE_LINUX_UUID=true\n");
  Run(FixAction::kApply);
  EXPECT_EQ(guest.Read("etc/default/grub"),
            "GRUB_DISABLE_LINUX_UUID=false\n#GRUB_DISABLE_LINUX_UUID=true\n");
}

TEST_F(FixTest, WhatIsNotUnderstoodStays) {
  guest.MakeDebian();
  const std::string fstab =
      "/dev/vdz1 /data ext4 defaults 0 0\nUUID=1 /x ext4 x-systemd.requires=/dev/vda1 0 0\n";
  guest.tree.Write("etc/fstab", fstab);
  const FixReport report = Run(FixAction::kApply);
  EXPECT_EQ(report.result, FixResult::kDone);
  EXPECT_EQ(guest.Read("etc/fstab"), fstab);
  EXPECT_THAT(report.refusals, ElementsAre(HasSubstr("/etc/fstab:1: '/dev/vdz1' stays"),
                                           HasSubstr("/etc/fstab:2: '/dev/vda1' stays")));
}

TEST_F(FixTest, LinkIsNotReplacedByAFile) {
  guest.MakeDebian();
  std::filesystem::rename(guest.tree.path() + "/etc/fstab", guest.tree.path() + "/etc/fstab.real");
  std::filesystem::create_symlink("fstab.real", guest.tree.path() + "/etc/fstab");
  const FixReport report = Run(FixAction::kApply);
  EXPECT_THAT(report.refusals, Contains(HasSubstr("'/etc/fstab' is a symbolic link")));
  EXPECT_TRUE(std::filesystem::is_symlink(guest.tree.path() + "/etc/fstab"));
}

TEST_F(FixTest, ForeignBackupIsNotOverwritten) {
  guest.MakeDebian();
  guest.tree.Write("etc/fstab.virt-reclaim-bak", "precious\n");
  const auto before = Snapshot();
  const FixReport report = Run(FixAction::kApply);
  EXPECT_EQ(report.result, FixResult::kRolledBack);
  EXPECT_EQ(Snapshot(), before);
}

TEST_F(FixTest, GuestsThatCannotBeFixed) {
  const auto error = [&] {
    return std::string(FixGuest(guest.Sources(), FixAction::kApply, {}).status().message());
  };
  EXPECT_THAT(error(), HasSubstr("made by none"));
  guest.tree.Write("usr/bin/mkinitcpio", "");
  EXPECT_THAT(error(), HasSubstr("made by mkinitcpio"));
  guest.MakeDebian();
  guest.tree.Write("lib/modules/6.1.0-18-amd64/modules.dep", "kernel/sd_mod.ko:\n");
  EXPECT_EQ(error(), "kernel '6.1.0-18-amd64' has no module 'virtio_scsi'");
}

// A kernel that libvirt loads from the host.
TEST_F(FixTest, KernelThatIsNotTheGuestsOwn) {
  guest.MakeDebian();
  PreflightSources sources = guest.Sources();
  sources.kernel_release = "6.18.0-of-the-host";
  const auto report = FixGuest(sources, FixAction::kApply, {});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->result, FixResult::kDone);
  EXPECT_THAT(report->refusals,
              ElementsAre("kernel '6.18.0-of-the-host' has no initramfs in this guest"));
  EXPECT_THAT(guest.commands, ElementsAre(kUpdateInitramfs, "/usr/sbin/update-grub"));
}

TEST_F(FixTest, JournalTellsTheWayBackFromEveryStep) {
  // As if killed after each change, before its command.
  for (int steps = 1; steps <= 2; ++steps) {
    GuestTree fresh;
    fresh.MakeDebian();
    const std::string fstab = fresh.Read("etc/fstab");
    const RootFiles files(fresh.tree.path());
    {
      auto open = FixFiles::Open(files);
      ASSERT_TRUE(open.ok()) << open.status();
      ASSERT_TRUE(open->Change("/etc/fstab", fstab, "one\n", false).ok());
      if (steps > 1) {
        ASSERT_TRUE(open->Change("/etc/new", "", "x\n", true).ok());
      }
      EXPECT_EQ(FixFiles::Open(files).status().code(), absl::StatusCode::kAborted);
    }
    auto again = FixFiles::Open(files);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_THAT(again->Undo().restored, SizeIs(steps));
    EXPECT_EQ(fresh.Read("etc/fstab"), fstab);
    EXPECT_EQ(fresh.Read("etc/new"), "(cannot be read)");
  }
}

TEST_F(FixTest, DamagedJournalIsRefused) {
  guest.MakeDebian();
  for (const char* journal : {"", "nonsense\n", "virt-reclaim fix journal 1\na\tb\t/etc/shadow\n",
                              "virt-reclaim fix journal 1\na\tb\t/etc/fstab\t/etc/shadow\n"}) {
    guest.tree.Write("var/lib/virt-reclaim-agent/fix-journal", journal);
    EXPECT_EQ(FixGuest(guest.Sources(), FixAction::kUndo, {}).status().code(),
              absl::StatusCode::kFailedPrecondition)
        << journal;
  }
}

}  // namespace
}  // namespace virt_reclaim::agent
