// Integers and texts out of a buffer of hostile bytes. Past the end is a failed check, never a
// read: whoever loads has measured the buffer before, and a bug in that ends the worker. Pure.
#ifndef VIRT_RECLAIM_HOST_FREEMAP_BYTES_H_
#define VIRT_RECLAIM_HOST_FREEMAP_BYTES_H_

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>

#include "absl/strings/str_format.h"

namespace virt_reclaim::freemap {

using Bytes = std::span<const uint8_t>;

inline Bytes Part(Bytes bytes, size_t offset, size_t count) {
  if (offset > bytes.size() || count > bytes.size() - offset) std::abort();
  return bytes.subspan(offset, count);
}

template <std::unsigned_integral T>
T BigEndian(Bytes bytes, size_t offset) {
  uint64_t value = 0;
  for (const uint8_t byte : Part(bytes, offset, sizeof(T))) value = value << 8 | byte;
  return static_cast<T>(value);
}

template <std::unsigned_integral T>
T LittleEndian(Bytes bytes, size_t offset) {
  const Bytes part = Part(bytes, offset, sizeof(T));
  uint64_t value = 0;
  for (size_t i = sizeof(T); i > 0; --i) value = value << 8 | part[i - 1];
  return static_cast<T>(value);
}

inline bool Equal(Bytes a, Bytes b) { return std::ranges::equal(a, b); }

inline bool StartsWith(Bytes bytes, size_t offset, const char* magic, size_t count) {
  return Equal(Part(bytes, offset, count), {reinterpret_cast<const uint8_t*>(magic), count});
}

inline bool AllZero(Bytes bytes) {
  return std::ranges::all_of(bytes, [](uint8_t byte) { return byte == 0; });
}

// Up to the first NUL: a label. Not made printable here.
inline std::string Text(Bytes bytes, size_t offset, size_t count) {
  const Bytes part = Part(bytes, offset, count);
  return {part.begin(), std::ranges::find(part, uint8_t{0})};
}

// 16 bytes as 8-4-4-4-12, in the order they have on disk.
inline std::string UuidText(Bytes bytes, size_t offset) {
  std::string text;
  for (const uint8_t byte : Part(bytes, offset, 16)) {
    if (text.size() == 8 || text.size() == 13 || text.size() == 18 || text.size() == 23)
      text += '-';
    absl::StrAppendFormat(&text, "%02x", byte);
  }
  return text;
}

}  // namespace virt_reclaim::freemap

#endif  // VIRT_RECLAIM_HOST_FREEMAP_BYTES_H_
