#include <gmock/gmock.h>

#include <random>

#include "host/punch/zero_scan.h"

namespace virt_reclaim::punch {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<ZeroTest> Tests() {
  std::vector<ZeroTest> tests = {IsZeroPortable, IsZero};
  if (Avx2ZeroTest() != nullptr) tests.push_back(Avx2ZeroTest());
  return tests;
}

// Every byte of every length that has a way of its own counts, at every alignment.
TEST(ZeroScanTest, EverySingleByteIsSeen) {
  std::vector<unsigned char> memory(1200);
  for (const ZeroTest test : Tests()) {
    for (const size_t length : {0, 1, 15, 16, 17, 31, 255, 256, 257, 513, 1024}) {
      for (const size_t start : {0, 1, 31}) {
        EXPECT_TRUE(test(memory.data() + start, length));
        for (size_t i = 0; i < length; ++i) {
          memory[start + i] = 0x80;
          EXPECT_FALSE(test(memory.data() + start, length)) << length << " at " << i;
          memory[start + i] = 0;
        }
        // What lies beside it does not count.
        memory[start + length] = 1;
        EXPECT_TRUE(test(memory.data() + start, length));
        memory[start + length] = 0;
      }
    }
  }
}

TEST(ZeroScanTest, RunsAreJoinedAndWholeUnits) {
  std::vector<unsigned char> data(size_t{8} * 512);
  data[512 * 2 + 511] = 1;
  data[512 * 5] = 1;
  std::vector<Range> runs;
  FindZeroRuns(data.data(), data.size(), 4096, 512, runs);
  EXPECT_THAT(runs, ElementsAre(Range{4096, 5120}, Range{5632, 6656}, Range{7168, 8192}));
}

TEST(ZeroScanTest, ShortLastBlockIsABlock) {
  std::vector<unsigned char> data(4097);
  std::vector<Range> runs;
  FindZeroRuns(data.data(), data.size(), 0, 4096, runs);
  EXPECT_THAT(runs, ElementsAre(Range{0, 4097}));
  data[4096] = 1;
  runs.clear();
  FindZeroRuns(data.data(), data.size(), 0, 4096, runs);
  EXPECT_THAT(runs, ElementsAre(Range{0, 4096}));
  runs.clear();
  FindZeroRuns(data.data(), 0, 0, 4096, runs);
  EXPECT_THAT(runs, IsEmpty());
}

TEST(ZeroScanTest, SameAsAByteLoop) {
  std::mt19937 dice(1);
  for (int round = 0; round < 200; ++round) {
    std::vector<unsigned char> data(64 * 1024);
    for (size_t i = 0; i < dice() % 40; ++i) data[dice() % data.size()] = 1;
    std::vector<Range> runs;
    FindZeroRuns(data.data(), data.size(), 0, 1024, runs);
    std::vector<Range> expected;
    for (size_t at = 0; at < data.size(); at += 1024) {
      bool zero = true;
      for (size_t i = at; i < at + 1024; ++i) zero = zero && data[i] == 0;
      if (zero) AppendJoined(expected, {at, at + 1024});
    }
    EXPECT_EQ(runs, expected);
  }
}

}  // namespace
}  // namespace virt_reclaim::punch
