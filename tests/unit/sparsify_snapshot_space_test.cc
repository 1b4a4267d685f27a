#include <gmock/gmock.h>

#include <algorithm>
#include <random>
#include <string>

#include "base/byte_size.h"
#include "host/sparsify/snapshot_space.h"

namespace virt_reclaim::sparsify {
namespace {

constexpr uint64_t kCluster = 64 * kKiB;

// Clusters of 64 KiB, by their number: 0 the header, 1 the active L1 table, 2 the table of
// snapshots; from 3 on as the test says.
class Image {
 public:
  Image() : bytes(32 * kCluster, '\0') {
    bytes.replace(0, 4, "QFI\xfb");
    Put(4, 3, 4);
    Put(20, 16, 4);
    Put(36, 4, 4);
    Put(40, kCluster, 8);
    Put(64, 2 * kCluster, 8);
    Put(100, 104, 4);
  }
  void Put(uint64_t at, uint64_t number, size_t width) {
    for (size_t i = 0; i < width; ++i)
      bytes[at + i] = static_cast<char>(number >> (8 * (width - 1 - i)));
  }
  void AddSnapshot(const std::string& id, const std::string& name, uint64_t l1) {
    Put(60, ++count_, 4);
    Put(end_, l1 * kCluster, 8);
    Put(end_ + 8, 4, 4);
    Put(end_ + 12, id.size(), 2);
    Put(end_ + 14, name.size(), 2);
    Put(end_ + 36, 16, 4);
    bytes.replace(end_ + 56, id.size() + name.size(), id + name);
    end_ += RoundUp(56 + id.size() + name.size(), 8);
  }
  void Entry(uint64_t table, uint64_t index, uint64_t cluster) {
    Put(table * kCluster + 8 * index, cluster * kCluster, 8);
  }
  absl::StatusOr<SnapshotSpaces> Find(std::vector<Range> data = {}) const {
    if (data.empty()) data = {{0, bytes.size()}};
    const punch::ReadBytes read = [this](uint64_t offset, std::span<unsigned char> out) {
      if (offset > bytes.size() || out.size() > bytes.size() - offset) return false;
      std::copy_n(bytes.data() + offset, out.size(), out.data());
      return true;
    };
    return FindSnapshotSpace(read, bytes.size(), data);
  }

  std::string bytes;

 private:
  uint64_t count_ = 0;
  uint64_t end_ = 2 * kCluster;
};

// The guest has L2 table 5 with cluster 10; 'one' has table 6 with 10, 11, 12; 'two' table 7 with
// 12, 13, and the guest's own table 5.
Image TwoSnapshots() {
  Image image;
  image.Entry(1, 0, 5);
  image.AddSnapshot("1", "one", 3);
  image.Entry(3, 0, 6);
  image.AddSnapshot("2", "two", 4);
  image.Entry(4, 0, 7);
  image.Entry(4, 1, 5);
  image.Entry(5, 0, 10);
  for (const uint64_t cluster : {10, 11, 12}) image.Entry(6, cluster, cluster);
  for (const uint64_t cluster : {12, 13}) image.Entry(7, cluster, cluster);
  return image;
}

TEST(SnapshotSpaceTest, WhatOnlyOneHasAndWhatOnlySnapshotsHave) {
  const auto found = TwoSnapshots().Find();
  ASSERT_TRUE(found.ok()) << found.status();
  ASSERT_EQ(found->snapshots.size(), 2U);
  EXPECT_EQ(found->snapshots[0].name, "one");
  EXPECT_EQ(found->snapshots[0].only_bytes, 3 * kCluster);  // its tables, and 11
  EXPECT_EQ(found->snapshots[1].id, "2");
  EXPECT_EQ(found->snapshots[1].only_bytes, 3 * kCluster);
  EXPECT_EQ(found->all_bytes, 7 * kCluster);  // and 12, which both have
  EXPECT_EQ(DescribeSnapshotSpace(*found),
            "deleting 'one' (1) would free 192 KiB, 'two' (2) 192 KiB, all of them 448 KiB");
}

TEST(SnapshotSpaceTest, OnlyWhatHasStorageCounts) {
  const auto found =
      TwoSnapshots().Find({{0, 3 * kCluster + 4096}, {11 * kCluster, 11 * kCluster + 512}});
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->snapshots[0].only_bytes, 4096U + 512);
  EXPECT_EQ(found->snapshots[1].only_bytes, 0U);
}

TEST(SnapshotSpaceTest, CompressedClustersShareThoseOfTheHost) {
  Image image = TwoSnapshots();
  const auto packed = [](uint64_t at, uint64_t more) {
    return uint64_t{1} << 62 | more << 54 | at;
  };
  image.Put(6 * kCluster, packed(20 * kCluster + 100, 2), 8);       // 'one' alone
  image.Put(6 * kCluster + 8, packed(21 * kCluster - 512, 3), 8);   // 20 and 21
  image.Put(5 * kCluster + 8, packed(21 * kCluster + 4096, 0), 8);  // the guest has 21, too
  const auto found = image.Find();
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->snapshots[0].only_bytes, 4 * kCluster);
}

