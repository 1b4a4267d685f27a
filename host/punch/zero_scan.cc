#include "host/punch/zero_scan.h"

#include <algorithm>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace virt_reclaim::punch {
namespace {

#if defined(__x86_64__)
__attribute__((target("avx2"))) bool IsZeroAvx2(const unsigned char* data, size_t bytes) {
  constexpr size_t kStep = 8 * sizeof(__m256i);
  size_t at = 0;
  for (; at + kStep <= bytes; at += kStep) {
    const auto* vectors = reinterpret_cast<const __m256i*>(data + at);
    __m256i any = _mm256_loadu_si256(vectors);
    for (int i = 1; i < 8; ++i) any = _mm256_or_si256(any, _mm256_loadu_si256(vectors + i));
    if (_mm256_testz_si256(any, any) == 0) return false;
  }
  return IsZeroPortable(data + at, bytes - at);
}
#endif

ZeroTest FastestTest() {
  const ZeroTest avx2 = Avx2ZeroTest();
  return avx2 != nullptr ? avx2 : IsZeroPortable;
}

// Before the whole block is read: most blocks with data say so in their first bytes.
bool StartsWithZeros(const unsigned char* data, size_t bytes) {
  uint64_t first = 0;
  memcpy(&first, data, std::min(bytes, sizeof first));
  return first == 0;
}

}  // namespace

bool IsZeroPortable(const unsigned char* data, size_t bytes) {
  // A run whose first 16 bytes are zero and which equals itself 16 bytes on is zero; memcmp of the
  // C library is vectorised everywhere.
  constexpr size_t kHead = 16;
  for (size_t i = 0; i < std::min(bytes, kHead); ++i) {
    if (data[i] != 0) return false;
  }
  return bytes <= kHead || memcmp(data, data + kHead, bytes - kHead) == 0;
}

ZeroTest Avx2ZeroTest() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") != 0) return IsZeroAvx2;
#endif
  return nullptr;
}

bool IsZero(const unsigned char* data, size_t bytes) {
  static const ZeroTest test = FastestTest();
  return test(data, bytes);
}

void FindZeroRuns(const unsigned char* data, size_t bytes, uint64_t offset, uint64_t unit_bytes,
                  std::vector<Range>& runs) {
  for (size_t at = 0; at < bytes;) {
    const size_t block = static_cast<size_t>(std::min<uint64_t>(unit_bytes, bytes - at));
    if (StartsWithZeros(data + at, block) && IsZero(data + at, block))
      AppendJoined(runs, {offset + at, offset + at + block});
    at += block;
  }
}

}  // namespace virt_reclaim::punch
