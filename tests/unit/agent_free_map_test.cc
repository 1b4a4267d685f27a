// The list of free runs: joined, bounded, the longest kept.
#include <gmock/gmock.h>

#include "guest-agent/convert.h"
#include "guest-agent/free_map.h"

namespace virt_reclaim::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::SizeIs;

TEST(FreeRunCollectorTest, JoinsWhatTouches) {
  FreeRunCollector collector(0);
  for (const FreeRun& run : {FreeRun{0, 10}, FreeRun{10, 5}, FreeRun{20, 1}, FreeRun{21, 0}})
    collector.Add(run);
  EXPECT_THAT(collector.Finish().runs, ElementsAre(FreeRun{0, 15}, FreeRun{20, 1}));
}

TEST(FreeRunCollectorTest, ShortOnesAreOnlyCounted) {
  FreeRunCollector collector(10);
  for (const FreeRun& run : {FreeRun{0, 9}, FreeRun{20, 5}, FreeRun{25, 5}, FreeRun{40, 9}})
    collector.Add(run);
  const FreeRuns free = collector.Finish();
  EXPECT_THAT(free.runs, ElementsAre(FreeRun{20, 10}));
  EXPECT_EQ(free.left_out_bytes, 18U);
}

TEST(FreeRunCollectorTest, TheLongestAreKeptInTheirOrder) {
  FreeRunCollector collector(0, 3);
  uint64_t sum = 0;
  for (uint64_t i = 0; i < 100; ++i) {
    const uint64_t length = i == 7 ? 50 : i == 60 ? 40 : 1 + i % 5;
    collector.Add({i * 1000, length});
    sum += length;
  }
  const FreeRuns free = collector.Finish();
  ASSERT_THAT(free.runs, SizeIs(3));
  EXPECT_EQ(free.runs[0], (FreeRun{4000, 5}));
  EXPECT_EQ(free.runs[1], (FreeRun{7000, 50}));
  EXPECT_EQ(free.runs[2], (FreeRun{60000, 40}));
  EXPECT_EQ(free.left_out_bytes, sum - 95);
}

TEST(FreeMapConvertTest, TheLongestListFitsIntoAMessage) {
  FreeMap map;
  map.disk = "vda";
  for (uint64_t i = 0; i < kMaxFreeRuns; ++i)
    map.free.runs.push_back({(i << 46) + 4096, uint64_t{1} << 45});
  v1::ReadFreeMapResponse response;
  ToProto(map, response);
  EXPECT_LT(response.ByteSizeLong(), size_t{1} << 20);
  EXPECT_EQ(response.gap_sectors(0), 8U);
  EXPECT_EQ(response.length_sectors(1), (uint64_t{1} << 45) / 512);
}

}  // namespace
}  // namespace virt_reclaim::agent
