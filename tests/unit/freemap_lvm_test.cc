// LVM2's metadata: its text, what may be looked into, what is free; and where a volume's bytes lie.
#include <array>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "host/freemap/lvm_set.h"
#include "host/freemap/lvm_text.h"
#include "host/freemap/lvm_volume.h"
#include "host/freemap/refusal.h"
#include "tests/unit/freemap_memory_source.h"

namespace virt_reclaim::freemap {
namespace {

using ::testing::ElementsAre;
using ::testing::SizeIs;

std::string Group(const std::string& volumes, const std::string& more = "") {
  return absl::StrCat(R"(vg {
    id = "G" seqno = 4 format = "lvm2" status = ["RESIZEABLE", "READ", "WRITE"] flags = []
    extent_size = 8 max_lv = 0 # a remark }
    physical_volumes {
      pv0 { id = "a-b-c" device = "/dev/sd\"a" status = ["ALLOCATABLE"] flags = [] pe_start = 2048 pe_count = 100 }
      pv1 { id = "d" status = ["ALLOCATABLE"] flags = [] pe_start = 2048 pe_count = 50 } })",
                      more, " logical_volumes { ", volumes,
                      "} } contents = \"Text Format Volume Group\" version = 1");
}

std::string Volume(const std::string& name, const std::string& segments, int count = 1) {
  return absl::StrCat(
      name, R"( { id = "x" status = ["READ", "WRITE", "VISIBLE"] flags = [] segment_count = )",
      count, " ", segments, " } ");
}

std::string Linear(int number, int first, int count, const std::string& pv, int at) {
  return absl::StrCat("segment", number, " { start_extent = ", first, " extent_count = ", count,
                      " type = \"striped\" stripe_count = 1 stripes = [ \"", pv, "\", ", at,
                      " ] } ");
}

std::vector<std::string> FreePieces(const LvmGroup& group) {
  std::vector<std::string> found;
  for (const LvmPiece& piece : group.free)
    found.push_back(absl::StrCat(piece.pv, ":", piece.first, "+", piece.count));
  return found;
}

Refusal RefusalOfGroup(const std::string& text) { return RefusalOf(ReadLvmGroup(text).status()); }

TEST(FreemapLvmTest, ReadsAGroup) {
  const auto group = ReadLvmGroup(
      Group(Volume("root", Linear(1, 0, 10, "pv0", 5) + Linear(2, 10, 50, "pv1", 0), 2)));
  ASSERT_TRUE(group.ok()) << group.status();
  EXPECT_EQ(group->name, "vg");
  EXPECT_EQ(group->extent_bytes, 4096U);
  EXPECT_EQ(group->pvs[0].id, "abc");
  EXPECT_THAT(FreePieces(*group), ElementsAre("0:0+5", "0:15+85"));
  EXPECT_EQ(group->volumes[0].in_use, "");
  EXPECT_THAT(group->volumes[0].segments, SizeIs(2));
}

// An LV that another one stands on has bytes that are nobody's to judge: a snapshot's origin, a
// pool's data.
TEST(FreemapLvmTest, WhatOthersStandOnIsInUse) {
  const std::string text = Group(absl::StrCat(
      Volume("origin", Linear(1, 0, 10, "pv0", 0)), Volume("cow", Linear(1, 0, 5, "pv0", 10)),
      Volume("snap",
             "segment1 { start_extent = 0 extent_count = 10 type = \"snapshot\" chunk_size = 8 "
             "origin = \"origin\" cow_store = \"cow\" }"),
      Volume("free", Linear(1, 0, 5, "pv0", 20))));
  const auto group = ReadLvmGroup(text);
  ASSERT_TRUE(group.ok()) << group.status();
  std::vector<std::string> looked_into;
  for (const LvmVolume& volume : group->volumes) {
    if (volume.in_use.empty()) looked_into.push_back(volume.name);
  }
  EXPECT_THAT(looked_into, ElementsAre("free"));
  EXPECT_THAT(FreePieces(*group), ElementsAre("0:15+5", "0:25+75", "1:0+50"));
}

TEST(FreemapLvmTest, ExtentsOfAMirrorAreNotFree) {
  const auto group = ReadLvmGroup(Group(
      Volume("pvmove0",
             "segment1 { start_extent = 0 extent_count = 10 type = \"mirror\" mirror_count = 2 "
             "mirrors = [ \"pv0\", 10, \"pv1\", 45 ] }") +
      Volume("root",
             "segment1 { start_extent = 0 extent_count = 10 type = \"striped\" "
             "stripe_count = 1 stripes = [ \"pvmove0\", 0 ] }")));
  ASSERT_TRUE(group.ok()) << group.status();
  EXPECT_THAT(FreePieces(*group), ElementsAre("0:0+10", "0:20+80", "1:0+45"));
  for (const LvmVolume& volume : group->volumes) EXPECT_NE(volume.in_use, "") << volume.name;
}

TEST(FreemapLvmTest, RaidAndThinAreNotLookedInto) {
  const std::string hidden =
      absl::StrReplaceAll(Volume("pool_tdata", Linear(1, 0, 5, "pv0", 0)), {{", \"VISIBLE\"", ""}});
  const auto group = ReadLvmGroup(Group(
      hidden +
      Volume("pool",
             "segment1 { start_extent = 0 extent_count = 5 type = \"thin-pool\" metadata = \"m\" "
             "pool = \"pool_tdata\" }") +
      Volume("image", Linear(1, 0, 5, "pv0", 5)) +
      Volume("raid",
             "segment1 { start_extent = 0 extent_count = 5 type = \"raid1\" device_count = 2 "
             "raids = [ \"meta\", \"image\" ] }")));
  ASSERT_TRUE(group.ok()) << group.status();
  for (const LvmVolume& volume : group->volumes) EXPECT_NE(volume.in_use, "") << volume.name;
}

TEST(FreemapLvmTest, UnknownThingsRefuseTheGroup) {
  EXPECT_EQ(RefusalOfGroup(Group(
                Volume("a", "segment1 { start_extent = 0 extent_count = 5 type = \"future\" }"))),
            Refusal::kUnknown);
  EXPECT_EQ(RefusalOfGroup(Group("", " lock_type = \"sanlock\" ")), Refusal::kState);
  EXPECT_EQ(RefusalOfGroup(Group("", " future { a = 1 } ")), Refusal::kUnknown);
  const std::string good = Group(Volume("root", Linear(1, 0, 10, "pv0", 5)));
  ASSERT_EQ(RefusalOfGroup(good), Refusal::kNone);
  const auto with = [&](const char* from, const char* to) {
    return RefusalOfGroup(absl::StrReplaceAll(good, {{from, to}}));
  };
  EXPECT_EQ(with("[\"RESIZEABLE\"", "[\"EXPORTED\""), Refusal::kState);
  EXPECT_EQ(with("\"ALLOCATABLE\"] flags = []", "\"ALLOCATABLE\"] flags = [\"MISSING\"]"),
            Refusal::kState);
  EXPECT_EQ(with("\"lvm2\"", "\"lvm1\""), Refusal::kUnknown);
  EXPECT_EQ(with("Text Format", "Text  Format"), Refusal::kUnknown);
  EXPECT_EQ(with("version = 1", "version = 2"), Refusal::kUnknown);
  EXPECT_EQ(with("extent_size = 8", "extent_size = 0"), Refusal::kDamaged);
  EXPECT_EQ(with("extent_size = 8", "extent_size = -8"), Refusal::kDamaged);
}

TEST(FreemapLvmTest, ContradictionsRefuseTheGroup) {
  const auto refusal = [](const std::string& volumes) { return RefusalOfGroup(Group(volumes)); };
  const auto damaged = Refusal::kDamaged;
  EXPECT_EQ(refusal(Volume("a", Linear(1, 0, 10, "pv0", 91))), damaged);
  EXPECT_EQ(
      refusal(Volume("a", Linear(1, 0, 10, "pv0", 0)) + Volume("b", Linear(1, 0, 5, "pv0", 9))),
      damaged);
  EXPECT_EQ(refusal(Volume("a", Linear(1, 1, 10, "pv0", 0))), damaged);
  EXPECT_EQ(refusal(Volume("a", Linear(1, 0, 10, "pv0", 0), 2)), damaged);
  EXPECT_EQ(refusal(Volume("a", Linear(1, 0, 0, "pv0", 0))), damaged);
  EXPECT_EQ(refusal(Volume("a", Linear(1, 0, 10, "pv0", -1))), damaged);
}

TEST(FreemapLvmTest, WhatIsNoText) {
  for (const char* text : {"{", "}", "a", "a =", "a = [", "a = [1", "a = [1 2]", "a = \"x", "a {",
                           "= 1", "a = b", "a = \"\\", "a = 99999999999999999999"}) {
    EXPECT_EQ(RefusalOf(ParseLvmText(text).status()), Refusal::kDamaged) << text;
  }
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += "a {";
  EXPECT_EQ(RefusalOf(ParseLvmText(deep).status()), Refusal::kTooLarge);
  std::string wide;
  for (int i = 0; i < 300'000; ++i) wide += "a=1 ";
  EXPECT_EQ(RefusalOf(ParseLvmText(wide).status()), Refusal::kTooLarge);
}

// Each byte of a striped volume, by division; the same by reading and by mapping runs of all
// lengths.
TEST(FreemapLvmTest, StripesLieWhereTheySay) {
  LvmGroup group;
  group.extent_bytes = 64;
  group.pvs = {{"a", 8, 100}, {"b", 16, 100}, {"c", 0, 100}};
  LvmVolume volume;
  volume.segments = {{0, 6, 16, {{0, 3, 2}, {1, 1, 2}, {2, 5, 2}}}, {6, 2, 0, {{1, 10, 2}}}};
  std::vector<std::vector<uint8_t>> bytes(3, std::vector<uint8_t>(8192));
  std::vector<std::pair<size_t, uint64_t>> place;
  for (uint64_t at = 0; at < 8 * 64; ++at) {
    const uint64_t chunk = at / 16;
    if (at < 6 * 64) {
      const size_t pv = chunk % 3;
      const uint64_t first = std::array<uint64_t, 3>{8 + 3 * 64, 16 + 64, 5 * 64}[pv];
      place.emplace_back(pv, first + chunk / 3 * 16 + at % 16);
    } else {
      place.emplace_back(1, 16 + 10 * 64 + at - 6 * 64);
    }
    bytes[place[at].first][place[at].second] = static_cast<uint8_t>(at * 7);
  }
  const MemorySource a(bytes[0]);
  const MemorySource b(bytes[1]);
  const MemorySource c(bytes[2]);
  const LvmVolumeSource source(group, volume, {&a, &b, &c});
  ASSERT_EQ(source.size(), place.size());
  EXPECT_FALSE(source.window());
  EXPECT_FALSE(source.ReadBytes(0, place.size() + 1).ok());
  for (uint64_t begin = 0; begin < place.size(); begin += 5) {
    for (uint64_t end = begin; end <= place.size(); end += 3) {
      const auto read = source.ReadBytes(begin, end - begin);
      ASSERT_TRUE(read.ok());
      std::set<std::pair<size_t, uint64_t>> mapped;
      source.Map({begin, end - begin}, [&](size_t pv, const Extent& extent) {
        for (uint64_t i = 0; i < extent.length; ++i) mapped.emplace(pv, extent.offset + i);
      });
      std::set<std::pair<size_t, uint64_t>> wanted;
      for (uint64_t at = begin; at < end; ++at) {
        ASSERT_EQ((*read)[at - begin], static_cast<uint8_t>(at * 7)) << at;
        wanted.insert(place[at]);
      }
      ASSERT_EQ(mapped, wanted) << begin << " " << end;
    }
  }
}

}  // namespace
}  // namespace virt_reclaim::freemap
