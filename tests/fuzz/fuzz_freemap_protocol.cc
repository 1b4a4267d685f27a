// Any bytes as the worker's answer, in pieces of a size that the first byte chooses: no crash, no
// memory without bound, and what is believed keeps to the rules of protocol.h.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "host/freemap/protocol.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace virt_reclaim::freemap;
  constexpr uint64_t kDisk = uint64_t{1} << 30;
  if (size == 0) return 0;
  const size_t step = size_t{data[0]} + 1;
  ResultParser parser({kDisk, kDisk});
  for (size_t at = 1; at < size; at += step) {
    if (!parser.Feed({data + at, std::min(step, size - at)}).ok()) return 0;
  }
  const auto result = std::move(parser).Finish();
  if (!result.ok()) return 0;
  for (const FreeRuns& runs : result->runs) {
    uint64_t end = 0;
    for (const Extent& extent : runs.extents) {
      if (extent.offset < end || extent.length > kDisk - extent.offset) std::abort();
      end = extent.offset + extent.length;
    }
  }
  return 0;
}
