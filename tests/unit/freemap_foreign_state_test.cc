// Superblocks of filesystems that have no reader, in memory: at rest, left open, with errors.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "host/freemap/foreign_state.h"
#include "host/freemap/refusal.h"
#include "tests/unit/freemap_memory_source.h"

namespace virt_reclaim::freemap {
namespace {

class ForeignStateTest : public testing::Test {
 protected:
  template <typename T>
  void Put(size_t offset, T value) {
    for (size_t i = 0; i < sizeof value; ++i)
      bytes[offset + i] = static_cast<uint8_t>(uint64_t{value} >> (8 * i));
  }
  Refusal Of(const char* type) const {
    return RefusalOf(WhyNoReader(type, MemorySource(bytes, size)));
  }

  std::vector<uint8_t> bytes = std::vector<uint8_t>(size_t{4} << 20);
  uint64_t size = 0;  // 0: that of `bytes`
};

TEST_F(ForeignStateTest, NothingIsLookedForInOthers) {
  EXPECT_EQ(Of("crypto_LUKS"), Refusal::kUnknown);
  EXPECT_EQ(Of("reiserfs"), Refusal::kUnknown);
}

TEST_F(ForeignStateTest, Jfs) {
  EXPECT_EQ(Of("jfs"), Refusal::kDamaged);
  memcpy(&bytes[0x8000], "JFS1", 4);
  EXPECT_EQ(Of("jfs"), Refusal::kUnknown);
  Put<uint32_t>(0x8000 + 40, 1);
  EXPECT_EQ(Of("jfs"), Refusal::kDirtyJournal);
  for (const uint32_t state : {2u, 4u, 8u, 9u}) {
    Put(0x8000 + 40, state);
    EXPECT_EQ(Of("jfs"), Refusal::kState) << state;
  }
  bytes.resize(0x8000);
  EXPECT_EQ(Of("jfs"), Refusal::kDamaged);
}

TEST_F(ForeignStateTest, NilfsByTheLaterOfItsSuperblocks) {
  const size_t supers[] = {1024, bytes.size() - 4096};
  const auto put = [&](size_t super, uint64_t checkpoint, uint16_t state) {
    Put<uint16_t>(super + 6, 0x3434);
    Put(super + 56, checkpoint);
    Put(super + 116, state);
  };
  EXPECT_EQ(Of("nilfs2"), Refusal::kDamaged);
  for (const auto& [first, second] :
       {std::pair(supers[0], supers[1]), std::pair(supers[1], supers[0])}) {
    put(first, 5, 1);
    put(second, 5, 1);
    EXPECT_EQ(Of("nilfs2"), Refusal::kUnknown);
    put(second, 4, 0);  // as it was while mounted
    EXPECT_EQ(Of("nilfs2"), Refusal::kUnknown);
    put(second, 5, 0);
    EXPECT_EQ(Of("nilfs2"), Refusal::kDirtyJournal);
    put(second, 6, 0);
    EXPECT_EQ(Of("nilfs2"), Refusal::kDirtyJournal);
    put(second, 6, 3);
    EXPECT_EQ(Of("nilfs2"), Refusal::kState);
    put(second, 6, 5);
    EXPECT_EQ(Of("nilfs2"), Refusal::kState);
    Put<uint16_t>(second + 6, 0);  // no superblock any more
    EXPECT_EQ(Of("nilfs2"), Refusal::kUnknown);
    put(first, 5, 0);
    EXPECT_EQ(Of("nilfs2"), Refusal::kDirtyJournal);
  }
  bytes.resize(4096);
  EXPECT_EQ(Of("nilfs2"), Refusal::kDamaged);
}

// Never at rest as far as anybody can tell: what was synced after its last checkpoint has no mark.
TEST_F(ForeignStateTest, F2fs) {
  EXPECT_EQ(Of("f2fs"), Refusal::kDamaged);
  Put<uint32_t>(1024, 0xf2f52010);
  Put<uint32_t>(1024 + 16, 12);
  Put<uint32_t>(1024 + 20, 8);  // segments of 1 MiB
  Put<uint32_t>(1024 + 76, 256);
  const auto put = [&](int pack, uint64_t version, uint32_t flags) {
    const size_t offset = (256 + 256 * static_cast<size_t>(pack)) * 4096;
    Put(offset, version);
    Put(offset + 132, flags);
  };
  put(0, 7, 0x185);
  EXPECT_EQ(Of("f2fs"), Refusal::kDirtyJournal);
  put(1, 8, 0x4);
  EXPECT_EQ(Of("f2fs"), Refusal::kDirtyJournal);
  put(1, 6, 0x8);  // long ago
  EXPECT_EQ(Of("f2fs"), Refusal::kDirtyJournal);
  for (const uint32_t flags : {0x8u, 0x11u, 0x801u, 0x1001u, 0x4001u}) {
    put(1, 8, flags);
    EXPECT_EQ(Of("f2fs"), Refusal::kState) << flags;
  }
  Put<uint32_t>(1024 + 76, 0xffffffff);
  EXPECT_EQ(Of("f2fs"), Refusal::kDamaged);
  Put<uint32_t>(1024 + 16, 40);
  EXPECT_EQ(Of("f2fs"), Refusal::kDamaged);
}

}  // namespace
}  // namespace virt_reclaim::freemap
