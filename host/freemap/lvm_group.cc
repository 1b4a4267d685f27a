// What a volume group's metadata says: who has which extents, and what may be looked into.
#include <algorithm>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/status.h"
#include "host/freemap/lvm_text.h"
#include "host/freemap/lvm_volume.h"
#include "host/freemap/refusal.h"

namespace virt_reclaim::freemap {
namespace {

constexpr uint64_t kGroupSector = 512;
constexpr uint64_t kMaxExtents = uint64_t{1} << 32;
constexpr size_t kMaxStripes = 128;

// Types that claim extents as every other does, by a volume's name and a number. A new one might
// not.
const std::set<std::string> kKnownTypes = {"striped",    "linear",
                                           "error",      "zero",
                                           "snapshot",   "mirror",
                                           "raid0",      "raid0_meta",
                                           "raid1",      "raid4",
                                           "raid5",      "raid5_la",
                                           "raid5_ls",   "raid5_ra",
                                           "raid5_rs",   "raid5_n",
                                           "raid6",      "raid6_zr",
                                           "raid6_nr",   "raid6_nc",
                                           "raid10",     "thin-pool",
                                           "thin",       "cache",
                                           "cache-pool", "cache+CACHE_USES_CACHEVOL",
                                           "writecache", "integrity",
                                           "vdo",        "vdo-pool"};

using Names = std::map<std::string, size_t>;

absl::Status OnlyThese(const LvmNode& node, const std::set<std::string>& states,
                       absl::string_view what) {
  VR_ASSIGN_OR_RETURN(const std::vector<std::string> status, node.Strings("status"));
  VR_ASSIGN_OR_RETURN(const std::vector<std::string> flags, node.Strings("flags"));
  if (!flags.empty()) return StateError(absl::StrCat(what, " is ", flags[0]));
  for (const std::string& state : status) {
    if (!states.contains(state)) return StateError(absl::StrCat(what, " is ", state));
  }
  return absl::OkStatus();
}

class GroupReader {
 public:
  GroupReader(const LvmNode& node) : node_(node) {}
  absl::StatusOr<LvmGroup> Read();

 private:
  absl::Status ReadPvs();
  absl::Status ReadVolume(const LvmNode& node);
  absl::Status ReadSegment(const LvmNode& node, LvmVolume& volume);
  absl::Status ReadStripes(const LvmNode& node, uint64_t first, uint64_t count, LvmVolume& volume);
  absl::Status FindFree();

