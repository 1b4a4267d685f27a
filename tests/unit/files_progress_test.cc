#include "host/cli/files_progress.h"

#include <gmock/gmock.h>

#include <chrono>

namespace virt_reclaim {
namespace {

using std::chrono::seconds;
using std::chrono::steady_clock;

struct Now {
  absl::string_view path = "/backup/web.raw";
  size_t file = 1, files = 20;
  uint64_t done = 0, allocation = 1000;
};

struct FilesProgressTest : ::testing::Test {
  steady_clock::time_point time;
  const punch::SteadyClock clock = [this] { return time; };
  const FilesProgress progress{clock};
};

TEST_F(FilesProgressTest, HowFarAndHowLongStill) {
  EXPECT_EQ(progress.Of(Now{}), "1 of 20 files, 0%: /backup/web.raw");
  time += seconds(100);
  EXPECT_EQ(progress.Of(Now{.file = 3, .done = 450}),
            "3 of 20 files, 45%, about 2m2s left: /backup/web.raw");
  time += seconds(50);
  EXPECT_EQ(progress.Of(Now{.file = 15, .done = 750}),
            "15 of 20 files, 75%, about 50s left: /backup/web.raw");
  EXPECT_EQ(progress.Of(Now{.file = 20, .done = 1000}),
            "20 of 20 files, 100%, about 0 left: /backup/web.raw");
}

// A hundredth says nothing about the rest.
TEST_F(FilesProgressTest, NothingIsGuessedTooEarly) {
  time += seconds(3);
  EXPECT_EQ(progress.Of(Now{.done = 10}), "1 of 20 files, 1%: /backup/web.raw");
}

// Sparse files alone, or devices, of which nothing is allocated.
TEST_F(FilesProgressTest, WithoutAnAllocationThereIsNoPart) {
  time += seconds(3);
  EXPECT_EQ(progress.Of(Now{.allocation = 0}), "1 of 20 files: /backup/web.raw");
}

}  // namespace
}  // namespace virt_reclaim
