#include "host/sparsify/opened_disks.h"

namespace virt_reclaim::sparsify {
namespace {

constexpr bool kOpenerWaits[] = {false, true};  // in the order of letting go

}  // namespace

OpenedDisks::~OpenedDisks() {
  for (const bool waits : kOpenerWaits) {
    for (auto& disk : disks_) {
      if (disk != nullptr && disk->OpenerWaits() == waits) disk.reset();
    }
  }
}

absl::Status OpenedDisks::Finish() {
  absl::Status first;
  for (const bool waits : kOpenerWaits) {
    for (const auto& disk : disks_) {
      if (disk->OpenerWaits() == waits) first.Update(disk->Finish());
    }
  }
  return first;
}

}  // namespace virt_reclaim::sparsify
