#include <gmock/gmock.h>

#include <cstring>
#include <random>
#include <string>

#include "base/byte_size.h"
#include "host/punch/qcow2_clusters.h"

namespace virt_reclaim::punch {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr uint64_t kCompressed = uint64_t{1} << 62;
constexpr uint64_t kCopied = uint64_t{1} << 63;

// An image of clusters of 64 KiB: the header, then the L1 table, then L2 tables, then data.
class Image {
 public:
  explicit Image(uint64_t size) : bytes(size, '\0') {
    bytes.replace(0, 4, "QFI\xfb");
    Put(4, 3, 4);
    Put(20, 16, 4);
    Put(36, 4, 4);
    Put(40, 64 * kKiB, 8);
    Put(100, 104, 4);
  }
  void Put(uint64_t at, uint64_t number, size_t width) {
    for (size_t i = 0; i < width; ++i)
      bytes[at + i] = static_cast<char>(number >> (8 * (width - 1 - i)));
  }
  void L1(uint64_t index, uint64_t entry) { Put(64 * kKiB + 8 * index, entry, 8); }
  void L2(uint64_t table, uint64_t index, uint64_t entry) { Put(table + 8 * index, entry, 8); }

  std::vector<Range> Find() const {
    return FindCompressedClusters(
        [this](uint64_t offset, std::span<unsigned char> out) {
          if (offset > bytes.size() || out.size() > bytes.size() - offset) return false;
          memcpy(out.data(), bytes.data() + offset, out.size());
          read_bytes += out.size();
          return true;
        },
        bytes.size());
  }

  std::string bytes;
  mutable uint64_t read_bytes = 0;
};

// Clusters of 64 KiB: 54 bits of offset, 8 of sectors.
uint64_t Entry(uint64_t offset, uint64_t more_sectors) {
  return kCompressed | more_sectors << 54 | offset;
}

TEST(Qcow2ClustersTest, CompressedOnesOfTheActiveState) {
  Image image(kMiB);
  image.L1(1, kCopied | 128 * kKiB);
  image.L2(128 * kKiB, 0, kCopied | 192 * kKiB);  // a plain one
  image.L2(128 * kKiB, 5, Entry(300000, 2));
  image.L2(128 * kKiB, 6, Entry(300900, 1));  // shares a sector with the one before
  image.L2(128 * kKiB, 7, Entry(500000, 0));
  EXPECT_THAT(image.Find(), ElementsAre(Range{300000, 301568}, Range{500000, 500224}));
  // The second half of an entry of 16 bytes is no entry.
  image.Put(72, 1 << 4, 8);
  image.L2(128 * kKiB, 8, Entry(600000, 0));
  image.L2(128 * kKiB, 9, Entry(700000, 0));
  EXPECT_THAT(image.Find(), ElementsAre(Range{300900, 301568}, Range{600000, 600064}));
}

TEST(Qcow2ClustersTest, WhatIsNoneHasNone) {
  EXPECT_THAT(Image(kMiB).Find(), IsEmpty());
  for (const size_t size : {0U, 1U, 4U, 71U, 72U, 103U}) {
    Image image(kMiB);
    image.bytes.resize(size);
    EXPECT_THAT(image.Find(), IsEmpty()) << size;
  }
  // The data is in another file.
  Image image(kMiB);
  image.L1(0, 128 * kKiB);
  image.L2(128 * kKiB, 0, Entry(300000, 2));
  EXPECT_FALSE(image.Find().empty());
  image.Put(72, 1 << 2, 8);
  EXPECT_THAT(image.Find(), IsEmpty());
}

TEST(Qcow2ClustersTest, NumbersOutOfBounds) {
  struct Damage {
    uint64_t at;
    uint64_t number;
    size_t width;
  };
  for (const auto& [at, number, width] : {Damage{0, 0x514649fa, 4},          // magic
                                          Damage{4, 4, 4},                   // version
                                          Damage{20, 8, 4},                  // clusters
                                          Damage{20, 22, 4},                 //
                                          Damage{20, 0xffffffff, 4},         //
                                          Damage{36, 0xffffffff, 4},         // entries of L1
                                          Damage{36, (kMiB / 8), 4},         // ... behind the end
                                          Damage{40, kMiB, 8},               // where L1 is
                                          Damage{40, UINT64_MAX, 8},         //
                                          Damage{40, UINT64_MAX - 7, 8}}) {  // wraps
    Image image(kMiB);
    image.L1(0, 128 * kKiB);
    image.L2(128 * kKiB, 0, Entry(300000, 2));
    ASSERT_FALSE(image.Find().empty());
    image.Put(at, number, width);
    EXPECT_THAT(image.Find(), IsEmpty()) << "at " << at << ": " << number;
  }
}

TEST(Qcow2ClustersTest, EntriesOutOfBounds) {
  Image image(kMiB);
  image.L1(0, kMiB);              // at the end
  image.L1(1, kMiB - 32 * kKiB);  // over the end, and not a cluster's
  image.L1(2, 0x00fffffffffffe00);
  image.L1(3, 128 * kKiB);
  image.L2(128 * kKiB, 0, Entry(kMiB, 0));              // behind the end
  image.L2(128 * kKiB, 1, Entry(kMiB - 100, 255));      // over the end
  image.L2(128 * kKiB, 2, UINT64_MAX);                  // all of it
  image.L2(128 * kKiB, 3, Entry((1ULL << 54) - 1, 0));  // the farthest
  EXPECT_THAT(image.Find(), ElementsAre(Range{kMiB - 100, kMiB}));
}

// One table, named by every entry there is room for, is read once.
TEST(Qcow2ClustersTest, ABombIsReadOnce) {
  Image image(33 * kMiB);
  const uint64_t table = 32 * kMiB + 512 * kKiB;
  image.Put(36, 4 << 20, 4);
  for (uint64_t i = 0; i < (4 << 20); ++i) image.L1(i, table);
  for (uint64_t i = 0; i < 8192; ++i) image.L2(table, i, Entry(table + i * 16 % 4096, 255));
  EXPECT_THAT(image.Find(), ElementsAre(Range{table, table + 134656}));
  EXPECT_LE(image.read_bytes, 33 * kMiB);
}

// Whatever is in it: sorted, disjoint, within the file.
TEST(Qcow2ClustersTest, Noise) {
  std::mt19937_64 dice(1);
  for (int round = 0; round < 60; ++round) {
    Image image(kMiB);
    for (uint64_t i = 0; i < 4; ++i) image.L1(i, dice() % 16 * 64 * kKiB);
    for (uint64_t at = 128 * kKiB; at < kMiB; at += 8) image.Put(at, dice() % (1ULL << 63), 8);
    for (int i = 0; i < 3; ++i) image.bytes[dice() % kQcow2StartBytes] = static_cast<char>(dice());
    uint64_t end = 0;
    bool first = true;
    for (const Range& range : image.Find()) {
      EXPECT_TRUE(first || range.begin > end);
      EXPECT_LT(range.begin, range.end);
      EXPECT_LE(range.end, kMiB);
      end = range.end;
      first = false;
    }
  }
}

}  // namespace
}  // namespace virt_reclaim::punch
