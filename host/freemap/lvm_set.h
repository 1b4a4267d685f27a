// Physical volumes put together to volume groups, and logical volumes as sources of bytes.
#ifndef VIRT_RECLAIM_HOST_FREEMAP_LVM_SET_H_
#define VIRT_RECLAIM_HOST_FREEMAP_LVM_SET_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "host/freemap/byte_source.h"
#include "host/freemap/free_list.h"
#include "host/freemap/lvm_volume.h"

namespace virt_reclaim::freemap {

// A volume group of which every physical volume is at hand, or why it is left alone.
struct LvmSet {
  absl::Status status;
  LvmGroup group;
  std::vector<size_t>
      pvs;  // for each of group.pvs the index of its source; if refused: those concerned
};

// Sorts `sources`, each a physical volume by its signature, into groups. Every source is in exactly
// one set. A group is refused as a whole when a volume of it is missing, double or damaged, or when
// two tell different stories.
std::vector<LvmSet> AssembleLvm(std::span<const ByteSource* const> sources);

// A linear or striped logical volume. Borrows the group and the sources.
class LvmVolumeSource final : public ByteSource {
 public:
  // `sources`: one for each of group.pvs.
  LvmVolumeSource(const LvmGroup& group, const LvmVolume& volume,
                  std::vector<const ByteSource*> sources);
  uint64_t size() const override { return size_; }
  absl::Status Read(uint64_t offset, std::span<uint8_t> out) const override;
  std::optional<Window> window() const override;

  // Where a run of the volume lies: calls `take` with the index of a physical volume and a run on
  // it, for each stripe of each segment once.
  void Map(const Extent& run, const std::function<void(size_t, const Extent&)>& take) const;

 private:
  struct Segment {
    uint64_t offset = 0;  // bytes, in the volume
    uint64_t length = 0;
    uint64_t stripe_bytes = 0;
    struct Stripe {
      size_t pv = 0;
      uint64_t offset = 0;  // bytes, on it
    };
    std::vector<Stripe> stripes;
  };
  // How many of the segment's first `position` bytes lie on stripe `index`.
  static uint64_t OnStripe(const Segment& segment, size_t index, uint64_t position);

  std::vector<const ByteSource*> sources_;
  std::vector<Segment> segments_;
  uint64_t size_ = 0;
};

// Where a physical extent begins, bytes on its volume.
inline uint64_t LvmByteOf(const LvmGroup& group, size_t pv, uint64_t extent) {
  return group.pvs[pv].start + extent * group.extent_bytes;
}

}  // namespace virt_reclaim::freemap

#endif  // VIRT_RECLAIM_HOST_FREEMAP_LVM_SET_H_
