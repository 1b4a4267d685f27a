#include "host/sync/device_signature.h"

#include <blkid/blkid.h>

#include <type_traits>

#include "base/handle.h"

namespace virt_reclaim::sync {

absl::StatusOr<std::string> DeviceSignature(int fd) {
  const Handle<std::remove_pointer_t<blkid_probe>, blkid_free_probe> probe(blkid_new_probe());
  if (probe == nullptr || blkid_probe_set_device(probe.get(), fd, 0, 0) != 0 ||
      blkid_probe_enable_superblocks(probe.get(), 1) != 0 ||
      blkid_probe_set_superblocks_flags(probe.get(), BLKID_SUBLKS_TYPE) != 0 ||
      blkid_probe_enable_partitions(probe.get(), 1) != 0) {
    return absl::InternalError("cannot look for signatures");
  }
  constexpr int kAmbivalent = -2;
  constexpr int kNothing = 1;
  const int found = blkid_do_safeprobe(probe.get());
  if (found == kNothing) return "";
  if (found == kAmbivalent) return "several";
  if (found != 0) return absl::UnavailableError("cannot be read for signatures");
  for (const char* name : {"TYPE", "PTTYPE"}) {
    const char* value = nullptr;
    if (blkid_probe_lookup_value(probe.get(), name, &value, nullptr) == 0 && value != nullptr)
      return value;
  }
  return "unknown";
}

}  // namespace virt_reclaim::sync
