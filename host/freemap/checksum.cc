#include "host/freemap/checksum.h"

#include <array>

namespace virt_reclaim::freemap {
namespace {

// Eight tables: eight bytes a step (Intel's "slicing by 8").
using Tables = std::array<std::array<uint32_t, 256>, 8>;

constexpr Tables MakeTables(uint32_t polynomial) {
  Tables tables = {};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ ((value & 1) != 0 ? polynomial : 0);
    tables[0][i] = value;
  }
  for (size_t t = 1; t < 8; ++t) {
    for (size_t i = 0; i < 256; ++i)
      tables[t][i] = tables[t - 1][i] >> 8 ^ tables[0][tables[t - 1][i] & 0xff];
  }
  return tables;
}

constexpr Tables kCastagnoli = MakeTables(0x82f63b78);
constexpr Tables kIeee = MakeTables(0xedb88320);

uint32_t Crc(const Tables& tables, Bytes bytes, uint32_t crc) {
  while (bytes.size() >= 8) {
    const uint32_t low = LittleEndian<uint32_t>(bytes, 0) ^ crc;
    crc = tables[7][low & 0xff] ^ tables[6][low >> 8 & 0xff] ^ tables[5][low >> 16 & 0xff] ^
          tables[4][low >> 24] ^ tables[3][bytes[4]] ^ tables[2][bytes[5]] ^ tables[1][bytes[6]] ^
          tables[0][bytes[7]];
    bytes = bytes.subspan(8);
  }
  for (const uint8_t byte : bytes) crc = crc >> 8 ^ tables[0][(crc ^ byte) & 0xff];
  return crc;
}

}  // namespace

uint32_t Crc32c(Bytes bytes, uint32_t before) { return ~Crc(kCastagnoli, bytes, ~before); }

uint32_t Crc32(Bytes bytes, uint32_t before) { return ~Crc(kIeee, bytes, ~before); }

uint32_t LvmCrc(Bytes bytes, uint32_t before) { return Crc(kIeee, bytes, before); }

uint32_t Crc32cWithout(Bytes bytes, size_t field) {
  constexpr std::array<uint8_t, 4> kZeros = {};
  uint32_t crc = Crc32c(Part(bytes, 0, field));
  crc = Crc32c(kZeros, crc);
  return Crc32c(Part(bytes, field + 4, bytes.size() - field - 4), crc);
}

}  // namespace virt_reclaim::freemap
