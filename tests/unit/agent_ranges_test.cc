// Ranges for FITRIM: cut where filesystems honour it, whole at the end.
#include <gmock/gmock.h>

#include <limits>

#include "base/byte_size.h"
#include "guest-agent/ranges.h"

namespace virt_reclaim::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::SizeIs;

constexpr uint64_t kEnd = std::numeric_limits<uint64_t>::max();
constexpr Geometry kExt4{128 * kMiB, 0, 20 * kGiB, false};

std::vector<uint64_t> Starts(const Geometry& geometry, uint64_t chunk) {
  const RangePlan plan(geometry, chunk);
  std::vector<uint64_t> starts;
  TrimRange range = plan.At(0);
  for (starts.push_back(0); starts.size() < 3000; starts.push_back(range.start)) {
    const auto next = plan.After(range);
    if (!next) {
      EXPECT_EQ(range.start + range.length,
                kEnd);  // the last one reaches to the end, whatever the size was
      return starts;
    }
    EXPECT_EQ(*next, range.start + range.length);  // no gap, no overlap
    range = plan.At(*next);
  }
  ADD_FAILURE() << "endless";
  return starts;
}

TEST(RangesTest, WithoutUnitsOneCall) {
  EXPECT_THAT(Starts({0, 0, 20 * kGiB, false}, 0), ElementsAre(0));
  EXPECT_THAT(Starts({0, 0, 20 * kGiB, false}, kMiB), ElementsAre(0));
  EXPECT_THAT(Starts({}, kMiB), ElementsAre(0));
}

TEST(RangesTest, Ext4DefaultIsOneGibibyte) {
  const auto starts = Starts(kExt4, 0);
  ASSERT_THAT(starts, SizeIs(20));
  EXPECT_EQ(starts[1], kGiB);
}

TEST(RangesTest, ChunkIsRoundedUpToGroups) {
  EXPECT_EQ(Starts(kExt4, 1)[1], 128 * kMiB);
  EXPECT_EQ(Starts(kExt4, 128 * kMiB)[1], 128 * kMiB);
  EXPECT_EQ(Starts(kExt4, 128 * kMiB + 1)[1], 256 * kMiB);
}

TEST(RangesTest, OneKibibyteBlocksStartGroupsAtTheFirstBlock) {
  const Geometry geometry{8 * kMiB, 1024, 100 * kMiB, false};
  EXPECT_THAT(Starts(geometry, 48 * kMiB), ElementsAre(0, 48 * kMiB + 1024, 96 * kMiB + 1024));
}

TEST(RangesTest, BeginsWhereItIsAskedTo) {
  const auto first = [](const Geometry& geometry, uint64_t start) {
    const RangePlan plan(geometry, 0, start);
    return plan.First();
  };
  EXPECT_EQ(first(kExt4, 0), 0u);
  EXPECT_EQ(first(kExt4, 3 * kGiB), 3 * kGiB);
  EXPECT_EQ(first(kExt4, 3 * kGiB + 1), 3 * kGiB);  // down to a block group
  EXPECT_EQ(first(kExt4, 127 * kMiB), 0u);
  EXPECT_EQ(first(kExt4, 20 * kGiB), 0u);  // it was larger then
  EXPECT_EQ(first(kExt4, kEnd), 0u);
  EXPECT_EQ(first({8 * kMiB, 1024, 100 * kMiB, false}, 20 * kMiB), 16 * kMiB + 1024);
  EXPECT_EQ(first({8 * kMiB, 1024, 100 * kMiB, false}, 512), 0u);
  EXPECT_EQ(first({0, 0, 20 * kGiB, false}, kGiB), 0u);  // one call, or nothing
  const RangePlan plan({5 * kGiB, 0, 20 * kGiB, true}, 0, 15 * kGiB);
  EXPECT_FALSE(plan.After(plan.At(plan.First())).has_value());
}

