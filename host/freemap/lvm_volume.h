// LVM2: physical volumes and what their metadata says of the volume group. Source: LVM2's
// lib/label/label.h, lib/format_text/layout.h, import_vsn1.c.
#ifndef VIRT_RECLAIM_HOST_FREEMAP_LVM_VOLUME_H_
#define VIRT_RECLAIM_HOST_FREEMAP_LVM_VOLUME_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "host/freemap/byte_source.h"

namespace virt_reclaim::freemap {

// What a physical volume says of itself.
struct LvmLabel {
  std::string id;  // 32 characters, no dashes
  struct Area {
    uint64_t offset = 0;
    uint64_t size = 0;
  };
  std::vector<Area> metadata;  // areas that hold metadata: inside, disjoint
  std::string text;            // the newest metadata; the same in all its areas; empty: it has none
};
absl::StatusOr<LvmLabel> ReadLvmLabel(const ByteSource& source);

// A run of physical extents.
struct LvmPiece {
  size_t pv = 0;  // index
  uint64_t first = 0;
  uint64_t count = 0;
};

struct LvmSegment {
  uint64_t first = 0;  // logical extents
  uint64_t count = 0;
  uint64_t stripe_bytes = 0;      // with more than one stripe
  std::vector<LvmPiece> stripes;  // each of count / stripes.size() extents
};

struct LvmVolume {
  std::string name;
  std::string in_use;  // not empty: why it is not looked into
  std::vector<LvmSegment> segments;
};

struct LvmGroup {
  std::string name;
  std::string id;
  uint64_t sequence = 0;
  uint64_t extent_bytes = 0;
  struct Pv {
    std::string id;      // no dashes
    uint64_t start = 0;  // bytes
    uint64_t count = 0;  // extents
  };
  std::vector<Pv> pvs;
  std::vector<LvmVolume> volumes;
  std::vector<LvmPiece> free;  // extents that nothing claims
};

// The group in metadata `text`, judged as a whole: a state or segment type that is not known, or
// extents claimed twice, refuse it all.
absl::StatusOr<LvmGroup> ReadLvmGroup(absl::string_view text);

}  // namespace virt_reclaim::freemap

#endif  // VIRT_RECLAIM_HOST_FREEMAP_LVM_VOLUME_H_