  const LvmNode& node_;
  LvmGroup group_;
  Names pvs_;                        // name -> index
  std::set<std::string> mentioned_;  // volumes that others stand on
  std::vector<LvmPiece> claimed_;    // exactly once each
  std::vector<LvmPiece> may_claim_;  // of types that are not understood: in use, however often
};

absl::Status GroupReader::ReadPvs() {
  const LvmNode* pvs = node_.Child("physical_volumes");
  if (pvs == nullptr || !pvs->section) return DamagedError("a volume group without volumes");
  std::set<std::string> ids;
  for (const LvmNode& node : pvs->children) {
    LvmGroup::Pv pv;
    VR_ASSIGN_OR_RETURN(const std::string id, node.String("id"));
    pv.id = absl::StrReplaceAll(id, {{"-", ""}});
    VR_RETURN_IF_ERROR(OnlyThese(node, {"ALLOCATABLE"}, "a physical volume"));
    VR_ASSIGN_OR_RETURN(pv.start, node.Number("pe_start"));
    VR_ASSIGN_OR_RETURN(pv.count, node.Number("pe_count"));
    if (pv.count > kMaxExtents || pv.start > UINT64_MAX / 2 / kGroupSector)
      return DamagedError("a physical volume of an impossible size");
    pv.start *= kGroupSector;
    if (!ids.insert(pv.id).second || !pvs_.emplace(node.name, group_.pvs.size()).second)
      return DamagedError("the same physical volume twice");
    group_.pvs.push_back(std::move(pv));
  }
  return absl::OkStatus();
}

absl::Status GroupReader::ReadStripes(const LvmNode& node, uint64_t first, uint64_t count,
                                      LvmVolume& volume) {
  VR_ASSIGN_OR_RETURN(const uint64_t stripes, node.Number("stripe_count"));
  const LvmNode* list = node.Child("stripes");
  if (list == nullptr || stripes == 0 || stripes > kMaxStripes ||
      list->values.size() != stripes * 2 || count % stripes != 0) {
    return DamagedError("a segment with impossible stripes");
  }
  LvmSegment segment = {first, count, 0, {}};
  if (stripes > 1) {
    VR_ASSIGN_OR_RETURN(const uint64_t stripe, node.Number("stripe_size"));
    if (stripe == 0 || stripe > group_.extent_bytes / kGroupSector ||
        group_.extent_bytes % (stripe * kGroupSector) != 0) {
      return DamagedError("an impossible stripe size");
    }
    segment.stripe_bytes = stripe * kGroupSector;
  }
  for (size_t i = 0; i < list->values.size(); i += 2) {
    const auto pv = pvs_.find(list->values[i].text);
    const std::optional<int64_t> start = list->values[i + 1].number;
    if (list->values[i].number || !start || *start < 0)
      return DamagedError("a segment with impossible stripes");
    if (pv == pvs_.end()) {  // on another volume, as a mirror's part
      mentioned_.insert(list->values[i].text);
      volume.in_use = "it stands on another volume";
      continue;
    }
    const LvmPiece piece = {pv->second, static_cast<uint64_t>(*start), count / stripes};
    const uint64_t all = group_.pvs[piece.pv].count;
    if (piece.first > all || piece.count > all - piece.first)
      return DamagedError("a segment lies outside of its physical volume");
    claimed_.push_back(piece);
    segment.stripes.push_back(piece);
  }
  if (segment.stripes.size() == stripes) volume.segments.push_back(std::move(segment));
  return absl::OkStatus();
}

absl::Status GroupReader::ReadSegment(const LvmNode& node, LvmVolume& volume) {
  VR_ASSIGN_OR_RETURN(const uint64_t first, node.Number("start_extent"));
  VR_ASSIGN_OR_RETURN(const uint64_t count, node.Number("extent_count"));
  VR_ASSIGN_OR_RETURN(const std::string type, node.String("type"));
  if (first > kMaxExtents || count > kMaxExtents || count == 0)
    return DamagedError("a segment of an impossible size");
  if (!kKnownTypes.contains(type)) return UnknownError(absl::StrCat("a segment of type ", type));
  if (type == "striped" || type == "linear") return ReadStripes(node, first, count, volume);
  volume.in_use = absl::StrCat("it is of type ", type);
  // Whatever it means by it: a physical volume's name and a number claim extents, another volume's
  // name claims that volume.
  for (const LvmNode& key : node.children) {
    for (size_t i = 0; i < key.values.size(); ++i) {
      const LvmValue& value = key.values[i];
      if (value.number) continue;
      mentioned_.insert(value.text);
      const auto pv = pvs_.find(value.text);
      if (pv == pvs_.end() || i + 1 >= key.values.size() || !key.values[i + 1].number) continue;
      const int64_t start = *key.values[i + 1].number;
      const uint64_t all = group_.pvs[pv->second].count;
      if (start < 0 || static_cast<uint64_t>(start) > all)
        return DamagedError("a segment lies outside of its physical volume");
      const auto from = static_cast<uint64_t>(start);
      may_claim_.push_back({pv->second, from, std::min(count, all - from)});
    }
    if (key.section)
      return UnknownError(absl::StrCat("a segment of type ", type, " with sections"));
  }
  return absl::OkStatus();
}

absl::Status GroupReader::ReadVolume(const LvmNode& node) {
  LvmVolume volume;
  volume.name = node.name;
  if (const absl::Status known = OnlyThese(node, {"READ", "WRITE", "VISIBLE"}, "it"); !known.ok())
    volume.in_use = std::string(known.message());
  VR_ASSIGN_OR_RETURN(const std::vector<std::string> status, node.Strings("status"));
  if (volume.in_use.empty() && status.size() != 3) volume.in_use = "it is hidden or read-only";
  VR_ASSIGN_OR_RETURN(const uint64_t segments, node.Number("segment_count"));
  uint64_t seen = 0;
  for (const LvmNode& child : node.children) {
    if (!child.section) continue;
    if (child.name != absl::StrCat("segment", seen + 1))
      return UnknownError(absl::StrCat("a volume with a section ", child.name));
    ++seen;
    VR_RETURN_IF_ERROR(ReadSegment(child, volume));
  }
  if (seen != segments) return DamagedError("a volume has not all of its segments");
  uint64_t next = 0;
  for (const LvmSegment& segment : volume.segments) {
    if (segment.first != next) return DamagedError("a volume's segments leave gaps");
    next += segment.count;
  }
  if (volume.in_use.empty() && volume.segments.size() != segments)
    volume.in_use = "it is incomplete";
  group_.volumes.push_back(std::move(volume));
  return absl::OkStatus();
}

absl::Status GroupReader::FindFree() {
  const auto place = [](const LvmPiece& piece) { return std::pair(piece.pv, piece.first); };
  std::ranges::sort(claimed_, {}, place);
  for (size_t i = 1; i < claimed_.size(); ++i) {
    const LvmPiece& before = claimed_[i - 1];
    if (claimed_[i].pv == before.pv && claimed_[i].first < before.first + before.count)
      return DamagedError("two volumes share extents");
  }
  claimed_.insert(claimed_.end(), may_claim_.begin(), may_claim_.end());
  std::ranges::sort(claimed_, {}, place);
  auto next = claimed_.begin();
  for (size_t pv = 0; pv < group_.pvs.size(); ++pv) {
    uint64_t at = 0;
    for (; next != claimed_.end() && next->pv == pv; ++next) {
      if (next->first > at) group_.free.push_back({pv, at, next->first - at});
      at = std::max(at, next->first + next->count);
    }
    if (at < group_.pvs[pv].count) group_.free.push_back({pv, at, group_.pvs[pv].count - at});
  }
  return absl::OkStatus();
}

absl::StatusOr<LvmGroup> GroupReader::Read() {
  group_.name = node_.name;
  VR_ASSIGN_OR_RETURN(group_.id, node_.String("id"));
  VR_ASSIGN_OR_RETURN(group_.sequence, node_.Number("seqno"));
  VR_ASSIGN_OR_RETURN(const std::string format, node_.String("format"));
  if (format != "lvm2") return UnknownError("a volume group of another format");
  VR_RETURN_IF_ERROR(OnlyThese(node_, {"RESIZEABLE", "READ", "WRITE"}, "the volume group"));
  if (node_.Child("lock_type") != nullptr)
    return StateError("the volume group is shared between machines");
  VR_ASSIGN_OR_RETURN(const uint64_t extent, node_.Number("extent_size"));
  if (extent == 0 || extent > UINT64_MAX / kMaxExtents / kGroupSector)
    return DamagedError("an impossible extent size");
  group_.extent_bytes = extent * kGroupSector;
  VR_RETURN_IF_ERROR(ReadPvs());
  if (const LvmNode* volumes = node_.Child("logical_volumes"); volumes != nullptr) {
    for (const LvmNode& volume : volumes->children) VR_RETURN_IF_ERROR(ReadVolume(volume));
  }
  static const std::set<std::string> kSections = {"physical_volumes", "logical_volumes",
                                                  "historical_logical_volumes"};
  std::set<std::string> names;
  for (const LvmNode& child : node_.children) {
    if (!names.insert(child.name).second) return DamagedError("the same LVM section twice");
    if (child.section && !kSections.contains(child.name))
      return UnknownError(absl::StrCat("a volume group with a section ", child.name));
  }
  for (LvmVolume& volume : group_.volumes) {
    if (volume.in_use.empty() && mentioned_.contains(volume.name))
      volume.in_use = "another volume stands on it";
  }
  VR_RETURN_IF_ERROR(FindFree());
  return std::move(group_);
}

}  // namespace

absl::StatusOr<LvmGroup> ReadLvmGroup(absl::string_view text) {
  VR_ASSIGN_OR_RETURN(const LvmNode root, ParseLvmText(text));
  const LvmNode* group = nullptr;
  for (const LvmNode& child : root.children) {
    if (!child.section) continue;
    if (group != nullptr) return DamagedError("two volume groups in one");
    group = &child;
  }
  if (group == nullptr) return DamagedError("no volume group");
  VR_ASSIGN_OR_RETURN(const std::string contents, root.String("contents"));
  VR_ASSIGN_OR_RETURN(const uint64_t version, root.Number("version"));
  if (contents != "Text Format Volume Group" || version != 1)
    return UnknownError("LVM metadata of an unknown version");
  return GroupReader(*group).Read();
}

}  // namespace virt_reclaim::freemap
