// Small volumes of 64 KiB for the fuzzers to change: what has checksums and magics no fuzzer
// guesses.
#ifndef VIRT_RECLAIM_TESTS_FUZZ_FREEMAP_VOLUMES_H_
#define VIRT_RECLAIM_TESTS_FUZZ_FREEMAP_VOLUMES_H_

#include <algorithm>
#include <bit>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/unit/freemap_ntfs_volume.h"

namespace virt_reclaim::freemap {

inline constexpr size_t kVolumeBytes = 64 << 10;

inline void PutText(std::vector<uint8_t>& bytes, size_t at, const std::string& text) {
  std::ranges::copy(text, bytes.begin() + static_cast<ptrdiff_t>(at));
}

// FAT12: a file of two clusters, and a directory with a file of one.
inline std::vector<uint8_t> TinyFatVolume() {
  std::vector<uint8_t> volume(kVolumeBytes);
  Put<uint16_t>(volume, 11, 512);
  volume[13] = 1;
  Put<uint16_t>(volume, 14, 1);
  volume[16] = 1;
  Put<uint16_t>(volume, 17, 16);
  Put<uint16_t>(volume, 19, 128);
  volume[21] = 0xf8;
  Put<uint16_t>(volume, 22, 1);
  Put<uint16_t>(volume, 510, 0xaa55);
  constexpr uint8_t kTable[] = {0xf8, 0xff, 0xff, 0xff, 0x4f, 0x00, 0xff, 0xff, 0xff};
  std::ranges::copy(kTable, volume.begin() + 512);
  const auto entry = [&volume](size_t at, const char* name, uint8_t kind, uint8_t first,
                               uint8_t size) {
    PutText(volume, at, name);
    volume[at + 11] = kind;
    volume[at + 26] = first;
    volume[at + 28] = size;
  };
  entry(1024, "SUB        ", 0x10, 2, 0);
  entry(1056, "FILE       ", 0x20, 3, 200);
  entry(1536, ".          ", 0x10, 2, 0);
  entry(1568, "OTHER      ", 0x20, 5, 9);
  return volume;
}

// exFAT: a bitmap, an up-case table of one byte, and a file; its boot regions still want MendExfat.
inline std::vector<uint8_t> TinyExfatVolume() {
  std::vector<uint8_t> volume(kVolumeBytes);
  PutText(volume, 0,
          "\xeb\x76\x90"
          "EXFAT   ");
  Put<uint64_t>(volume, 72, 128);
  Put<uint32_t>(volume, 80, 24);
  Put<uint32_t>(volume, 84, 1);
  Put<uint32_t>(volume, 88, 25);
  Put<uint32_t>(volume, 92, 100);
  Put<uint32_t>(volume, 96, 4);
  Put<uint16_t>(volume, 104, 256);
  volume[108] = 9;
  volume[110] = 1;
  Put<uint16_t>(volume, 510, 0xaa55);
  const size_t table = 24 * 512;
  Put<uint32_t>(volume, table, 0xfffffff8);
  for (size_t i = 1; i < 6; ++i) Put<uint32_t>(volume, table + 4 * i, 0xffffffff);
  const size_t heap = 25 * 512;
  volume[heap] = 0x0f;        // the bitmap: clusters 2 to 5
  volume[heap + 512] = 0x41;  // the up-case table
  const auto entry = [&volume](size_t at, uint8_t type, uint32_t first, uint64_t bytes) {
    volume[at] = type;
    Put(volume, at + 20, first);
    Put(volume, at + 24, bytes);
  };
  const size_t root = heap + size_t{2} * 512;
  entry(root, 0x81, 2, 13);
  entry(root + 32, 0x82, 3, 1);
  volume[root + 36] = 0x41;
  const size_t file = root + 64;
  volume[file] = 0x85;
  volume[file + 1] = 2;
  entry(file + 32, 0xc0, 5, 100);
  volume[file + 33] = 1;
  volume[file + 64] = 0xc1;
  uint16_t sum = 0;
  for (size_t i = 0; i < 96; ++i) {
    if (i != 2 && i != 3) sum = static_cast<uint16_t>(std::rotr(sum, 1) + volume[file + i]);
  }
  Put(volume, file + 2, sum);
  return volume;
}

inline void MendExfat(std::vector<uint8_t>& volume) {
  constexpr size_t kRegion = size_t{12} * 512;
  uint32_t sum = 0;
  for (size_t at = 0; at < kRegion - 512; ++at) {
    if (at != 106 && at != 107 && at != 112) sum = std::rotr(sum, 1) + volume[at];
  }
  for (size_t at = kRegion - 512; at < kRegion; at += 4) Put(volume, at, sum);
  std::copy_n(volume.begin(), kRegion, volume.begin() + kRegion);
}

}  // namespace virt_reclaim::freemap

#endif  // VIRT_RECLAIM_TESTS_FUZZ_FREEMAP_VOLUMES_H_
