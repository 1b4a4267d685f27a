// Where the log of an XFS ends, and with what: made up of blocks, of logs of several sizes. Those
// of real kernels are in tests/freemap.
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "host/freemap/refusal.h"
#include "host/freemap/xfs_format.h"
#include "tests/unit/freemap_memory_source.h"

namespace virt_reclaim::freemap {
namespace {

constexpr uint64_t kSector = 512;
constexpr uint64_t kMib = uint64_t{1} << 20;
constexpr uint64_t kSectorsPerMib = kMib / kSector;
constexpr uint32_t kRound = 7;
constexpr uint32_t kLogStart = 4;  // blocks of 4 KiB

// A log of the round kRound up to `head`, of the one before behind it, which ends with an unmount
// record of a header and one block.
class XfsLogTest : public testing::Test {
 protected:
  void Make(uint64_t bytes, uint64_t head) {
    sectors_ = bytes / kSector;
    image_.assign(kLogStart * 4096 + bytes, 0);
    for (uint64_t i = 0; i < sectors_; ++i) Put(i, 0, i < head ? kRound : kRound - 1);
    const uint64_t record = (head + sectors_ - 2) % sectors_;
    const uint32_t round = head < 2 ? kRound - 1 : kRound;
    Put(record, 0, 0xfeedbabe);
    Put(record, 4, round);
    Put(record, 8, 2);
    Put(record, 12, kSector);
    Put(record, 16, round);
    Put(record, 20, static_cast<uint32_t>(record));
    Put(record, 40, 1);
    Put(record, 320, 32 * 1024);
    At((record + 1) % sectors_)[9] = 0x20;
  }

  uint8_t* At(uint64_t sector) { return image_.data() + kLogStart * 4096 + sector * kSector; }

  void Put(uint64_t sector, size_t at, uint32_t value) {
    for (int i = 0; i < 4; ++i) At(sector)[at + i] = static_cast<uint8_t>(value >> (24 - 8 * i));
  }

  // Of the round before: as if the blocks had not been written in this one.
  void MakeOlder(uint64_t first, uint64_t count) {
    for (uint64_t i = first; i < first + count; ++i) Put(i, 0, kRound - 1);
  }

  Refusal Judge() const {
    XfsGeometry geometry;
    geometry.block_bytes = 4096;
    geometry.block_log = 12;
    geometry.blocks = image_.size() / 4096;
    geometry.ag_blocks = static_cast<uint32_t>(geometry.blocks);
    geometry.ag_count = 1;
    geometry.ag_block_log = 31;
    geometry.log_start = kLogStart;
    geometry.log_blocks = static_cast<uint32_t>(geometry.blocks - kLogStart);
    const absl::Status status = CheckXfsLogClean(MemorySource(image_), geometry);
    return status.ok() ? Refusal::kNone : RefusalOf(status);
  }

  uint64_t sectors_ = 0;
  std::vector<uint8_t> image_;
};

TEST_F(XfsLogTest, EndsAnywhere) {
  for (const uint64_t bytes : {kMib / 4, kMib, 2 * kMib, 10 * kMib, 21 * kMib + kMib / 2}) {
    const uint64_t sectors = bytes / kSector;
    for (const uint64_t head : {uint64_t{1}, uint64_t{2}, uint64_t{3}, kSectorsPerMib - 1,
                                kSectorsPerMib, kSectorsPerMib + 1, kSectorsPerMib * 9,
                                kSectorsPerMib * 9 + 5, sectors / 2, sectors - 2, sectors - 1}) {
      if (head >= sectors) continue;
      Make(bytes, head);
      EXPECT_EQ(Judge(), Refusal::kNone) << bytes << " bytes, head " << head;
      const uint64_t last = (head + sectors - 1) % sectors;
      At(last)[9] = 0;
      EXPECT_EQ(Judge(), Refusal::kDirtyJournal) << bytes << " bytes, head " << head;
    }
  }
}

TEST_F(XfsLogTest, WithoutAnEnd) {
  for (const uint64_t bytes : {kMib / 4, 10 * kMib, 32 * kMib}) {
    Make(bytes, bytes / kSector / 2);
    for (uint64_t i = 0; i < sectors_; ++i) Put(i, 0, kRound);
    EXPECT_EQ(Judge(), Refusal::kDirtyJournal) << bytes;
    for (uint64_t i = 0; i < sectors_; ++i) Put(i, 0, 0);
    EXPECT_EQ(Judge(), Refusal::kDirtyJournal) << bytes;
  }
}

// Records that were under way when the power went were not written in their order.
TEST_F(XfsLogTest, AHoleBeforeItsEnd) {
  for (const uint64_t mib_before : {1, 3}) {
    Make(32 * kMib, kSectorsPerMib * 20 + 77);
    MakeOlder(kSectorsPerMib * (20 - mib_before) + 3, 8);
    EXPECT_EQ(Judge(), Refusal::kDirtyJournal) << mib_before;
  }
  Make(32 * kMib, kSectorsPerMib + 77);
  for (uint64_t i = 0; i < 8; ++i) Put(sectors_ - kSectorsPerMib + i, 0, kRound - 2);
  EXPECT_EQ(Judge(), Refusal::kDirtyJournal);
}

// A copy that was made while the filesystem was mounted: its log went on meanwhile.
TEST_F(XfsLogTest, OfSeveralMoments) {
  for (const uint64_t at : {2, 12, 29}) {
    Make(64 * kMib, kSectorsPerMib * 40 + 9);
    MakeOlder(kSectorsPerMib * at + 1, kSectorsPerMib + 1);
    EXPECT_EQ(Judge(), Refusal::kDirtyJournal) << at;
    // What lies behind the end is newer, or older than the round before.
    for (const uint32_t round : {kRound, kRound - 2}) {
      Make(64 * kMib, kSectorsPerMib * 20 + 9);
      for (uint64_t i = 0; i < kSectorsPerMib; ++i) Put(kSectorsPerMib * (22 + at) + i, 0, round);
      EXPECT_EQ(Judge(), Refusal::kDirtyJournal) << at << " " << round;
    }
  }
}

TEST_F(XfsLogTest, ItsLastRecord) {
  const auto broken = [&](size_t at, uint32_t value) {
    Make(10 * kMib, 5000);
    Put(4998, at, value);
    return Judge();
  };
  EXPECT_EQ(broken(8, 3), Refusal::kDamaged);           // version
  EXPECT_EQ(broken(12, 0), Refusal::kDamaged);          // length
  EXPECT_EQ(broken(20, 4990), Refusal::kDamaged);       // where it says that it lies
  EXPECT_EQ(broken(304, 1), Refusal::kDamaged);         // whose it is
  EXPECT_EQ(broken(32, 12345), Refusal::kDamaged);      // checksum
  EXPECT_EQ(broken(12, 1024), Refusal::kDirtyJournal);  // it would go on
  EXPECT_EQ(broken(40, 2), Refusal::kDirtyJournal);     // it holds more
}

}  // namespace
}  // namespace virt_reclaim::freemap
