// Reading through an NBD connection: against a server that a thread here plays, honest and not; and
// what libblkid is told of a source that has no descriptor of its own.
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <thread>

#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "host/freemap/bytes.h"
#include "host/freemap/nbd_source.h"
#include "host/freemap/refusal.h"
#include "host/freemap/signatures.h"
#include "tests/unit/freemap_memory_source.h"

namespace virt_reclaim::freemap {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

class NbdSourceTest : public testing::Test {
 protected:
  NbdSourceTest() {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    client_ = UniqueFd(ends[0]);
    server_ = UniqueFd(ends[1]);
    for (size_t i = 0; i < disk_.size(); ++i) disk_[i] = static_cast<uint8_t>(i * 7 + i / 251);
  }
  ~NbdSourceTest() override {
    client_.Reset();
    if (thread_.joinable()) thread_.join();
  }

  // Answers until the client goes; `break_reply` may spoil the 16 bytes of a reply.
  void Serve(void (*break_reply)(std::array<uint8_t, 16>&) = nullptr) {
    thread_ = std::thread([this, break_reply] {
      std::array<uint8_t, 28> request;
      while (recv(server_.get(), request.data(), request.size(), MSG_WAITALL) ==
             ssize_t{request.size()}) {
        ++requests_;
        const uint64_t offset = BigEndian<uint64_t>(request, 16);
        const uint32_t length = BigEndian<uint32_t>(request, 24);
        std::array<uint8_t, 16> reply = {0x67, 0x44, 0x66, 0x98};
        std::copy_n(request.begin() + 8, 8, reply.begin() + 8);
        if (break_reply != nullptr) break_reply(reply);
        EXPECT_EQ(send(server_.get(), reply.data(), reply.size(), MSG_NOSIGNAL),
                  ssize_t{reply.size()});
        if (reply[7] != 0) continue;
        ASSERT_LE(offset + length, disk_.size());
        const ssize_t sent = send(server_.get(), disk_.data() + offset, length, MSG_NOSIGNAL);
        if (sent < 0 && break_reply != nullptr) return;  // the client had enough
        EXPECT_EQ(sent, ssize_t{length});
      }
    });
  }

  std::vector<uint8_t> disk_ = std::vector<uint8_t>(3 * kMiB + 1000);
  UniqueFd client_, server_;
  std::thread thread_;
  std::atomic<int> requests_ = 0;
};

TEST_F(NbdSourceTest, ReadsWhatIsThere) {
  Serve();
  const NbdSource source(client_.get(), disk_.size());
  for (const auto& [offset, count] : {std::pair<uint64_t, size_t>{0, 1},
                                      {32767, 2},
                                      {5, 100000},
                                      {kMiB - 1, 2 * kMiB},
                                      {disk_.size() - 10, 10},
                                      {disk_.size() - 40000, 40000}}) {
    const auto bytes = source.ReadBytes(offset, count);
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    EXPECT_TRUE(Equal(*bytes, Part(disk_, offset, count))) << offset;
  }
  EXPECT_EQ(RefusalOf(source.ReadBytes(disk_.size() - 1, 2).status()), Refusal::kDamaged);
}

TEST_F(NbdSourceTest, AsksOnceForWhatLiesTogether) {
  Serve();
  const NbdSource source(client_.get(), disk_.size());
  for (uint64_t at = 0; at < 32768; at += 512) ASSERT_TRUE(source.ReadBytes(at, 512).ok());
  EXPECT_EQ(requests_, 1);
}

// Nothing may be made of an answer that is none: not even another refusal than unreadable.
TEST_F(NbdSourceTest, ABrokenServerEndsIt) {
  Serve([](std::array<uint8_t, 16>& reply) { reply[15] ^= 1; });
  const NbdSource source(client_.get(), disk_.size());
  EXPECT_EQ(RefusalOf(source.ReadBytes(0, 512).status()), Refusal::kUnreadable);
  EXPECT_EQ(RefusalOf(source.ReadBytes(kMiB, 512).status()), Refusal::kUnreadable);
  EXPECT_EQ(requests_, 1);
}

TEST_F(NbdSourceTest, AnErrorOfTheServer) {
  Serve([](std::array<uint8_t, 16>& reply) { reply[7] = 5; });
  const NbdSource source(client_.get(), disk_.size());
  EXPECT_EQ(RefusalOf(source.ReadBytes(0, 512).status()), Refusal::kUnreadable);
}

TEST_F(NbdSourceTest, AServerThatIsGone) {
  server_.Reset();
  signal(SIGPIPE, SIG_IGN);
  const NbdSource source(client_.get(), disk_.size());
  EXPECT_EQ(RefusalOf(source.ReadBytes(0, 512).status()), Refusal::kUnreadable);
}

class ProbeWithoutWindowTest : public testing::Test {
 protected:
  ProbeWithoutWindowTest() : scratch_(memfd_create("scratch", MFD_CLOEXEC)) {
    EXPECT_EQ(ftruncate(scratch_.get(), kScratchBytes), 0);
  }
  void Put(uint64_t at, absl::string_view text) {
    std::copy(text.begin(), text.end(), disk_.begin() + static_cast<ptrdiff_t>(at));
  }
  absl::StatusOr<Signature> Probe() { return ProbeSignature(MemorySource(disk_), scratch_.get()); }

  // 16 MiB: no copy shows its middle.
  std::vector<uint8_t> disk_ = std::vector<uint8_t>(16 * kMiB);
  UniqueFd scratch_;
};

TEST_F(ProbeWithoutWindowTest, AGptOfAnySectorSize) {
  Put(4096, "EFI PART");
  const auto found = Probe();
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->table, "gpt");
  EXPECT_EQ(found->type, "");
}

