// May discards be switched on for the disk with this image, and what is to be known before? Pure.
#ifndef VIRT_RECLAIM_HOST_MODEL_IMAGE_JUDGE_H_
#define VIRT_RECLAIM_HOST_MODEL_IMAGE_JUDGE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/byte_size.h"
#include "host/model/facts.h"
#include "host/model/reason.h"

namespace virt_reclaim {

// QEMU's default, and LVM's for a thin pool. A guest seldom frees much in larger runs.
inline constexpr uint64_t kUsualCluster = 64 * kKiB;

struct ImageJudgement {
  std::optional<Blocker> refusal;  // the disk stays as it is
  std::vector<Blocker> risks;
};

// `storage`: what lies below the image; what it does not know is no reason for anything.
// `allow_thick`: the user said that preallocated images may be thinned. `guest_unit`: the smallest
// piece that the guest's kernel discards, in bytes; 0: not known.
ImageJudgement JudgeImage(const DiskFacts& disk, const ImageStorage& storage, bool allow_thick,
                          uint64_t guest_unit = 0);

// That the image occupies all of its capacity, as one that was preallocated does; empty: it does
// not, or nobody knows.
std::optional<Blocker> ThickBlocker(const DiskFacts& disk);

// That the image is a volume of a thin pool with such chunks; empty: it is none, or they are small.
std::optional<Blocker> LargeChunks(const std::vector<HostDevice>& devices, uint64_t guest_unit);

// Whether less may come free than the guest discards, since the host frees whole `unit`s (clusters,
// chunks) only. A guest that discards in pieces of that size loses nothing.
bool IsLargeUnit(uint64_t unit, uint64_t guest_unit);
// "2.0 MiB, and the guest discards in units of 512 B".
std::string CompareUnits(uint64_t unit, uint64_t guest_unit);

// Why free space is not taken out of an image by the host while its guest is off; empty: nothing
// stands in the way. `allocation`: what its file occupies; empty for a block device.
// `with_bitmaps`: the user said that persistent bitmaps may be lost in a crash.
std::vector<Blocker> JudgeForSparsify(const ImageHeader& image, std::optional<uint64_t> allocation,
                                      bool allow_thick, bool with_bitmaps);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_MODEL_IMAGE_JUDGE_H_
