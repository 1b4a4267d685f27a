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

// Asks libblkid about all of `source`, which must have a window. FailedPrecondition when more than
// one signature is there (an old one was left, or this is not what it seems), DataLoss when the one
// has a bad checksum. Moves the file offset of the window's descriptor.
absl::StatusOr<Signature> ProbeSignature(const ByteSource& source);

}  // namespace virt_reclaim::freemap

#endif  // VIRT_RECLAIM_HOST_FREEMAP_SIGNATURES_H_
