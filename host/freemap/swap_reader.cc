// Linux swap areas: everything but the first page is free while nobody swaps. virt-sparsify clears
// them so. Source: the kernel's include/linux/swap.h (union swap_header), kernel/power/swap.c.
#include <algorithm>
#include <vector>

#include "base/status.h"
#include "host/freemap/bytes.h"
#include "host/freemap/readers.h"
#include "host/freemap/refusal.h"

namespace virt_reclaim::freemap {
namespace {

constexpr uint64_t kLargestPage = 65536;
constexpr uint64_t kSmallestPage = 4096;
constexpr size_t kMagicBytes = 10;
constexpr uint64_t kInfo = 1024;  // behind the boot block

}  // namespace

absl::Status ReadSwap(const ByteSource& source, const ReadOptions& options, FilesystemFacts& facts,
                      FreeList& free) {
  const uint64_t head_bytes = std::min(kLargestPage, source.size());
  VR_ASSIGN_OR_RETURN(const std::vector<uint8_t> head, source.ReadBytes(0, head_bytes));
  uint64_t page = 0;
  // A hibernated system's image has another word in this place, and is not what this looks for.
  for (uint64_t tried = kSmallestPage; tried <= head.size(); tried *= 2) {
    if (!StartsWith(head, tried - kMagicBytes, "SWAPSPACE2", kMagicBytes)) continue;
    if (page != 0) return DamagedError("two swap headers");
    page = tried;
  }
  if (page == 0) return UnknownError("no swap area of a known version");
  if (LittleEndian<uint32_t>(head, kInfo) != 1) return UnknownError("an unknown swap version");
  facts.uuid = UuidText(head, kInfo + 12);
  facts.label = Text(head, kInfo + 28, 16);
  facts.block_bytes = page;
  const uint64_t last_page = LittleEndian<uint32_t>(head, kInfo + 4);
  facts.size_bytes = (last_page + 1) * page;
  if (facts.size_bytes > source.size()) return StateError("it is larger than what holds it");
  if (last_page == 0) return DamagedError("an empty swap area");
  if (!options.take_swap) return NotAskedError("swap is cleared only when asked for");
  if (options.strict) return UncheckedError("swap has no checksums");
  free.Add(page, facts.size_bytes - page);
  return absl::OkStatus();
}

}  // namespace virt_reclaim::freemap
