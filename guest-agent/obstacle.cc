#include "guest-agent/obstacle.h"

#include <cstring>

#include "absl/strings/str_cat.h"

namespace virt_reclaim::agent {

absl::string_view ObstacleName(Obstacle obstacle) {
  switch (obstacle) {
    case Obstacle::kNone:
      return "none";
    case Obstacle::kReadOnly:
      return "read-only";
    case Obstacle::kNoDevice:
      return "no-device";
    case Obstacle::kNetwork:
      return "network";
    case Obstacle::kLoop:
      return "loop";
    case Obstacle::kAutofs:
      return "autofs";
    case Obstacle::kTypeNotSupported:
      return "type-not-supported";
    case Obstacle::kDiskNotSupported:
      return "disk-not-supported";
    case Obstacle::kDmCrypt:
      return "dm-crypt";
    case Obstacle::kLayerNotSupported:
      return "layer-not-supported";
    case Obstacle::kPartial:
      return "partial";
  }
  return "unknown";
}

std::string DescribeObstacle(const Verdict& verdict) {
  const std::string device = verdict.device.empty() ? "" : absl::StrCat(" '", verdict.device, "'");
  switch (verdict.obstacle) {
    case Obstacle::kNone:
      return "nothing in the way";
    case Obstacle::kReadOnly:
      return "mounted read-only";
    case Obstacle::kNoDevice:
      return "no disk below it";
    case Obstacle::kNetwork:
      return "a network filesystem";
    case Obstacle::kLoop:
      return absl::StrCat("on loop device", device, ": trim the filesystem that holds its file");
    case Obstacle::kAutofs:
      return "an automount point, nothing mounted";
    case Obstacle::kTypeNotSupported:
      return "the filesystem type knows no trim";
    case Obstacle::kDiskNotSupported:
      return absl::StrCat("disk", device, " takes no discards");
    case Obstacle::kDmCrypt:
      return absl::StrCat("dm-crypt device", device, " does not allow discards");
    case Obstacle::kLayerNotSupported:
      return absl::StrCat("device", device, " does not pass discards to the devices below it");
    case Obstacle::kPartial:
      return absl::StrCat("device", device, " takes no discards, others below do");
  }
  return "unknown";
}

std::string ErrnoName(int error_number) {
  const char* name = strerrorname_np(error_number);
  return name != nullptr ? std::string(name) : absl::StrCat("errno ", error_number);
}

}  // namespace virt_reclaim::agent