TEST(RangesTest, XfsDefaultIsOneAllocationGroup) {
  const uint64_t group = 5 * kGiB + 4096;
  EXPECT_THAT(Starts({group, 0, 20 * kGiB, true}, 0), ElementsAre(0, group, 2 * group, 3 * group));
  EXPECT_THAT(Starts({group, 0, 20 * kGiB, true}, 6 * kGiB), ElementsAre(0, 2 * group));
}

TEST(RangesTest, SmallFilesystemsAndExactEnds) {
  EXPECT_THAT(Starts({128 * kMiB, 0, 20 * kMiB, false}, 0), ElementsAre(0));
  EXPECT_THAT(Starts({128 * kMiB, 0, 0, false}, 0), ElementsAre(0));
  EXPECT_THAT(Starts({128 * kMiB, 0, 2 * kGiB, false}, 0), ElementsAre(0, kGiB));
  EXPECT_THAT(Starts({128 * kMiB, 0, 2 * kGiB + 1, false}, 0), ElementsAre(0, kGiB, 2 * kGiB));
}

TEST(RangesTest, NeverWrapsAndNeverEndsLate) {
  EXPECT_THAT(Starts({128 * kMiB, 0, kEnd, false}, kEnd), ElementsAre(0));
  EXPECT_THAT(Starts({uint64_t{1} << 44, 0, kEnd, true}, kEnd - 5), ElementsAre(0));
  // 16 EiB in 8 MiB groups would be 2^41 calls.
  const RangePlan plan({8 * kMiB, 1024, kEnd, false}, 1);
  uint64_t calls = 1;
  for (TrimRange range = plan.At(0); plan.After(range); range = plan.At(*plan.After(range)))
    ++calls;
  EXPECT_LE(calls, (uint64_t{1} << 20) + 1);
}

std::vector<uint8_t> Superblock() {
  std::vector<uint8_t> bytes(1024);
  const auto put = [&](size_t at, uint32_t value) {
    for (size_t i = 0; i < 4; ++i) bytes[at + i] = static_cast<uint8_t>(value >> (8 * i));
  };
  put(4, 262144);   // blocks
  put(24, 2);       // 4 KiB
  put(32, 32768);   // per group
  put(56, 0xef53);  // magic
  return bytes;
}

TEST(RangesTest, ReadsAnExt4Superblock) {
  const auto geometry = ParseExt4Superblock(Superblock());
  ASSERT_TRUE(geometry.has_value());
  EXPECT_EQ(geometry->unit_bytes, 128 * kMiB);
  EXPECT_EQ(geometry->offset_bytes, 0U);
  EXPECT_EQ(geometry->size_bytes, kGiB);
}

TEST(RangesTest, SixtyFourBitBlockCount) {
  auto bytes = Superblock();
  bytes[336] = 1;
  EXPECT_EQ(ParseExt4Superblock(bytes)->size_bytes, kGiB);  // the feature is off: not a number
  bytes[96] = 0x80;
  EXPECT_EQ(ParseExt4Superblock(bytes)->size_bytes, kGiB + (uint64_t{1} << 44));
}

TEST(RangesTest, RefusesSuperblocksThatMakeNoSense) {
  EXPECT_FALSE(ParseExt4Superblock(std::vector<uint8_t>(1024)).has_value());
  EXPECT_FALSE(ParseExt4Superblock(std::vector<uint8_t>(100)).has_value());
  for (const auto& [at, value] :
       std::vector<std::pair<size_t, uint8_t>>{{24, 60}, {20, 9}, {56, 0}}) {
    auto bytes = Superblock();
    bytes[at] = value;
    EXPECT_FALSE(ParseExt4Superblock(bytes).has_value()) << at;
  }
  auto no_groups = Superblock();
  no_groups[32] = no_groups[33] = 0;
  EXPECT_FALSE(ParseExt4Superblock(no_groups).has_value());
  auto huge = Superblock();
  huge[96] = 0x80;
  huge[339] = 0xff;
  EXPECT_FALSE(ParseExt4Superblock(huge).has_value());
}

}  // namespace
}  // namespace virt_reclaim::agent