TEST(SnapshotSpaceTest, NoSnapshots) {
  const auto found = Image().Find();
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->all_bytes, 0U);
  EXPECT_EQ(DescribeSnapshotSpace(*found), "");
}

TEST(SnapshotSpaceTest, NamesAreThoseOfTheImage) {
  Image image;
  image.AddSnapshot("1", "evil\x1b[2J", 3);
  const auto found = image.Find();
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(DescribeSnapshotSpace(*found).find('\x1b'), std::string::npos);
}

// What is odd is not told as nothing.
TEST(SnapshotSpaceTest, DamageIsAnError) {
  const auto code = [](uint64_t at, uint64_t number, size_t width) {
    Image image = TwoSnapshots();
    image.Put(at, number, width);
    return image.Find().status().code();
  };
  using absl::StatusCode;
  EXPECT_EQ(code(0, 0, 4), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(72, 1 << 2, 8), StatusCode::kInvalidArgument);  // its data is elsewhere
  EXPECT_EQ(code(72, 1 << 5, 8), StatusCode::kInvalidArgument);  // nobody knows this
  EXPECT_EQ(code(60, 2000, 4), StatusCode::kResourceExhausted);
  EXPECT_EQ(code(60, 1000, 4), StatusCode::kOk) << "entries of zeros have no tables";
  EXPECT_EQ(code(64, UINT64_MAX, 8), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(64, 32 * kCluster - 8, 8), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(2 * kCluster, 40 * kCluster, 8), StatusCode::kInvalidArgument);  // L1
  EXPECT_EQ(code(2 * kCluster, 3 * kCluster + 512, 8),
            StatusCode::kInvalidArgument);  // not aligned
  EXPECT_EQ(code(2 * kCluster + 8, UINT32_MAX, 4), StatusCode::kResourceExhausted);
  EXPECT_EQ(code(2 * kCluster + 36, 4096, 4), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(3 * kCluster, 40 * kCluster, 8), StatusCode::kInvalidArgument);  // L2
  EXPECT_EQ(code(6 * kCluster, 40 * kCluster, 8), StatusCode::kInvalidArgument);  // data
  EXPECT_EQ(code(6 * kCluster, 10 * kCluster + 512, 8), StatusCode::kInvalidArgument);
}

// Never out of bounds, never without an end, never more than there is.
TEST(SnapshotSpaceTest, MutantsEnd) {
  std::mt19937 dice(1);
  size_t found = 0;
  for (int i = 0; i < 3000; ++i) {
    Image image = TwoSnapshots();
    for (int flips = 0; flips < 3; ++flips) {
      static constexpr uint64_t kPlaces[] = {0, kCluster, 2 * kCluster, 3 * kCluster, 6 * kCluster};
      const uint64_t at = kPlaces[dice() % std::size(kPlaces)] + dice() % 128;
      image.bytes[at] = static_cast<char>(image.bytes[at] ^ (1 << dice() % 8));
    }
    if (const auto spaces = image.Find(); spaces.ok()) {
      ++found;
      EXPECT_LE(spaces->all_bytes, image.bytes.size());
    }
  }
  EXPECT_GT(found, 0U);
}

}  // namespace
}  // namespace virt_reclaim::sparsify
