// Which blocks are zero. The memory may change while it is looked at (a mapping of a file that is
// written to): the answer is then one for no moment in particular, and whoever acts on it needs the
// guard or a comparison by the kernel. Any thread.
#ifndef VIRT_RECLAIM_HOST_PUNCH_ZERO_SCAN_H_
#define VIRT_RECLAIM_HOST_PUNCH_ZERO_SCAN_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/range.h"

namespace virt_reclaim::punch {

using ZeroTest = bool (*)(const unsigned char* data, size_t bytes);

// True when all bytes are zero; 0 bytes are. Any alignment.
bool IsZeroPortable(const unsigned char* data, size_t bytes);
// The same with AVX2; nullptr when this processor or this build has none.
ZeroTest Avx2ZeroTest();
// The fastest of them here, chosen once.
bool IsZero(const unsigned char* data, size_t bytes);

// Appends to `runs` the runs of blocks in `data` that are zero, as ranges of the file. `offset` is
// where in the file the data begins, a multiple of `unit_bytes`; a last block shorter than that
// counts as a block. Of a block that is not zero mostly one cache line is touched.
void FindZeroRuns(const unsigned char* data, size_t bytes, uint64_t offset, uint64_t unit_bytes,
                  std::vector<Range>& runs);

}  // namespace virt_reclaim::punch

#endif  // VIRT_RECLAIM_HOST_PUNCH_ZERO_SCAN_H_
