#include "host/freemap/fat_clusters.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "host/freemap/bytes.h"
#include "host/freemap/refusal.h"

namespace virt_reclaim::freemap {
namespace {

constexpr uint64_t kWindow = 64 << 10;  // all of a FAT12

struct Width {
  uint32_t bits;
  uint32_t mask;
};

Width WidthOf(FatKind kind) {
  switch (kind) {
    case FatKind::k12:
      return {12, 0xfff};
    case FatKind::k16:
      return {16, 0xffff};
    case FatKind::k32:
      return {32, 0x0fffffff};
    case FatKind::kExfat:
      break;
  }
  return {32, 0xffffffff};
}

}  // namespace

uint64_t FatTable::entries() const { return bytes_ * 8 / WidthOf(kind_).bits; }

absl::StatusOr<uint32_t> FatTable::Raw(uint32_t index) {
  const auto [bits, mask] = WidthOf(kind_);
  if (index >= entries()) return DamagedError("the FAT is too short");
  const uint64_t at = uint64_t{index} * bits / 8;
  const uint64_t window = at / kWindow * kWindow;
  if (window_.empty() || window != window_at_) {
    VR_ASSIGN_OR_RETURN(window_,
                        source_.ReadBytes(offset_ + window, std::min(kWindow, bytes_ - window)));
    window_at_ = window;
  }
  const size_t here = at - window;
  if (bits == 32) return LittleEndian<uint32_t>(window_, here) & mask;
  if (bits == 16) return LittleEndian<uint16_t>(window_, here);
  // Two of them in three bytes.
  if (here + 2 > window_.size()) return DamagedError("the FAT is too short");
  const uint32_t pair = LittleEndian<uint16_t>(window_, here);
  return index % 2 == 0 ? pair & mask : pair >> 4;
}

absl::StatusOr<uint32_t> FatTable::Get(uint32_t index) {
  VR_ASSIGN_OR_RETURN(const uint32_t value, Raw(index));
  const uint32_t mask = WidthOf(kind_).mask;
  if (value < (mask & ~0xfU)) return value;
  if (value == mask - 8) return kFatBad;
  if (value == mask || (value > mask - 8 && kind_ != FatKind::kExfat)) return kFatEnd;
  return kFatReserved;
}

absl::Status FollowChain(FatTable& table, const ClusterHeap& heap, uint32_t first, uint64_t most,
                         const std::function<absl::Status(uint32_t)>& visit) {
  for (uint32_t cluster = first; cluster != kFatEnd;) {
    if (!heap.Has(cluster)) return DamagedError("a chain of clusters leads nowhere");
    if (most-- == 0) return DamagedError("a chain of clusters is too long");
    VR_RETURN_IF_ERROR(visit(cluster));
    VR_ASSIGN_OR_RETURN(cluster, table.Get(cluster));
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> ClusterWalk::Chain(uint32_t first,
                                            const std::function<absl::Status(uint32_t)>& visit) {
  uint64_t count = 0;
  uint32_t begin = first;
  uint32_t length = 0;
  const absl::Status followed =
      FollowChain(table_, heap_, first, left_, [&](uint32_t cluster) -> absl::Status {
        if (cluster - begin != length) {
          VR_RETURN_IF_ERROR(CheckUsed(begin, length));
          begin = cluster;
          length = 0;
        }
        ++length;
        ++count;
        return visit ? visit(cluster) : absl::OkStatus();
      });
  VR_RETURN_IF_ERROR(followed);
  VR_RETURN_IF_ERROR(CheckUsed(begin, length));
  left_ -= count;
  return count;
}

absl::Status ClusterWalk::CheckUsed(uint32_t first, uint64_t count) const {
  if (!free_.Touches(heap_.ByteOf(first), count * heap_.cluster_bytes)) return absl::OkStatus();
  return DamagedError(
      absl::StrCat("of ", count, " clusters from ", first, " some are free and in use"));
}

absl::Status ClusterWalk::Run(uint32_t first, uint64_t count) {
  if (count == 0) return absl::OkStatus();
  if (!heap_.Has(first) || count > heap_.count - (first - 2))
    return DamagedError("a run of clusters leads outside");
  if (count > left_) return DamagedError("more clusters in use than there are");
  left_ -= count;
  return CheckUsed(first, count);
}

}  // namespace virt_reclaim::freemap
