// The small parts of the free map worker: sums, lists, partition tables, swap.
#include <array>
#include <random>

#include "gmock/gmock.h"
#include "host/freemap/checksum.h"
#include "host/freemap/free_list.h"
#include "host/freemap/partition_table.h"
#include "host/freemap/readers.h"
#include "host/freemap/refusal.h"
#include "tests/unit/freemap_memory_source.h"

namespace virt_reclaim::freemap {
namespace {

using ::testing::ElementsAre;
using ::testing::SizeIs;

Bytes Chars(const char* text) {
  return {reinterpret_cast<const uint8_t*>(text), std::char_traits<char>::length(text)};
}

template <std::unsigned_integral T>
void Put(std::vector<uint8_t>& bytes, size_t at, T value) {
  for (size_t i = 0; i < sizeof(T); ++i)
    bytes[at + i] = static_cast<uint8_t>(uint64_t{value} >> (8 * i));
}

TEST(FreemapChecksumTest, KnownValues) {
  EXPECT_EQ(Crc32c(Chars("123456789")), 0xe3069283U);
  EXPECT_EQ(Crc32(Chars("123456789")), 0xcbf43926U);
  EXPECT_EQ(Crc32c(Chars("789"), Crc32c(Chars("123456"))), 0xe3069283U);
  EXPECT_EQ(Crc32c(std::vector<uint8_t>(32)), 0x8a9136aaU);  // RFC 3720, B.4
  std::vector<uint8_t> bytes(100, 1);
  const uint32_t without = Crc32cWithout(bytes, 40);
  std::fill_n(bytes.begin() + 40, 4, uint8_t{0});
  EXPECT_EQ(without, Crc32c(bytes));
}

TEST(FreemapListTest, MergesAndSorts) {
  FreeList list;
  list.Add(100, 10);
  list.Add(110, 5);
  list.Add(0, 0);
  list.Add(0, 7);
  list.Add(200, 1);
  ASSERT_TRUE(list.Finish(201).ok());
  EXPECT_THAT(list.extents(), ElementsAre(Extent{0, 7}, Extent{100, 15}, Extent{200, 1}));
  EXPECT_EQ(list.free_bytes(), 23U);
}

TEST(FreemapListTest, NoticesWhatCannotBe) {
  FreeList overlapping;
  overlapping.Add(0, 10);
  overlapping.Add(20, 10);
  overlapping.Add(5, 10);
  EXPECT_EQ(RefusalOf(overlapping.Finish(100)), Refusal::kDamaged);
  FreeList past;
  past.Add(90, 11);
  EXPECT_EQ(RefusalOf(past.Finish(100)), Refusal::kDamaged);
  FreeList wrapping;
  wrapping.Add(UINT64_MAX - 5, 10);
  EXPECT_EQ(RefusalOf(wrapping.Finish(UINT64_MAX)), Refusal::kDamaged);
}

TEST(FreemapListTest, ShortRunsAreCountedAndNotKept) {
  FreeList list(4096);
  list.Add(0, 2048);
  list.Add(2048, 2048);
  list.Add(10000, 4095);
  ASSERT_TRUE(list.Finish(100000).ok());
  EXPECT_THAT(list.extents(), ElementsAre(Extent{0, 4096}));
  EXPECT_EQ(list.free_bytes(), 4096U + 4095U);
  EXPECT_EQ(list.dropped_bytes(), 4095U);
}

TEST(FreemapListTest, KeepsTheLongestOfTooMany) {
  std::mt19937 random(1);
  FreeList list(0, 1000);
  uint64_t at = 0;
  for (int i = 0; i < 100'000; ++i) {
    const uint64_t length = i % 1000 == 0 ? 1 << 30 : 1 + random() % 100'000;
    list.Add(at, length);
    at += length + 1;
  }
  ASSERT_TRUE(list.Finish(at).ok());
  EXPECT_LE(list.extents().size(), 1000U);
  EXPECT_EQ(std::ranges::count(list.extents(), uint64_t{1} << 30, &Extent::length), 100);
  uint64_t kept = 0;
  for (const Extent& extent : list.extents()) kept += extent.length;
  EXPECT_EQ(kept + list.dropped_bytes(), list.free_bytes());
}

TEST(FreemapListTest, Touches) {
  FreeList list;
  list.Add(10, 10);
  list.Add(30, 10);
  ASSERT_TRUE(list.Finish(100).ok());
  for (const auto& [offset, length, touches] : {std::tuple{0, 10, false},
                                                {0, 11, true},
                                                {19, 1, true},
                                                {20, 10, false},
                                                {20, 11, true},
                                                {12, 2, true},
                                                {0, 100, true},
                                                {40, 60, false},
                                                {15, 0, false},
                                                {39, 100, true}}) {
    EXPECT_EQ(list.Touches(offset, length), touches) << offset << " " << length;
  }
  EXPECT_FALSE(FreeList().Touches(0, 100));
}

TEST(FreemapListTest, WithoutRoomNothingIsKept) {
  FreeList list(0, 0);
  list.Add(0, 10);
  ASSERT_TRUE(list.Finish(10).ok());
  EXPECT_THAT(list.extents(), SizeIs(0));
  EXPECT_EQ(list.dropped_bytes(), 10U);
}

struct Mbr {
  Mbr() : bytes(1 << 20) { Sign(0); }
  void Sign(size_t sector) {
    bytes[sector * 512 + 510] = 0x55;
    bytes[sector * 512 + 511] = 0xaa;
  }
  void Entry(size_t sector, size_t index, uint8_t type, uint32_t start, uint32_t count) {
    const size_t at = sector * 512 + 446 + index * 16;
    bytes[at + 4] = type;
    Put(bytes, at + 8, start);
    Put(bytes, at + 12, count);
  }
  absl::StatusOr<std::vector<Partition>> Read() const {
    return ReadPartitionTable(MemorySource(bytes), "dos");
  }
  std::vector<uint8_t> bytes;  // 2048 sectors
};

TEST(FreemapPartitionTest, PrimaryPartitions) {
  Mbr mbr;
  mbr.Entry(0, 1, 0x83, 1000, 100);
  mbr.Entry(0, 0, 0x07, 100, 900);
  mbr.Entry(0, 3, 0x42, 1100, 948);
  const auto found = mbr.Read();
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_THAT(*found, ElementsAre(Partition{1, 51200, 460800, ""}, Partition{2, 512000, 51200, ""},
                                  Partition{4, 563200, 485376, "a Windows dynamic disk"}));
}

TEST(FreemapPartitionTest, LogicalPartitions) {
  Mbr mbr;
  mbr.Entry(0, 0, 0x0f, 100, 1000);
  mbr.Sign(100);
  mbr.Entry(100, 0, 0x83, 10, 200);
  mbr.Entry(100, 1, 0x05, 300, 200);
  mbr.Sign(400);
  mbr.Entry(400, 0, 0x83, 1, 600);
  const auto found = mbr.Read();
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_THAT(*found,
              ElementsAre(Partition{5, 56320, 102400, ""}, Partition{6, 205312, 307200, ""}));
  mbr.Entry(400, 1, 0x05, 0, 200);  // back to the first record
  EXPECT_FALSE(mbr.Read().ok());
  mbr.Entry(400, 1, 0x05, 1000, 200);  // out of the extended partition
  EXPECT_FALSE(mbr.Read().ok());
  mbr.Entry(400, 1, 0, 0, 0);
  mbr.Entry(400, 0, 0x83, 1, 700);  // past its end
  EXPECT_FALSE(mbr.Read().ok());
  mbr.Entry(400, 0, 0x83, 1, 600);
  mbr.Entry(100, 0, 0x83, 10, 300);  // into the next one
  EXPECT_FALSE(mbr.Read().ok());
}

TEST(FreemapPartitionTest, WrongTablesAreNone) {
  Mbr mbr;
  mbr.Entry(0, 0, 0x83, 100, 100);
  EXPECT_TRUE(mbr.Read().ok());
  Mbr overlap = mbr;
  overlap.Entry(0, 1, 0x83, 199, 10);
  EXPECT_FALSE(overlap.Read().ok());
  Mbr outside = mbr;
  outside.Entry(0, 1, 0x83, 2000, 49);
  EXPECT_FALSE(outside.Read().ok());
  Mbr at_zero = mbr;
  at_zero.Entry(0, 1, 0x83, 0, 10);
  EXPECT_FALSE(at_zero.Read().ok());
  Mbr protective = mbr;
  protective.Entry(0, 1, 0xee, 1000, 10);
  EXPECT_FALSE(protective.Read().ok());
  Mbr flag = mbr;
  flag.bytes[446] = 0x81;
  EXPECT_FALSE(flag.Read().ok());
  EXPECT_EQ(RefusalOf(ReadPartitionTable(MemorySource(mbr.bytes), "sun").status()),
            Refusal::kUnknown);
}

struct Gpt {
  Gpt() : bytes(2048 * 512) {
    mbr.Entry(0, 0, 0xee, 1, 2047);
    std::copy_n(mbr.bytes.begin(), 512, bytes.begin());
  }
  void Entry(size_t index, uint8_t type, uint64_t first, uint64_t last) {
    for (const size_t lba : {2, 2015}) {
      const size_t at = lba * 512 + index * 128;
      bytes[at] = type;
      Put(bytes, at + 32, first);
      Put(bytes, at + 40, last);
    }
  }
  void Seal() {
    for (const auto& [lba, other, entries] :
         {std::array<uint64_t, 3>{1, 2047, 2}, std::array<uint64_t, 3>{2047, 1, 2015}}) {
      const size_t at = lba * 512;
      std::ranges::copy(Chars("EFI PART"), bytes.begin() + static_cast<ptrdiff_t>(at));
      Put(bytes, at + 8, uint32_t{0x10000});
      Put(bytes, at + 12, uint32_t{92});
      Put(bytes, at + 16, uint32_t{0});
      Put(bytes, at + 24, lba);
      Put(bytes, at + 32, other);
      Put(bytes, at + 40, uint64_t{34});
      Put(bytes, at + 48, uint64_t{2014});
      Put(bytes, at + 72, entries);
      Put(bytes, at + 80, uint32_t{128});
      Put(bytes, at + 84, uint32_t{128});
      Put(bytes, at + 88, Crc32(Part(bytes, entries * 512, 128 * 128)));
      Put(bytes, at + 16, Crc32(Part(bytes, at, 92)));
    }
  }
  absl::Status Read() const { return ReadPartitionTable(MemorySource(bytes), "gpt").status(); }
  Mbr mbr;
  std::vector<uint8_t> bytes;
};

TEST(FreemapPartitionTest, Gpt) {
  Gpt gpt;
  gpt.Entry(0, 1, 100, 199);
  gpt.Entry(5, 1, 40, 99);
  gpt.Seal();
  const auto found = ReadPartitionTable(MemorySource(gpt.bytes), "gpt");
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_THAT(*found, ElementsAre(Partition{6, 20480, 30720, ""}, Partition{1, 51200, 51200, ""}));
}

TEST(FreemapPartitionTest, AProtectiveMbrAloneIsNoTable) {
  Gpt gpt;
  gpt.Entry(0, 1, 100, 199);
  gpt.Seal();
  EXPECT_TRUE(ReadPartitionTable(MemorySource(gpt.bytes), "PMBR").ok());
  gpt.bytes[512] = 'X';
  EXPECT_EQ(RefusalOf(ReadPartitionTable(MemorySource(gpt.bytes), "PMBR").status()),
            Refusal::kDamaged);
}

TEST(FreemapPartitionTest, EveryBitOfBothGptsCounts) {
  Gpt gpt;
  gpt.Entry(0, 1, 100, 199);
  gpt.Seal();
  ASSERT_TRUE(gpt.Read().ok());
  for (const size_t at : {512, 1024, 2015 * 512, 2047 * 512}) {
    for (size_t bit = 0; bit < 92 * 8; ++bit) {
      uint8_t& byte = gpt.bytes[at + bit / 8];
      byte = static_cast<uint8_t>(byte ^ 1U << bit % 8);
      EXPECT_FALSE(gpt.Read().ok()) << at << " " << bit;
      byte = static_cast<uint8_t>(byte ^ 1U << bit % 8);
    }
  }
}

TEST(FreemapPartitionTest, GptsThatSayTwoThings) {
  Gpt outside;
  outside.Entry(0, 1, 20, 199);
  outside.Seal();
  EXPECT_FALSE(outside.Read().ok());
  Gpt overlap;
  overlap.Entry(0, 1, 100, 199);
  overlap.Entry(1, 1, 199, 299);
  overlap.Seal();
  EXPECT_FALSE(overlap.Read().ok());
  Gpt differing;
  differing.Entry(0, 1, 100, 199);
  differing.bytes[2 * 512 + 40] = 198;
  differing.Seal();
  EXPECT_FALSE(differing.Read().ok());
  Gpt hybrid;
  hybrid.Entry(0, 1, 100, 199);
  hybrid.Seal();
  hybrid.bytes[446 + 16 + 4] = 0x83;
  hybrid.bytes[446 + 16 + 12] = 8;
  EXPECT_EQ(RefusalOf(hybrid.Read()), Refusal::kState);
}

absl::Status Swap(const std::vector<uint8_t>& bytes, FreeList& free, const ReadOptions& options) {
  FilesystemFacts facts;
  return ReadSwap(MemorySource(bytes), options, facts, free);
}

TEST(FreemapSwapTest, AllButTheFirstPage) {
  std::vector<uint8_t> bytes(1 << 20);
  std::ranges::copy(Chars("SWAPSPACE2"), bytes.begin() + 4086);
  Put(bytes, 1024, uint32_t{1});
  Put(bytes, 1028, uint32_t{99});
  FreeList free;
  ASSERT_TRUE(Swap(bytes, free, {.take_swap = true}).ok());
  ASSERT_TRUE(free.Finish(1 << 20).ok());
  EXPECT_THAT(free.extents(), ElementsAre(Extent{4096, 99 * 4096}));
  EXPECT_EQ(RefusalOf(Swap(bytes, free, {})), Refusal::kNotAsked);
  EXPECT_EQ(RefusalOf(Swap(bytes, free, {.strict = true, .take_swap = true})), Refusal::kUnchecked);
  Put(bytes, 1028, uint32_t{256});
  EXPECT_EQ(RefusalOf(Swap(bytes, free, {.take_swap = true})), Refusal::kState);
  Put(bytes, 1028, uint32_t{99});
  Put(bytes, 1024, uint32_t{2});
  EXPECT_EQ(RefusalOf(Swap(bytes, free, {.take_swap = true})), Refusal::kUnknown);
  Put(bytes, 1024, uint32_t{1});
  for (const char* other :
       {"S1SUSPEND\0", "S2SUSPEND\0", "ULSUSPEND\0", "LINHIB0001", "SWAP-SPACE"}) {
    std::copy_n(other, 10, bytes.begin() + 4086);
    EXPECT_EQ(RefusalOf(Swap(bytes, free, {.take_swap = true})), Refusal::kUnknown) << other;
  }
}

}  // namespace
}  // namespace virt_reclaim::freemap
