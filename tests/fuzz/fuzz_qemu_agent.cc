// Any bytes as qemu-guest-agent's answers: they are taken or refused, and what is taken is bounded
// and printable.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "host/services/qemu_guest_agent.h"

namespace virt_reclaim {
namespace {

void Expect(bool good) {
  if (!good) std::abort();
}

void ExpectPrintable(const std::string& text) {
  Expect(text.size() <= 4 * 4096 + 16);
  for (const char c : text) Expect(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
}

void Check(const std::vector<GuestFilesystem>& filesystems) {
  for (const GuestFilesystem& filesystem : filesystems) {
    ExpectPrintable(filesystem.source);
    ExpectPrintable(filesystem.type);
    for (const std::string& mount_point : filesystem.mount_points) ExpectPrintable(mount_point);
    for (const GuestDevice& device : filesystem.devices) {
      ExpectPrintable(device.name);
      ExpectPrintable(device.serial);
    }
    Expect(filesystem.used <= filesystem.size && filesystem.free <= filesystem.size);
  }
}

}  // namespace
}  // namespace virt_reclaim

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace virt_reclaim;
  // Two answers, with a NUL between them.
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t end = std::min(text.find('\0'), text.size());
  const auto filesystems = ParseFsInfo(text.substr(0, end));
  if (filesystems.ok()) Check(*filesystems);
  const auto trims = ParseFstrim(end < text.size() ? text.substr(end + 1) : text,
                                 filesystems.ok() ? *filesystems : std::vector<GuestFilesystem>());
  if (!trims.ok()) return 0;
  for (const GuestTrim& trim : *trims) {
    ExpectPrintable(trim.mount_point);
    ExpectPrintable(trim.error_name);
  }
  return 0;
}
