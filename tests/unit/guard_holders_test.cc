#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "host/guard/holders.h"
#include "host/guard/image_identity.h"
#include "tests/unit/agent_fixtures.h"

namespace virt_reclaim {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct HoldersTest : ::testing::Test {
  HoldersTest() {
    image = tree.Write("image", "x");
    struct stat status;
    EXPECT_EQ(stat(image.c_str(), &status), 0);
    identity = IdentityOf(status);
    tree.Write("proc/swaps", "Filename Type Size Used Priority\n");
    tree.Write("proc/self/mountinfo", "");
    tree.Write("sys/block/sda/size", "1\n");
    roots = {tree.path() + "/proc", tree.path() + "/sys"};
  }
  agent::TempTree tree;
  std::string image;
  ImageIdentity identity;
  HolderRoots roots;
};

TEST_F(HoldersTest, NobodyHoldsIt) {
  EXPECT_THAT(FindHolders(identity, roots).names, IsEmpty());
  EXPECT_FALSE(HasLease(image, identity, roots));
}

TEST_F(HoldersTest, ProcessesAndLoops) {
  tree.Write("proc/4711/comm", "qemu\x1b[2J\n");
  tree.Link("proc/4711/fd/11", "image");
  tree.Write("proc/4712/comm", "other\n");
  tree.Link("proc/4712/fd/0", "proc");
  tree.Write("sys/block/loop3/loop/backing_file", image + "\n");
  const Holders holders = FindHolders(identity, roots);
  EXPECT_THAT(holders.names, ElementsAre("qemu\\x1b[2J (pid 4711)", "/dev/loop3"));
  EXPECT_EQ(holders.Describe(), "qemu\\x1b[2J (pid 4711), /dev/loop3");
}

TEST_F(HoldersTest, WhoIsOurs) {
  tree.Write("proc/4711/comm", "qemu\n");
  tree.Link("proc/4711/fd/11", "image");
  tree.Write("proc/4712/comm", "other\n");
  tree.Link("proc/4712/fd/0", "image");
  const auto ours = [](pid_t pid) { return pid == 4711; };
  EXPECT_THAT(FindHolders(identity, roots, ours).names, ElementsAre("other (pid 4712)"));
  tree.Write("proc/4711/stat", "4711 (qemu) x) 4) S 4710 4709 4709 0 -1\n");
  EXPECT_FALSE(IsDescendant(4711, roots));
  tree.Write("proc/4710/stat", absl::StrCat("4710 (guestfs) S ", getpid(), " 4709 4709 0 -1\n"));
  EXPECT_TRUE(IsDescendant(4711, roots));
  tree.Write("proc/4710/stat", "4710 (guestfs) S 1 4709 4709 0 -1\n");
  EXPECT_FALSE(IsDescendant(4711, roots));
  tree.Write("proc/4710/stat", "4710 (guestfs) S 4711 4709 4709 0 -1\n");  // round and round
  EXPECT_FALSE(IsDescendant(4711, roots));
}

TEST_F(HoldersTest, SwapInUse) {
  tree.Write("proc/swaps", "Filename Type Size Used Priority\n" + image + " file 1 0 -2\n");
  EXPECT_THAT(FindHolders(identity, roots).names, ElementsAre("swap space in use"));
}

TEST_F(HoldersTest, DeviceWithPartitionInUse) {
  ImageIdentity device;
  device.block_device = makedev(8, 0);
  tree.Write("sys/dev/block/8:0/holders/dm-3/x", "");
  tree.Write("sys/dev/block/8:0/sda1/partition", "1\n");
  tree.Write("sys/dev/block/8:0/sda1/dev", "8:1\n");
  tree.Write("proc/self/mountinfo", "36 35 8:1 / /srv rw - ext4 /dev/sda1 rw\n");
  EXPECT_THAT(FindHolders(device, roots).names, ElementsAre("/dev/dm-3", "mounted at '/srv'"));
}

TEST_F(HoldersTest, WhoHasAPartitionOfItOrItsDiskForWriting) {
  const std::string part = tree.path() + "/part", disk = tree.path() + "/disk";
  if (mknod(part.c_str(), S_IFBLK | 0600, makedev(8, 1)) != 0 ||
      mknod(disk.c_str(), S_IFBLK | 0600, makedev(8, 0)) != 0) {
    GTEST_SKIP() << "needs to make device nodes";
  }
  // As sysfs has it: 8:1 is a link to a directory below that of 8:0.
  tree.Write("sys/block/sda/dev", "8:0\n");
  tree.Write("sys/block/sda/sda1/partition", "1\n");
  tree.Write("sys/block/sda/sda1/dev", "8:1\n");
  tree.Link("sys/dev/block/8:0", "sys/block/sda");
  tree.Link("sys/dev/block/8:1", "sys/block/sda/sda1");
  tree.Write("proc/4711/comm", "qemu\n");
  for (const bool of_disk : {true, false}) {
    ImageIdentity device;
    device.block_device = of_disk ? makedev(8, 0) : makedev(8, 1);
    const std::string fd = absl::StrCat("proc/4711/fd/", of_disk ? 3 : 4);
    tree.Link(fd, of_disk ? "part" : "disk");
    const std::string info = absl::StrCat("proc/4711/fdinfo/", of_disk ? 3 : 4);
    tree.Write(info, "pos:\t0\nflags:\t02100002\n");
    EXPECT_THAT(FindHolders(device, roots).names, ElementsAre("qemu (pid 4711)"));
    EXPECT_THAT(FindWriters(device, roots).names, ElementsAre("qemu (pid 4711)"));
    tree.Write(info, "pos:\t0\nflags:\t02100000\n");
    EXPECT_THAT(FindHolders(device, roots).names, IsEmpty());
    unlink((tree.path() + "/" + fd).c_str());
  }
}

TEST_F(HoldersTest, WritersAreThoseWhoMayWrite) {
  tree.Write("proc/4711/comm", "reader\n");
  tree.Link("proc/4711/fd/11", "image");
  tree.Write("proc/4711/fdinfo/11", "flags:\t02100000\n");
  tree.Write("proc/4712/comm", "writer\n");
  tree.Link("proc/4712/fd/0", "image");
  tree.Write("proc/4712/fdinfo/0", "flags:\t0100001\n");
  tree.Write("proc/4713/comm", "unknown\n");
  tree.Link("proc/4713/fd/0", "image");
  tree.Write("sys/block/loop3/loop/backing_file", image + "\n");
  EXPECT_THAT(FindHolders(identity, roots).names, testing::SizeIs(4));
  EXPECT_THAT(
      FindWriters(identity, roots).names,
      testing::UnorderedElementsAre("writer (pid 4712)", "unknown (pid 4713)", "/dev/loop3"));
}

TEST_F(HoldersTest, LeaseIsSeenWithoutOpening) {
  const auto place = [&](dev_t device) {
    return absl::StrCat(absl::Hex(major(device), absl::kZeroPad2), ":",
                        absl::Hex(minor(device), absl::kZeroPad2), ":", identity.inode, " 0 EOF\n");
  };
  const std::string line = place(identity.device);
  tree.Write("proc/locks", "1: OFDLCK ADVISORY READ -1 " + line);
  EXPECT_FALSE(HasLease(image, identity, roots));
  tree.Write("proc/locks", "7: LEASE  ACTIVE    WRITE 99 " + line);
  EXPECT_TRUE(HasLease(image, identity, roots));
  // Our own is nobody else's.
  tree.Write("proc/locks", absl::StrCat("7: LEASE  ACTIVE    READ ", getpid(), " ", line));
  EXPECT_FALSE(HasLease(image, identity, roots));
}

// The first files of two filesystems have the same number, and the kernel prints the superblock's
// device, which is not st_dev on btrfs.
TEST_F(HoldersTest, LeaseOnAnotherFilesystemIsNotOurs) {
  struct statx facts;
  ASSERT_EQ(statx(AT_FDCWD, image.c_str(), 0, STATX_MNT_ID, &facts), 0);
  const auto write = [&](const char* ours, const char* printed) {
    tree.Write("proc/self/mountinfo",
               absl::StrCat("7 1 0:99 / /other rw - btrfs /dev/sdb rw\n", facts.stx_mnt_id, " 1 ",
                            ours, " /sub /srv rw - btrfs /dev/sda rw\n"));
    tree.Write("proc/locks", absl::StrCat("7: LEASE  ACTIVE    WRITE 99 ", printed, ":",
                                          identity.inode, " 0 EOF\n"));
  };
  write("0:55", "00:37");
  EXPECT_TRUE(HasLease(image, identity, roots));
  write("0:55", "00:38");
  EXPECT_FALSE(HasLease(image, identity, roots));
  write("8:1", "08:02");
  EXPECT_FALSE(HasLease(image, identity, roots));
  // Which mount it is on is not known: rather too careful.
  tree.Write("proc/self/mountinfo", "");
  EXPECT_TRUE(HasLease(image, identity, roots));
}

TEST_F(HoldersTest, ManyAreShortened) {
  Holders holders;
  for (int i = 0; i < 10; ++i) holders.names.push_back(absl::StrCat("p", i));
  EXPECT_THAT(holders.Describe(), HasSubstr("p7 and 2 others"));
}

TEST(ImageIdentityTest, SaysWhatDiffers) {
  const ImageIdentity planned = {1, 2, 0, 100, 5};
  ImageIdentity found = planned;
  EXPECT_TRUE(CheckIdentity(planned, found, "/a").ok());
  found.mtime_ns = 6;
  EXPECT_THAT(CheckIdentity(planned, found, "/a").message(), HasSubstr("was written"));
  found.size_bytes = 1;
  EXPECT_THAT(CheckIdentity(planned, found, "/a").message(), HasSubstr("another size"));
  found.inode = 3;
  EXPECT_THAT(CheckIdentity(planned, found, "/a\n").message(), HasSubstr("'/a\\x0a' was replaced"));
}

TEST_F(HoldersTest, AFileIsTheSameWhateverWasWrittenToIt) {
  ImageIdentity later = identity;
  later.size_bytes += 1;
  later.mtime_ns += 1;
  EXPECT_TRUE(SameFile(identity, later));
  EXPECT_TRUE(SameImage(identity, later));
  later.inode += 1;
  EXPECT_FALSE(SameFile(identity, later));
  EXPECT_FALSE(SameImage(identity, later));
}

TEST_F(HoldersTest, TwoNodesOfADeviceAreTwoFilesAndOneImage) {
  ImageIdentity node;
  node.device = 5;
  node.inode = 100;
  node.block_device = makedev(8, 1);
  ImageIdentity other = node;
  other.inode = 101;
  EXPECT_FALSE(SameFile(node, other));
  EXPECT_TRUE(SameImage(node, other));
  // The node was made anew, for another device.
  other = node;
  other.block_device = makedev(8, 2);
  EXPECT_FALSE(SameFile(node, other));
  EXPECT_FALSE(SameImage(node, other));
}

}  // namespace
}  // namespace virt_reclaim
