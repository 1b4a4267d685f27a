#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <thread>

#include "guest-agent/freed_meter.h"

namespace virt_reclaim::agent {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;

class FreedMeterTest : public testing::Test {
 protected:
  FreedMeterTest() {
    root_.device = 0x801;
    root_.uuid = "aaaa";
    root_.free_bytes = 1000;
  }

  // What statfs says of it from now on.
  std::atomic<uint64_t> free_ = 1000, identity_ = 7;
  std::atomic<bool> mounted_ = true;
  std::atomic<int> asked_ = 0;
  FreedMeter::Probe probe_ = [this](const std::string& mount_point) {
    ++asked_;
    EXPECT_EQ(mount_point, "/");
    return mounted_ ? std::optional(FreedMeter::Space{free_, identity_}) : std::nullopt;
  };
  Filesystem root_;
};

TEST_F(FreedMeterTest, NothingIsKnownBeforeATrim) {
  FreedMeter meter(probe_, milliseconds(1));
  EXPECT_EQ(meter.FreedSinceTrim(root_), std::nullopt);
  std::this_thread::sleep_for(milliseconds(20));
  EXPECT_EQ(asked_, 0);  // asleep
}

TEST_F(FreedMeterTest, FreedIsWhatCameBackSinceTheLowest) {
  FreedMeter meter(probe_, hours(1));
  meter.Trimmed(root_, "/");
  EXPECT_EQ(meter.FreedSinceTrim(root_), 0u);
  free_ = 400;  // written
  EXPECT_EQ(meter.FreedSinceTrim(root_), 0u);
  free_ = 900;  // and deleted
  EXPECT_EQ(meter.FreedSinceTrim(root_), 500u);
  free_ = 1000;
  EXPECT_EQ(meter.FreedSinceTrim(root_), 600u);
  meter.Trimmed(root_, "/");
  EXPECT_EQ(meter.FreedSinceTrim(root_), 0u);
}

TEST_F(FreedMeterTest, WhatWasFreedDuringTheTrimMayNotHaveBeenTrimmed) {
  FreedMeter meter(probe_, hours(1));
  root_.free_bytes = 700;  // as it began
  meter.Trimmed(root_, "/");
  EXPECT_EQ(meter.FreedSinceTrim(root_), 300u);
}

TEST_F(FreedMeterTest, ItLooksByItself) {
  FreedMeter meter(probe_, milliseconds(1));
  meter.Trimmed(root_, "/");
  free_ = 100;
  for (const int before = asked_; asked_ < before + 2;) std::this_thread::yield();
  free_ = 1000;
  EXPECT_EQ(meter.FreedSinceTrim(root_), 900u);
}

TEST_F(FreedMeterTest, AnotherFilesystemThereIsNotMistakenForIt) {
  FreedMeter meter(probe_, hours(1));
  meter.Trimmed(root_, "/");
  identity_ = 8;
  EXPECT_EQ(meter.FreedSinceTrim(root_), std::nullopt);
  identity_ = 7;
  EXPECT_EQ(meter.FreedSinceTrim(root_), std::nullopt);  // forgotten
  meter.Trimmed(root_, "/");
  mounted_ = false;
  EXPECT_EQ(meter.FreedSinceTrim(root_), std::nullopt);
}

TEST_F(FreedMeterTest, RealFilesystem) {
  const auto space = FreedMeter::StatfsProbe()("/");
  ASSERT_TRUE(space.has_value());
  EXPECT_LE(space->free_bytes, std::filesystem::space("/").capacity);
  EXPECT_EQ(FreedMeter::StatfsProbe()("/no/such/place"), std::nullopt);
}

}  // namespace
}  // namespace virt_reclaim::agent