TEST_F(ProbeWithoutWindowTest, AnOldFilesystemBelowAGptIsNotTakenAlone) {
  Put(512, "EFI PART");
  Put(4086, "SWAPSPACE2");
  disk_[1024] = 1;                        // version
  disk_[1028] = 0xff, disk_[1029] = 0xf;  // last page
  const auto found = Probe();
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->type, "swap");
  EXPECT_EQ(found->table, "gpt");
}

// The filesystem of a mirror begins where its member does: a leg of it must not be taken for the
// filesystem.
TEST_F(ProbeWithoutWindowTest, AMemberOfARaidThatSaysWhereItLies) {
  constexpr absl::string_view kMd("\xfc\x4e\x2b\xa9\x01\0\0\0", 8);
  constexpr absl::string_view kOldMd("\xfc\x4e\x2b\xa9\0\0\0\0\x5a\0\0\0", 12);
  // Its first header lies at 8 MiB.
  const std::string place = std::string(92, '\0') + std::string("\0\0\0\0\0\0\x40\0", 8);
  const std::string ddf = "\xde\x11\xde\x11" + place;
  const std::string swapped_ddf =
      "\x11\xde\x11\xde" + std::string(92, '\0') + std::string("\0\x40\0\0\0\0\0\0", 8);
  struct Mark {
    uint64_t before_end;
    absl::string_view text;
    const char* type;
  };
  Put(4086, "SWAPSPACE2");
  disk_[1024] = 1;                        // version
  disk_[1028] = 0xff, disk_[1029] = 0xf;  // last page
  EXPECT_EQ(Probe()->type, "swap");
  for (const auto& [before_end, text, type] :
       {Mark{8 << 10, kMd, "linux_raid_member"}, Mark{64 << 10, kOldMd, "linux_raid_member"},
        Mark{512, ddf, "ddf_raid_member"}, Mark{257 * 512, swapped_ddf, "ddf_raid_member"},
        Mark{3087 * 512, "Promise Technology, Inc.", "promise_fasttrack_raid_member"}}) {
    Put(disk_.size() - before_end, text);
    const auto found = Probe();
    ASSERT_TRUE(found.ok()) << type << found.status();
    EXPECT_EQ(found->type, type) << before_end;
    Put(disk_.size() - before_end, std::string(text.size(), '\0'));
  }
  // MD rounds to 4 KiB.
  disk_.resize(disk_.size() + 7 * 512);
  Put(disk_.size() - (16 + 7) * 512, kMd);
  EXPECT_EQ(Probe()->type, "linux_raid_member");
}

// libblkid looks for them only where there is room for them, and a copy is too short. Where ZFS
// leaves the superblock of an old filesystem, that would stand alone.
TEST_F(ProbeWithoutWindowTest, WhatIsTooLargeForACopy) {
  disk_.resize(64 * kMiB);
  const auto put_all = [&](const std::string& type, bool there) {
    if (type == "jfs") Put(32 << 10, there ? std::string("JFS1") : std::string(4, '\0'));
    if (type == "gfs2")
      Put(64 << 10, there ? std::string("\x01\x16\x19\x70") : std::string(4, '\0'));
    if (type != "zfs_member") return;
    const std::string uberblock =
        there ? std::string("\x0c\xb1\xba\0\0\0\0\0", 8) : std::string(8, '\0');
    for (uint64_t i = 0; i < 4; ++i) Put((128 + i) << 10, uberblock);
  };
  for (const std::string type : {"jfs", "gfs2", "zfs_member"}) {
    put_all(type, true);
    EXPECT_EQ(Probe()->type, type);
    Put(4086, "SWAPSPACE2");
    disk_[1024] = 1;
    disk_[1028] = 0xff, disk_[1029] = 0xf;
    EXPECT_EQ(RefusalOf(Probe().status()), Refusal::kState) << type;
    // In a partition it is looked for there.
    Put(512, "EFI PART");
    EXPECT_EQ(Probe()->type, "swap") << type;
    Put(512, std::string(8, '\0'));
    put_all(type, false);
    EXPECT_EQ(Probe()->type, "swap") << type;
    Put(4086, std::string(10, '\0'));
  }
  for (uint64_t i = 0; i < 4; ++i) Put((384 + i) << 10, std::string("\0\0\0\0\0\xba\xb1\x0c", 8));
  EXPECT_EQ(Probe()->type, "zfs_member");
  disk_.resize(63 * kMiB);
  EXPECT_EQ(Probe()->type, "");
}

TEST_F(ProbeWithoutWindowTest, NtfsWhoseMftLiesInTheMiddle) {
  Put(3, "NTFS    ");
  disk_[12] = 2;    // 512 bytes a sector
  disk_[13] = 8;    // 4 KiB a cluster
  disk_[0x31] = 8;  // cluster 2048: at 8 MiB
  disk_[510] = 0x55, disk_[511] = 0xaa;
  EXPECT_EQ(Probe()->type, "");
  Put(8 * kMiB, "FILE");
  const auto found = Probe();
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->type, "ntfs");
  EXPECT_EQ(found->table, "");
  // And something else besides.
  Put(4086, "SWAPSPACE2");
  disk_[1024] = 1;
  disk_[1028] = 0xff, disk_[1029] = 0xf;
  EXPECT_EQ(RefusalOf(Probe().status()), Refusal::kState);
}

}  // namespace
}  // namespace virt_reclaim::freemap
