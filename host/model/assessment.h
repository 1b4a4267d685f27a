// Judgement of one disk: how much could come back, and what stands in the way. Pure.
#ifndef VIRT_RECLAIM_HOST_MODEL_ASSESSMENT_H_
#define VIRT_RECLAIM_HOST_MODEL_ASSESSMENT_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "host/model/facts.h"
#include "host/model/reason.h"

namespace virt_reclaim {

// What `reclaimable` is computed from: how much the guest calls free, or where.
enum class ReclaimableFrom { kStatfs, kFreeMap };
absl::string_view Name(ReclaimableFrom from);  // "statfs", "free-map"

struct Assessment {
  // What both maps say when they were compared, else an estimate, rounded to what is safe to
  // promise: min(free, allocation - used - unknown), never below 0. Absent when the guest's use or
  // the allocation is not known, and of an image with internal snapshots: what they keep stays.
  std::optional<uint64_t> reclaimable;
  // What the host holds though the guest calls it free, whether it can come back or not. Absent
  // when that is not known.
  std::optional<uint64_t> held;
  ReclaimableFrom from = ReclaimableFrom::kStatfs;
  // What keeps discards of this disk from the host, the host's own layers first. Empty: nothing
  // known.
  std::vector<Blocker> blockers;
};

// `domain` is the XML the disk works under now: the live one of a running domain.
Assessment Assess(const xml::Domain& domain, const DiskFacts& disk);

// True when the disk is none that virt-reclaim handles (cdrom, floppy, lun): listed, but not
// counted.
bool IsOther(const xml::Disk& disk);

// The blocker a guest's obstacle stands for, if it stands for one.
std::optional<Blocker> BlockerOf(GuestObstacle obstacle, const std::string& device);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_MODEL_ASSESSMENT_H_
