// What lies here? libblkid's answer, from a descriptor. The only file that knows libblkid.
#ifndef VIRT_RECLAIM_HOST_FREEMAP_SIGNATURES_H_
#define VIRT_RECLAIM_HOST_FREEMAP_SIGNATURES_H_

#include <string>

#include "absl/status/statusor.h"
#include "host/freemap/byte_source.h"

namespace virt_reclaim::freemap {

struct Signature {
  std::string type;   // "ext4", "LVM2_member", "crypto_LUKS"; empty: none found
  std::string table;  // "dos", "gpt"; empty: no partition table
};

// A memory file of this size, filled with the beginning and the end of what has no window, for
// libblkid.
inline constexpr uint64_t kScratchBytes = uint64_t{5} << 20;

// Asks libblkid about all of `source`. Without a window its first 3 and its last MiB are copied to
// `scratch` (of kScratchBytes; negative: then it is refused); libblkid finds less there than in the
// whole, of which a GPT, NTFS, members of RAIDs and what is too large for a copy (ZFS, JFS, GFS2)
// are then looked for besides. FailedPrecondition when more than one signature is there (an old one
// was left, or this is not what it seems), DataLoss when the one has a bad checksum. Moves the file
// offset of the descriptor it reads.
absl::StatusOr<Signature> ProbeSignature(const ByteSource& source, int scratch);

}  // namespace virt_reclaim::freemap

#endif  // VIRT_RECLAIM_HOST_FREEMAP_SIGNATURES_H_
