// Records of NTFS, and a whole volume of 64 KiB, made by hand for tests and the fuzzer.
#ifndef VIRT_RECLAIM_TESTS_UNIT_FREEMAP_NTFS_VOLUME_H_
#define VIRT_RECLAIM_TESTS_UNIT_FREEMAP_NTFS_VOLUME_H_

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <string>
#include <vector>

namespace virt_reclaim::freemap {

template <std::unsigned_integral T>
void Put(std::vector<uint8_t>& bytes, size_t at, T value) {
  for (size_t i = 0; i < sizeof(T); ++i)
    bytes[at + i] = static_cast<uint8_t>(uint64_t{value} >> (8 * i));
}

// A record with attributes as given, fixups applied as on disk.
inline std::vector<uint8_t> MakeRecord(uint32_t number,
                                       const std::vector<std::vector<uint8_t>>& attributes) {
  std::vector<uint8_t> record(1024);
  std::ranges::copy(std::string("FILE"), record.begin());
  Put<uint16_t>(record, 4, 48);
  Put<uint16_t>(record, 6, 3);
  Put<uint16_t>(record, 20, 56);
  Put<uint16_t>(record, 22, 1);
  Put<uint32_t>(record, 28, 1024);
  Put<uint32_t>(record, 44, number);
  size_t at = 56;
  for (const auto& attribute : attributes) {
    std::ranges::copy(attribute, record.begin() + static_cast<ptrdiff_t>(at));
    at += attribute.size();
  }
  Put<uint32_t>(record, at, 0xffffffff);
  Put<uint32_t>(record, 24, static_cast<uint32_t>(at + 8));
  Put<uint16_t>(record, 48, 0x1234);
  for (size_t block = 0; block < 2; ++block) {
    const size_t end = block * 512 + 510;
    record[50 + 2 * block] = record[end];
    record[51 + 2 * block] = record[end + 1];
    Put<uint16_t>(record, end, 0x1234);
  }
  return record;
}

inline std::vector<uint8_t> Resident(uint32_t type, const std::vector<uint8_t>& value) {
  std::vector<uint8_t> attribute((24 + value.size() + 7) / 8 * 8);
  Put<uint32_t>(attribute, 0, type);
  Put<uint32_t>(attribute, 4, static_cast<uint32_t>(attribute.size()));
  Put<uint32_t>(attribute, 16, static_cast<uint32_t>(value.size()));
  Put<uint16_t>(attribute, 20, 24);
  std::ranges::copy(value, attribute.begin() + 24);
  return attribute;
}

// `size`: of the data, in bytes; clusters of 512.
inline std::vector<uint8_t> WithRuns(uint32_t type, uint64_t clusters, uint64_t size,
                                     const std::vector<uint8_t>& pairs) {
  std::vector<uint8_t> attribute(64 + (pairs.size() + 7) / 8 * 8);
  Put<uint32_t>(attribute, 0, type);
  Put<uint32_t>(attribute, 4, static_cast<uint32_t>(attribute.size()));
  attribute[8] = 1;
  Put<uint64_t>(attribute, 24, clusters - 1);
  Put<uint16_t>(attribute, 32, 64);
  Put<uint64_t>(attribute, 40, clusters * 512);
  Put<uint64_t>(attribute, 48, size);
  Put<uint64_t>(attribute, 56, size);
  std::ranges::copy(pairs, attribute.begin() + 64);
  return attribute;
}

// 127 clusters of 512 bytes. In use: $Boot 0 to 15, $MFT 16 to 39, $MFTMirr 40 to 47, $LogFile
// (empty) 48 to 63, $Bitmap 64, a file 70 to 79.
inline std::vector<uint8_t> TinyNtfsVolume() {
  std::vector<uint8_t> volume(64 << 10);
  const auto place = [&volume](size_t cluster, const std::vector<uint8_t>& bytes) {
    std::ranges::copy(bytes, volume.begin() + static_cast<ptrdiff_t>(cluster * 512));
  };
  const auto run = [](uint8_t first, uint8_t count, uint64_t size) {
    return WithRuns(0x80, count, size, {0x11, count, first, 0});
  };
  std::vector<uint8_t> boot(512);
  std::ranges::copy(std::string("NTFS    "), boot.begin() + 3);
  Put<uint16_t>(boot, 11, 512);
  boot[13] = 1;
  Put<uint64_t>(boot, 40, 127);
  Put<uint64_t>(boot, 48, 16);
  Put<uint64_t>(boot, 56, 40);
  boot[64] = 0xf6;
  Put<uint16_t>(boot, 510, 0xaa55);
  place(0, boot);
  place(127, boot);
  std::vector<std::vector<uint8_t>> records(12);
  for (uint32_t i = 0; i < 12; ++i) records[i] = MakeRecord(i, {});
  records[0] =
      MakeRecord(0, {run(16, 24, 12 * 1024), Resident(0xb0, {0xff, 0x0f, 0, 0, 0, 0, 0, 0})});
  records[1] = MakeRecord(1, {run(40, 8, 4096)});
  records[2] = MakeRecord(2, {run(48, 16, 8192)});
  records[3] = MakeRecord(3, {Resident(0x70, {0, 0, 0, 0, 0, 0, 0, 0, 3, 1, 0, 0})});
  records[6] = MakeRecord(6, {run(64, 1, 16)});
  records[7] = MakeRecord(7, {run(0, 16, 8192)});
  records[11] = MakeRecord(11, {run(70, 10, 5000)});
  for (size_t i = 0; i < 12; ++i) place(16 + 2 * i, records[i]);
  for (size_t i = 0; i < 4; ++i) place(40 + 2 * i, records[i]);
  std::fill_n(volume.begin() + 48 * 512, 16 * 512, uint8_t{0xff});
  place(64, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xc1, 0xff, 0, 0, 0, 0, 0, 0x80});
  return volume;
}

}  // namespace virt_reclaim::freemap

#endif  // VIRT_RECLAIM_TESTS_UNIT_FREEMAP_NTFS_VOLUME_H_
