// The FAT of all widths, chains in it, and boot regions of exFAT. Whole filesystems are in
// tests/freemap.
#include <algorithm>
#include <bit>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "host/freemap/exfat_boot.h"
#include "host/freemap/fat_clusters.h"
#include "host/freemap/readers.h"
#include "host/freemap/refusal.h"
#include "tests/fuzz/freemap_volumes.h"
#include "tests/unit/freemap_memory_source.h"

namespace virt_reclaim::freemap {
namespace {

using ::testing::ElementsAre;

TEST(FreemapFatTest, TwelveBits) {
  // 0xff8 0xfff | 0x003 0xfff | 0x000 0xff7 | 0xff0 0x123
  const std::vector<uint8_t> bytes = {0xf8, 0xff, 0xff, 0x03, 0xf0, 0xff,
                                      0x00, 0x70, 0xff, 0xf0, 0x3f, 0x12};
  const MemorySource source(bytes);
  FatTable table(source, FatKind::k12, 0, bytes.size());
  EXPECT_EQ(table.entries(), 8U);
  EXPECT_EQ(table.Raw(0).value(), 0xff8U);
  const uint32_t expected[] = {kFatEnd, kFatEnd,      3,    kFatEnd, kFatFree,
                               kFatBad, kFatReserved, 0x123};
  for (uint32_t i = 0; i < 8; ++i) EXPECT_EQ(table.Get(i).value(), expected[i]) << i;
  EXPECT_EQ(RefusalOf(table.Get(8).status()), Refusal::kDamaged);
  // Nothing behind the table is read.
  FatTable shorter(source, FatKind::k12, 0, 11);
  EXPECT_EQ(shorter.entries(), 7U);
  EXPECT_EQ(RefusalOf(shorter.Get(7).status()), Refusal::kDamaged);
}

TEST(FreemapFatTest, WiderOnes) {
  std::vector<uint8_t> bytes(128 << 10);
  struct Case {
    FatKind kind;
    uint32_t raw;
    uint32_t expected;
  };
  for (const Case& c : {Case{FatKind::k16, 0xffff, kFatEnd},
                        {FatKind::k16, 0xfff8, kFatEnd},
                        {FatKind::k16, 0xfff7, kFatBad},
                        {FatKind::k16, 0xfff6, kFatReserved},
                        {FatKind::k16, 0xffef, 0xffef},
                        {FatKind::k32, 0xf0000000, kFatFree},
                        {FatKind::k32, 0x5ffffff8, kFatEnd},
                        {FatKind::k32, 0x0ffffff7, kFatBad},
                        {FatKind::k32, 0x70001234, 0x1234},
                        {FatKind::kExfat, 0xf0000000, 0xf0000000},
                        {FatKind::kExfat, 0xffffffff, kFatEnd},
                        {FatKind::kExfat, 0xfffffff8, kFatReserved},
                        {FatKind::kExfat, 0xfffffff7, kFatBad}}) {
    // At both sides of where the window ends.
    for (const uint32_t index : {0U, 16383U, 16384U, 32767U}) {
      Put(bytes, index * (c.kind == FatKind::k16 ? 2 : 4), c.raw);
      const MemorySource source(bytes);
      FatTable table(source, c.kind, 0, bytes.size());
      EXPECT_EQ(table.Get(index).value(), c.expected) << std::hex << c.raw;
    }
  }
}

struct Chains {
  Chains() : bytes(64) {}
  void Link(uint32_t from, uint32_t to) { Put(bytes, from * 4, to); }
  std::pair<Refusal, std::vector<uint32_t>> Follow(uint32_t first, uint64_t most = 14) {
    const MemorySource source(bytes);
    FatTable table(source, FatKind::k32, 0, bytes.size());
    std::vector<uint32_t> seen;
    const absl::Status status = FollowChain(table, heap, first, most, [&](uint32_t cluster) {
      seen.push_back(cluster);
      return absl::OkStatus();
    });
    return {RefusalOf(status), seen};
  }
  ClusterHeap heap = {1000, 10, 14};  // clusters 2 to 15
  std::vector<uint8_t> bytes;
};

TEST(FreemapFatTest, Chain) {
  Chains chains;
  chains.Link(5, 6);
  chains.Link(6, 15);
  chains.Link(15, 0x0fffffff);
  const auto [refusal, seen] = chains.Follow(5);
  EXPECT_EQ(refusal, Refusal::kNone);
  EXPECT_THAT(seen, ElementsAre(5, 6, 15));
  EXPECT_EQ(chains.Follow(5, 3).first, Refusal::kNone);
  EXPECT_EQ(chains.Follow(5, 2).first, Refusal::kDamaged);
}

TEST(FreemapFatTest, ChainsThatCannotBe) {
  for (const uint32_t next : {0U, 1U, 16U, 0x0ffffff7U, 0x0ffffff0U, 5U, 6U}) {
    Chains chains;
    chains.Link(5, 6);
    chains.Link(6, next);
    EXPECT_EQ(chains.Follow(5).first, Refusal::kDamaged) << next;
  }
  Chains chains;
  for (const uint32_t first : {0U, 1U, 16U, 0xffffffffU - 1, kFatBad})
    EXPECT_EQ(chains.Follow(first).first, Refusal::kDamaged) << first;
}

TEST(FreemapFatTest, WalkFindsWhatIsFreeAndUsed) {
  Chains chains;
  chains.Link(2, 3);
  chains.Link(3, 8);
  chains.Link(8, 0x0fffffff);
  const MemorySource source(chains.bytes);
  FatTable table(source, FatKind::k32, 0, chains.bytes.size());
  FreeList free;
  free.Add(chains.heap.ByteOf(4), 40);  // 4 to 7
  ASSERT_TRUE(free.Finish(2000).ok());
  ClusterWalk walk(table, chains.heap, free);
  EXPECT_EQ(walk.Chain(2).value(), 3U);
  EXPECT_TRUE(walk.Run(9, 2).ok());
  EXPECT_FALSE(walk.Run(3, 2).ok());
  EXPECT_FALSE(walk.Run(7, 1).ok());
  EXPECT_FALSE(walk.Run(15, 2).ok());
  EXPECT_FALSE(walk.Run(1, 1).ok());
  FreeList more;
  more.Add(chains.heap.ByteOf(8), 10);
  ASSERT_TRUE(more.Finish(2000).ok());
  EXPECT_FALSE(ClusterWalk(table, chains.heap, more).Chain(2).ok());
}

TEST(FreemapFatTest, NoClusterHasTwoOwners) {
  Chains chains;
  const MemorySource source(chains.bytes);
  FatTable table(source, FatKind::k32, 0, chains.bytes.size());
  const FreeList free;
  ClusterWalk walk(table, chains.heap, free);
  EXPECT_TRUE(walk.Run(2, 10).ok());
  EXPECT_TRUE(walk.Run(2, 4).ok());  // not noticed by itself, but it ends
  EXPECT_FALSE(walk.Run(2, 1).ok());
}

struct Boot {
  Boot() : bytes(1 << 20) {
    std::ranges::copy(std::string("\xeb\x76\x90"
                                  "EXFAT   "),
                      bytes.begin());
    Put<uint64_t>(bytes, 72, 2048);
    Put<uint32_t>(bytes, 80, 24);
    Put<uint32_t>(bytes, 84, 2);
    Put<uint32_t>(bytes, 88, 32);
    Put<uint32_t>(bytes, 92, 252);
    Put<uint32_t>(bytes, 96, 4);
    Put<uint16_t>(bytes, 104, 256);
    bytes[108] = 9;
    bytes[109] = 3;
    bytes[110] = 1;
    Put<uint16_t>(bytes, 510, 0xaa55);
  }
  absl::StatusOr<ExfatGeometry> Read() {
    uint32_t sum = 0;
    for (size_t at = 0; at < size_t{11} * 512; ++at) {
      if (at != 106 && at != 107 && at != 112) sum = std::rotr(sum, 1) + bytes[at];
    }
    for (size_t at = size_t{11} * 512; at < size_t{12} * 512; at += 4) Put(bytes, at, sum);
    std::copy_n(bytes.begin(), 12 * 512, bytes.begin() + 12 * 512);
    FilesystemFacts facts;
    return ReadExfatBoot(MemorySource(bytes), facts);
  }
  std::vector<uint8_t> bytes;
};

TEST(FreemapExfatTest, Boot) {
  const auto geometry = Boot().Read();
  ASSERT_TRUE(geometry.ok()) << geometry.status();
  EXPECT_EQ(geometry->heap.offset, 32U * 512);
  EXPECT_EQ(geometry->heap.cluster_bytes, 4096U);
}

TEST(FreemapExfatTest, BootsThatCannotBe) {
  struct Case {
    size_t at;
    uint8_t value;
    Refusal refusal;
  };
  for (const Case& c :
       {Case{1, 0, Refusal::kDamaged}, {3, 'e', Refusal::kDamaged},  {40, 1, Refusal::kDamaged},
        {510, 0, Refusal::kDamaged},   {108, 8, Refusal::kDamaged},  {108, 13, Refusal::kDamaged},
        {109, 17, Refusal::kDamaged},  {109, 4, Refusal::kDamaged},  {110, 2, Refusal::kUnknown},
        {105, 2, Refusal::kUnknown},   {73, 9, Refusal::kState},     {79, 1, Refusal::kDamaged},
        {80, 23, Refusal::kDamaged},   {84, 0, Refusal::kDamaged},   {84, 9, Refusal::kDamaged},
        {88, 40, Refusal::kDamaged},   {92, 253, Refusal::kDamaged}, {92, 0, Refusal::kDamaged},
        {106, 2, Refusal::kState},     {106, 4, Refusal::kState},    {106, 1, Refusal::kUnknown},
        {106, 8, Refusal::kNone},      {112, 50, Refusal::kNone}}) {
    Boot boot;
    boot.bytes[c.at] = c.value;
    const auto geometry = boot.Read();
    EXPECT_EQ(RefusalOf(geometry.status()), c.refusal) << c.at << " " << geometry.status();
  }
}

// What the fuzzers begin with is read.
TEST(FreemapFatTest, SmallVolumes) {
  FilesystemFacts facts;
  FreeList free;
  const std::vector<uint8_t> fat = TinyFatVolume();
  absl::Status status = ReadFat(MemorySource(fat), {}, facts, free);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_THAT(free.extents(), ElementsAre(Extent{(3 + 4) * 512, (128 - 7) * 512}));
  std::vector<uint8_t> exfat = TinyExfatVolume();
  MendExfat(exfat);
  FreeList more;
  status = ReadExfat(MemorySource(exfat), {}, facts, more);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_THAT(more.extents(), ElementsAre(Extent{(25 + 4) * 512, 96 * 512}));
}

}  // namespace
}  // namespace virt_reclaim::freemap
