#include "xml-tools/targets.h"

#include <algorithm>

#include "absl/strings/match.h"

namespace virt_reclaim::xml {
namespace {

constexpr uint32_t kUnitsPerScsiController = 7;
constexpr uint32_t kLetters = 26;

}  // namespace

std::string BusOf(const Disk& disk) {
  if (!disk.bus.empty()) return disk.bus;
  if (absl::StartsWith(disk.target, "vd")) return "virtio";
  if (absl::StartsWith(disk.target, "sd")) return "scsi";
  if (absl::StartsWith(disk.target, "hd")) return "ide";
  if (absl::StartsWith(disk.target, "fd")) return "fdc";
  return "";
}

uint32_t IndexOfTarget(absl::string_view target) {
  uint32_t index = 0;
  for (const char c : target.substr(std::min<size_t>(2, target.size()))) {
    if (c < 'a' || c > 'z' || index > 1'000'000) break;
    index = index * kLetters + static_cast<uint32_t>(c - 'a') + 1;
  }
  return index == 0 ? 0 : index - 1;
}

std::string ScsiTarget(uint32_t index) {
  std::string letters;
  for (uint32_t rest = index + 1; rest > 0; rest = (rest - 1) / kLetters)
    letters.insert(letters.begin(), static_cast<char>('a' + (rest - 1) % kLetters));
  return "sd" + letters;
}

DriveAddress ScsiAddress(const Disk& disk) {
  if (disk.drive) return *disk.drive;
  const uint32_t index = IndexOfTarget(disk.target);
  return {index / kUnitsPerScsiController, 0, 0, index % kUnitsPerScsiController};
}

}  // namespace virt_reclaim::xml
