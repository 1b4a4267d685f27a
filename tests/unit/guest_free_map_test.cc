// A guest's free map as the host takes it: places on a disk, or nothing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/services/guest_preflight_proto.h"

namespace virt_reclaim {
namespace {

using testing::ElementsAre;

agent::v1::ReadFreeMapResponse Response(const std::vector<uint64_t>& gaps,
                                        const std::vector<uint64_t>& lengths) {
  agent::v1::ReadFreeMapResponse response;
  response.set_disk("vda\x1b");
  for (const uint64_t gap : gaps) response.add_gap_sectors(gap);
  for (const uint64_t length : lengths) response.add_length_sectors(length);
  return response;
}

TEST(GuestFreeMap, RunsAreCountedFromTheEndOfTheOneBefore) {
  const GuestFreeMap map = FromProto(Response({2048, 8}, {16, 4})).value();
  EXPECT_EQ(map.disk, "vda\\x1b");
  EXPECT_THAT(map.runs, ElementsAre(Range{2048 * 512, 2064 * 512}, Range{2072 * 512, 2076 * 512}));
}

TEST(GuestFreeMap, WhatCannotBeIsRefused) {
  constexpr uint64_t kHuge = UINT64_MAX / 512;
  EXPECT_TRUE(FromProto(Response({}, {})).ok());
  EXPECT_FALSE(FromProto(Response({1}, {})).ok());
  EXPECT_FALSE(FromProto(Response({}, {1})).ok());
  EXPECT_FALSE(FromProto(Response({0}, {0})).ok());
  EXPECT_FALSE(FromProto(Response({UINT64_MAX}, {1})).ok());
  EXPECT_FALSE(FromProto(Response({0}, {UINT64_MAX})).ok());
  EXPECT_FALSE(
      FromProto(Response({kHuge / 4, kHuge / 4, kHuge / 4}, {kHuge / 4, kHuge / 4, 1})).ok());
  const std::vector<uint64_t> many(65537, 1);
  EXPECT_FALSE(FromProto(Response(many, many)).ok());
}

}  // namespace
}  // namespace virt_reclaim
