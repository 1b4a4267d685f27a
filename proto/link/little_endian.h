// Integers as the link's wire has them: little endian, unaligned. Pure; any thread.
#ifndef VIRT_RECLAIM_PROTO_LINK_LITTLE_ENDIAN_H_
#define VIRT_RECLAIM_PROTO_LINK_LITTLE_ENDIAN_H_

#include <concepts>
#include <cstddef>
#include <cstdint>

namespace virt_reclaim::link {

template <std::unsigned_integral T>
void PutLittleEndian(T value, uint8_t* out) {
  for (size_t i = 0; i < sizeof(T); ++i) out[i] = static_cast<uint8_t>(uint64_t{value} >> (8 * i));
}

template <std::unsigned_integral T>
T GetLittleEndian(const uint8_t* in) {
  uint64_t value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) value |= uint64_t{in[i]} << (8 * i);
  return static_cast<T>(value);
}

}  // namespace virt_reclaim::link

#endif  // VIRT_RECLAIM_PROTO_LINK_LITTLE_ENDIAN_H_
