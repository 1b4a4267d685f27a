// Sizes in bytes, as people write and read them. 1 KiB = 1024 bytes. Pure; any thread.
#ifndef VIRT_RECLAIM_BASE_BYTE_SIZE_H_
#define VIRT_RECLAIM_BASE_BYTE_SIZE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace virt_reclaim {

inline constexpr uint64_t kKiB = uint64_t{1} << 10;
inline constexpr uint64_t kMiB = uint64_t{1} << 20;
inline constexpr uint64_t kGiB = uint64_t{1} << 30;

// Bytes of "4096", "64K", "64KiB", "1.5G" (powers of 1024, as util-linux's suffixes) or "64KB"
// (powers of 1000). InvalidArgument for anything else, negative numbers and what does not fit in 64
// bits.
absl::StatusOr<uint64_t> ParseByteSize(absl::string_view text);

// "0 B", "512 B", "9.8 GiB": at most four significant characters and a binary unit.
std::string FormatByteSize(uint64_t bytes);
// The same with a sign: "-1.0 MiB".
std::string FormatSignedByteSize(int64_t bytes);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_BASE_BYTE_SIZE_H_
