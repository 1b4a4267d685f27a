// Pieces of NTFS: fixups, runs, attributes. Whole volumes are in tests/freemap.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "host/freemap/ntfs_format.h"
#include "host/freemap/readers.h"
#include "host/freemap/refusal.h"
#include "tests/unit/freemap_memory_source.h"
#include "tests/unit/freemap_ntfs_volume.h"

namespace virt_reclaim::freemap {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<uint8_t> BootSector() {
  std::vector<uint8_t> boot(512);
  std::ranges::copy(std::string("NTFS    "), boot.begin() + 3);
  Put<uint16_t>(boot, 11, 512);
  boot[13] = 8;
  Put<uint64_t>(boot, 40, 2047);  // 1 MiB less the copy
  Put<uint64_t>(boot, 48, 4);
  Put<uint64_t>(boot, 56, 100);
  boot[64] = 0xf6;
  Put<uint64_t>(boot, 72, 0x0123456789abcdef);
  Put<uint16_t>(boot, 510, 0xaa55);
  return boot;
}

absl::StatusOr<NtfsGeometry> Read(const std::vector<uint8_t>& boot, FilesystemFacts& facts,
                                  size_t size = 1 << 20) {
  std::vector<uint8_t> bytes(size);
  std::ranges::copy(boot, bytes.begin());
  if (size == 1 << 20) std::ranges::copy(boot, bytes.end() - 512);
  return ReadNtfsBoot(MemorySource(bytes), facts);
}

TEST(FreemapNtfsTest, BootSector) {
  FilesystemFacts facts;
  const auto geometry = Read(BootSector(), facts);
  ASSERT_TRUE(geometry.ok()) << geometry.status();
  EXPECT_EQ(geometry->clusters, 255U);  // 2047 sectors are no whole number of clusters
  EXPECT_EQ(geometry->cluster_bytes, 4096U);
  EXPECT_EQ(geometry->record_bytes, 1024U);
  EXPECT_EQ(facts.uuid, "0123456789ABCDEF");
  EXPECT_EQ(facts.size_bytes, uint64_t{1} << 20);
}

TEST(FreemapNtfsTest, BootSectorsThatCannotBe) {
  struct Case {
    size_t at;
    uint8_t value;
    Refusal refusal;
  };
  for (const Case& c : {Case{3, 'M', Refusal::kDamaged},   Case{510, 0, Refusal::kDamaged},
                        Case{11, 1, Refusal::kDamaged},    Case{12, 32, Refusal::kDamaged},
                        Case{13, 0, Refusal::kDamaged},    Case{13, 3, Refusal::kDamaged},
                        Case{13, 0xf3, Refusal::kDamaged}, Case{13, 0xff, Refusal::kNone},
                        Case{16, 2, Refusal::kDamaged},    Case{32, 1, Refusal::kDamaged},
                        Case{41, 8, Refusal::kState},      Case{47, 0xff, Refusal::kDamaged},
                        Case{48, 0, Refusal::kDamaged},    Case{49, 1, Refusal::kDamaged},
                        Case{48, 100, Refusal::kDamaged},  Case{63, 1, Refusal::kDamaged},
                        Case{64, 0xf0, Refusal::kUnknown}, Case{64, 1, Refusal::kNone},
                        Case{64, 0x80, Refusal::kUnknown}, Case{28, 63, Refusal::kNone}}) {
    std::vector<uint8_t> boot = BootSector();
    boot[c.at] = c.value;
    FilesystemFacts facts;
    EXPECT_EQ(RefusalOf(Read(boot, facts).status()), c.refusal)
        << c.at << " " << int{c.value} << " " << Read(boot, facts).status();
  }
  FilesystemFacts facts;
  EXPECT_EQ(RefusalOf(Read(BootSector(), facts, (1 << 20) - 512).status()), Refusal::kState);
  EXPECT_THAT(std::string(Read(BootSector(), facts, 2 << 20).status().message()),
              HasSubstr("two boot sectors"));
}

TEST(FreemapNtfsTest, FixupsPutTheTrueBytesBack) {
  // 600 bytes of 0xee reach over the end of the first block.
  const auto record =
      NtfsRecord::Parse(MakeRecord(7, {Resident(0x80, std::vector<uint8_t>(600, 0xee))}), 7);
  ASSERT_TRUE(record.ok()) << record.status();
  const auto data = record->Find(NtfsType::kData);
  ASSERT_TRUE(data.ok() && data->has_value());
  EXPECT_EQ((*data)->value.size(), 600U);
  EXPECT_TRUE(std::ranges::all_of((*data)->value, [](uint8_t byte) { return byte == 0xee; }));
}

TEST(FreemapNtfsTest, RecordsThatCannotBe) {
  const std::vector<uint8_t> good = MakeRecord(7, {Resident(0x30, std::vector<uint8_t>(10, 1)),
                                                   Resident(0x80, std::vector<uint8_t>(20, 2))});
  const auto judge = [](const std::vector<uint8_t>& bytes) {
    const auto record = NtfsRecord::Parse(bytes, 7);
    if (!record.ok()) return record.status();
    return record->ForEach([](const NtfsAttribute&) { return absl::OkStatus(); });
  };
  ASSERT_TRUE(judge(good).ok());
  EXPECT_FALSE(NtfsRecord::Parse(good, 8).ok());
  struct Case {
    size_t at;
    uint16_t value;
  };
  // The magic; fixups: place, number, a block's end; sizes; attributes: order, length, value.
  for (const Case& c :
       {Case{0, 0x4142}, Case{4, 0},        Case{4, 49},   Case{4, 1000},   Case{6, 2},
        Case{6, 4},      Case{510, 0x1235}, Case{1022, 0}, Case{20, 1016},  Case{20, 50},
        Case{20, 60},    Case{24, 1032},    Case{24, 56},  Case{24, 121},   Case{28, 2048},
        Case{56, 0x90},  Case{60, 0},       Case{60, 8},   Case{60, 2000},  Case{60, 41},
        Case{64, 2},     Case{72, 50},      Case{76, 31},  Case{64, 0x0101}}) {
    std::vector<uint8_t> bytes = good;
    Put(bytes, c.at, c.value);
    EXPECT_EQ(RefusalOf(judge(bytes)), Refusal::kDamaged) << c.at << " " << c.value;
  }
}

absl::Status Decode(uint64_t clusters, const std::vector<uint8_t>& pairs,
                    std::vector<std::pair<int64_t, uint64_t>>& runs) {
  const auto record = NtfsRecord::Parse(MakeRecord(7, {WithRuns(0x80, clusters, 0, pairs)}), 7);
  if (!record.ok()) return record.status();
  const auto data = record->Find(NtfsType::kData);
  if (!data.ok()) return data.status();
  NtfsGeometry geometry;
  geometry.clusters = 1000;
  return DecodeNtfsRuns(**data, geometry, [&](const NtfsRun& run) {
    runs.emplace_back(run.cluster ? static_cast<int64_t>(*run.cluster) : -1, run.count);
    return absl::OkStatus();
  });
}

TEST(FreemapNtfsTest, Runs) {
  std::vector<std::pair<int64_t, uint64_t>> runs;
  // 16 at 512, a hole of 4, 2 at 512 - 12, 256 at 500 + 3.
  ASSERT_TRUE(Decode(278, {0x21, 16, 0, 2, 0x01, 4, 0x11, 2, 0xf4, 0x12, 0, 1, 3, 0}, runs).ok());
  EXPECT_THAT(runs, ElementsAre(std::pair{512, 16}, std::pair{-1, 4}, std::pair{500, 2},
                                std::pair{503, 256}));
  runs.clear();
  EXPECT_TRUE(Decode(0, {0}, runs).ok());
  EXPECT_TRUE(runs.empty());
}

TEST(FreemapNtfsTest, RunsThatCannotBe) {
  std::vector<std::pair<int64_t, uint64_t>> runs;
  const auto refused = [&](uint64_t clusters, const std::vector<uint8_t>& pairs) {
    EXPECT_EQ(RefusalOf(Decode(clusters, pairs, runs)), Refusal::kDamaged);
  };
  refused(16, {0x11, 15, 1, 0});                                   // too few
  refused(16, {0x11, 17, 1, 0});                                   // too many
  refused(16, {0x11, 16, 1, 0x11, 1, 1, 0});                       // one more
  refused(16, {0x21, 16, 0xd9, 3, 0});                             // 985 and 16: past the last
  refused(16, {0x11, 16, 0xff, 0});                                // before the first
  refused(16, {0x10, 1, 0});                                       // no length
  refused(16, {0x11, 0, 1, 0x11, 16, 1, 0});                       // empty
  refused(16, {0x19, 16, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0});           // nine bytes
  refused(16, {0x11, 8, 1, 0x11, 8, 1, 0x01, 4});                  // no end
  refused(8, {0x11, 8, 1, 0x82, 4, 1, 1, 1});                      // cut short
  refused(16, {0x81, 16, 1, 0, 0, 0, 0, 0, 0, 0x80, 0});           // far below zero
  refused(uint64_t{1} << 60, {0x08, 0, 0, 0, 0, 0, 0, 0, 16, 0});  // longer than any volume
}

absl::Status ReadVolume(const std::vector<uint8_t>& volume, std::vector<Extent>* runs = nullptr) {
  FilesystemFacts facts;
  FreeList free;
  const absl::Status status = ReadNtfs(MemorySource(volume), {}, facts, free);
  if (status.ok() && runs != nullptr) *runs = free.extents();
  return status;
}

TEST(FreemapNtfsTest, WholeVolume) {
  std::vector<Extent> runs;
  const absl::Status status = ReadVolume(TinyNtfsVolume(), &runs);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_THAT(runs, ElementsAre(Extent{65 * 512, 5 * 512}, Extent{80 * 512, 47 * 512}));
}

TEST(FreemapNtfsTest, VolumesThatCannotBe) {
  constexpr size_t kRecord = 1024;
  constexpr size_t kMft = 16 * 512;
  struct Case {
    size_t at;
    uint8_t value;
    const char* reason;
  };
  for (const Case& c : {Case{64 * 512 + 8, 0x3f, "a cluster it has is free"},
                        {64 * 512, 0xfe, "a cluster it has is free"},
                        {kMft + 11 * kRecord + 22, 0, ""},  // deleted: what it had stays in use
                        {kMft + 11 * kRecord, 'B', "is none"},
                        {kMft + 11 * kRecord + 510, 0, "half written"},
                        {kMft + 6 * kRecord + 22, 0, "not in use"},
                        {kMft + 9 * kRecord + 22, 0, "is deleted"},
                        {40 * 512 + 24, 0, "$MFTMirr"},
                        {48 * 512 + 5000, 0, "$LogFile is not empty"}}) {
    std::vector<uint8_t> volume = TinyNtfsVolume();
    volume[c.at] = c.value;
    const absl::Status status = ReadVolume(volume);
    EXPECT_EQ(status.ok(), *c.reason == 0) << c.at << " " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.reason));
  }
}

}  // namespace
}  // namespace virt_reclaim::freemap
