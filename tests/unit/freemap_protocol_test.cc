// The parent's half of the worker's protocol, against workers that lie.
#include <random>

#include "gmock/gmock.h"
#include "host/freemap/protocol.h"

namespace virt_reclaim::freemap {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kDisk = 1 << 20;

ScanResult Example() {
  ScanResult result;
  Filesystem fs;
  fs.offset = 4096;
  fs.length = 1 << 16;
  fs.place = "partition 1";
  fs.type = "ext4";
  fs.facts = {"label", "uuid", 4096, 1 << 16};
  fs.free_bytes = 16384;
  fs.dropped_bytes = 4096;
  result.filesystems.push_back(fs);
  fs.disk = 1;
  fs.refusal = Refusal::kDirtyJournal;
  fs.reason = "its journal wants to be replayed";
  fs.free_bytes = fs.dropped_bytes = 0;
  result.filesystems.push_back(fs);
  result.runs.push_back({0, 0, {{4096, 4096}, {16384, 8192}}});
  return result;
}

std::vector<uint8_t> Written(const ScanResult& result) {
  std::vector<uint8_t> bytes;
  EXPECT_TRUE(WriteResult(result, [&](Bytes more) {
    bytes.insert(bytes.end(), more.begin(), more.end());
    return true;
  }));
  return bytes;
}

absl::StatusOr<ScanResult> Parsed(const std::vector<uint8_t>& bytes, size_t step = 1 << 20) {
  ResultParser parser({kDisk, kDisk});
  for (size_t at = 0; at < bytes.size(); at += step) {
    const absl::Status status =
        parser.Feed(Bytes(bytes).subspan(at, std::min(step, bytes.size() - at)));
    if (!status.ok()) return status;
  }
  return std::move(parser).Finish();
}

absl::Status Judged(const ScanResult& result) { return Parsed(Written(result)).status(); }

TEST(FreemapProtocolTest, ComesThroughInPiecesOfAnySize) {
  for (const size_t step : {1, 2, 3, 7, 100, 100000}) {
    const auto result = Parsed(Written(Example()), step);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->filesystems, Example().filesystems);
    EXPECT_EQ(result->runs, Example().runs);
  }
}

TEST(FreemapProtocolTest, ManyRunsAreSpreadOverRecords) {
  ScanResult result = Example();
  result.filesystems[0].length = kDisk - 4096;
  result.filesystems[0].free_bytes = kDisk;
  result.runs[0].extents.clear();
  for (uint64_t i = 0; i < 50'000; ++i) result.runs[0].extents.push_back({4096 + i * 16, 8});
  const auto parsed = Parsed(Written(result));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->runs, result.runs);
}

TEST(FreemapProtocolTest, NothingCountsWithoutTheEnd) {
  const std::vector<uint8_t> bytes = Written(Example());
  for (size_t length = 0; length < bytes.size(); ++length)
    EXPECT_FALSE(Parsed({bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(length)}).ok());
  std::vector<uint8_t> longer = bytes;
  longer.push_back(0);
  EXPECT_FALSE(Parsed(longer).ok());
}

TEST(FreemapProtocolTest, NoFlippedBitComesThrough) {
  const std::vector<uint8_t> bytes = Written(Example());
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    std::vector<uint8_t> mutant = bytes;
    mutant[bit / 8] = static_cast<uint8_t>(mutant[bit / 8] ^ 1U << (bit % 8));
    EXPECT_FALSE(Parsed(mutant).ok()) << bit;
  }
}

TEST(FreemapProtocolTest, NoiseIsNoResult) {
  std::mt19937 random(1);
  for (int i = 0; i < 2000; ++i) {
    std::vector<uint8_t> bytes = Written(Example());
    bytes.resize(8);
    const size_t more = random() % 300;
    for (size_t j = 0; j < more; ++j) bytes.push_back(static_cast<uint8_t>(random() % 7));
    EXPECT_FALSE(Parsed(bytes, 1 + random() % 50).ok());
  }
}

TEST(FreemapProtocolTest, RunsAreSortedDisjointAndInside) {
  const auto with = [](std::vector<Extent> extents) {
    ScanResult result = Example();
    result.filesystems[0].free_bytes = kDisk;
    result.runs[0].extents = std::move(extents);
    return Judged(result);
  };
  EXPECT_TRUE(with({{4096, 1 << 16}}).ok());
  EXPECT_FALSE(with({{4096, (1 << 16) + 1}}).ok());
  EXPECT_FALSE(with({{4095, 10}}).ok());
  EXPECT_FALSE(with({{8192, 4096}, {4096, 4096}}).ok());
  EXPECT_FALSE(with({{4096, 4096}, {8191, 10}}).ok());
  EXPECT_FALSE(with({{8192, 0}}).ok());
  EXPECT_FALSE(with({{8192, UINT64_MAX}}).ok());
  EXPECT_FALSE(with({{UINT64_MAX, 2}}).ok());
}

TEST(FreemapProtocolTest, RefusedHasNoRuns) {
  ScanResult result = Example();
  result.filesystems[0].refusal = Refusal::kDamaged;
  EXPECT_FALSE(Judged(result).ok());
  result.filesystems[0].free_bytes = result.filesystems[0].dropped_bytes = 0;
  EXPECT_FALSE(Judged(result).ok());
  result.runs.clear();
  EXPECT_TRUE(Judged(result).ok());
}

TEST(FreemapProtocolTest, NoMoreInRunsThanFree) {
  ScanResult result = Example();
  result.filesystems[0].free_bytes = 16383;
  EXPECT_FALSE(Judged(result).ok());
}

TEST(FreemapProtocolTest, NoTwoFilesystemsShareAByte) {
  ScanResult result = Example();
  result.filesystems[1] = result.filesystems[0];
  result.runs.push_back({1, 0, {{20480, 4096}}});
  EXPECT_THAT(Judged(result).message(), HasSubstr("share"));
  result.runs[1].extents[0].offset = 8192;
  EXPECT_TRUE(Judged(result).ok());
}

TEST(FreemapProtocolTest, OnlyWhatIsMappedReachesOtherDisks) {
  ScanResult result = Example();
  result.runs[0].disk = 1;
  EXPECT_FALSE(Judged(result).ok());
  result.filesystems[0].mapped = true;
  EXPECT_TRUE(Judged(result).ok());
  result.runs[0].disk = 2;
  EXPECT_FALSE(Judged(result).ok());
  result = Example();
  result.filesystems[0].disk = 2;
  EXPECT_FALSE(Judged(result).ok());
}

TEST(FreemapProtocolTest, TextsAreCut) {
  ScanResult result = Example();
  result.filesystems[0].reason = std::string(100'000, 'x');
  const auto parsed = Parsed(Written(result));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->filesystems[0].reason.size(), kMaxText);
}

TEST(FreemapProtocolTest, TooManyFilesystemsAreRefused) {
  ScanResult result;
  result.filesystems.assign(kMaxFilesystems + 1, Example().filesystems[1]);
  EXPECT_FALSE(Judged(result).ok());
}

TEST(FreemapProtocolTest, AFailureHasItsWords) {
  std::vector<uint8_t> bytes;
  WriteFailure("setrlimit: no", [&](Bytes more) {
    bytes.insert(bytes.end(), more.begin(), more.end());
    return true;
  });
  EXPECT_THAT(Parsed(bytes).status().message(), HasSubstr("setrlimit: no"));
}

}  // namespace
}  // namespace virt_reclaim::freemap
