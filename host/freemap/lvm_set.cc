#include "host/freemap/lvm_set.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "base/status.h"
#include "host/freemap/refusal.h"

namespace virt_reclaim::freemap {
namespace {

// That the group's extents lie on the volume, and nowhere near its metadata.
absl::Status CheckPlace(const LvmGroup& group, size_t pv, const LvmLabel& label, uint64_t size) {
  const uint64_t begin = group.pvs[pv].start;
  uint64_t length = 0;
  if (__builtin_mul_overflow(group.pvs[pv].count, group.extent_bytes, &length) || begin > size ||
      length > size - begin) {
    return StateError("the extents of a physical volume do not fit on it");
  }
  if (begin < 4096) return DamagedError("extents lie where the LVM label is");
  for (const LvmLabel::Area& area : label.metadata) {
    if (area.offset < begin + length && begin < area.offset + area.size)
      return DamagedError("extents lie where the LVM metadata is");
  }
  return absl::OkStatus();
}

class Assembler {
 public:
  explicit Assembler(std::span<const ByteSource* const> sources) : sources_(sources) {}

  std::vector<LvmSet> Assemble() {
    for (size_t i = 0; i < sources_.size(); ++i) ReadLabel(i);
    std::vector<LvmSet> sets;
    for (const auto& [id, members] : groups_) sets.push_back(MakeSet(members));
    for (size_t i = 0; i < sources_.size(); ++i) {
      if (taken_.contains(i)) continue;
      const absl::Status& why = labels_[i].status();
      sets.push_back(
          {why.ok() ? StateError("a physical volume of no group that is here") : why, {}, {i}});
    }
    return sets;
  }

 private:
  struct Member {
    size_t source;
    LvmGroup group;
  };

  void ReadLabel(size_t index) {
    labels_.push_back(ReadLvmLabel(*sources_[index]));
    absl::StatusOr<LvmLabel>& label = labels_.back();
    if (!label.ok() || label->text.empty()) return;
    absl::StatusOr<LvmGroup> group = ReadLvmGroup(label->text);
    if (!group.ok()) {
      label = group.status();
      return;
    }
    auto& members = groups_[group->id];
    members.push_back({index, *std::move(group)});
  }

  LvmSet MakeSet(const std::vector<Member>& members) {
    LvmSet set = {absl::OkStatus(), members.front().group, {}};
    for (const Member& member : members) taken_.insert(member.source);
    set.status = Match(members, set);
    if (set.status.ok()) return set;
    set.pvs.clear();
    for (const Member& member : members) set.pvs.push_back(member.source);
    return set;
  }

  absl::Status Match(const std::vector<Member>& members, LvmSet& set) {
    for (const Member& member : members) {
      if (labels_[member.source]->text != labels_[members.front().source]->text)
        return StateError("the physical volumes of the group tell different stories");
    }
    std::set<size_t> used;
    for (size_t pv = 0; pv < set.group.pvs.size(); ++pv) {
      std::optional<size_t> found;
      for (size_t i = 0; i < labels_.size(); ++i) {
        if (!labels_[i].ok() || labels_[i]->id != set.group.pvs[pv].id) continue;
        if (found) return StateError("the same physical volume is here twice");
        found = i;
      }
      if (!found) return StateError("a physical volume of the group is not here");
      VR_RETURN_IF_ERROR(CheckPlace(set.group, pv, *labels_[*found], sources_[*found]->size()));
      set.pvs.push_back(*found);
      used.insert(*found);
    }
    for (const Member& member : members) {
      if (!used.contains(member.source))
        return StateError("a physical volume was taken out of the group");
    }
    taken_.insert(used.begin(), used.end());
    return absl::OkStatus();
  }

  std::span<const ByteSource* const> sources_;
  std::vector<absl::StatusOr<LvmLabel>> labels_;
  std::map<std::string, std::vector<Member>> groups_;  // by id
  std::set<size_t> taken_;
};

}  // namespace

std::vector<LvmSet> AssembleLvm(std::span<const ByteSource* const> sources) {
  return Assembler(sources).Assemble();
}

LvmVolumeSource::LvmVolumeSource(const LvmGroup& group, const LvmVolume& volume,
                                 std::vector<const ByteSource*> sources)
    : sources_(std::move(sources)) {
  for (const LvmSegment& segment : volume.segments) {
    Segment mine = {size_, segment.count * group.extent_bytes, segment.stripe_bytes, {}};
    for (const LvmPiece& piece : segment.stripes)
      mine.stripes.push_back({piece.pv, LvmByteOf(group, piece.pv, piece.first)});
    size_ += mine.length;
    segments_.push_back(std::move(mine));
  }
}

uint64_t LvmVolumeSource::OnStripe(const Segment& segment, size_t index, uint64_t position) {
  const uint64_t stripes = segment.stripes.size();
  if (stripes == 1) return position;
  const uint64_t row = segment.stripe_bytes * stripes;
  const uint64_t rest = position % row;
  const uint64_t before = segment.stripe_bytes * index;
  return position / row * segment.stripe_bytes +
         (rest <= before ? 0 : std::min(rest - before, segment.stripe_bytes));
}

// On one stripe the bytes of a run follow each other, however many rows it has.
void LvmVolumeSource::Map(const Extent& run,
                          const std::function<void(size_t, const Extent&)>& take) const {
  for (const Segment& segment : segments_) {
    const uint64_t begin = std::max(run.offset, segment.offset);
    const uint64_t end = std::min(run.offset + run.length, segment.offset + segment.length);
    if (begin >= end) continue;
    for (size_t i = 0; i < segment.stripes.size(); ++i) {
      const uint64_t from = OnStripe(segment, i, begin - segment.offset);
      const uint64_t to = OnStripe(segment, i, end - segment.offset);
      if (from < to) take(segment.stripes[i].pv, {segment.stripes[i].offset + from, to - from});
    }
  }
}

absl::Status LvmVolumeSource::Read(uint64_t offset, std::span<uint8_t> out) const {
  if (offset > size_ || out.size() > size_ - offset) return absl::OutOfRangeError("past the end");
  auto segment = std::ranges::upper_bound(segments_, offset, {}, &Segment::offset);
  while (!out.empty()) {
    const Segment& here = *std::prev(segment);
    const uint64_t position = offset - here.offset;
    if (position >= here.length) {
      ++segment;
      continue;
    }
    uint64_t count = std::min<uint64_t>(out.size(), here.length - position);
    size_t index = 0;
    if (here.stripes.size() > 1) {
      index = position / here.stripe_bytes % here.stripes.size();
      count = std::min(count, here.stripe_bytes - position % here.stripe_bytes);
    }
    const auto& stripe = here.stripes[index];
    VR_RETURN_IF_ERROR(sources_[stripe.pv]->Read(stripe.offset + OnStripe(here, index, position),
                                                 out.first(count)));
    offset += count;
    out = out.subspan(count);
  }
  return absl::OkStatus();
}

// Where all of it lies in one piece.
std::optional<ByteSource::Window> LvmVolumeSource::window() const {
  std::optional<std::pair<size_t, Extent>> whole;
  for (const Segment& segment : segments_) {
    if (segment.stripes.size() != 1) return std::nullopt;
    const auto& stripe = segment.stripes.front();
    if (!whole) {
      whole = {stripe.pv, {stripe.offset, segment.length}};
    } else if (whole->first == stripe.pv &&
               whole->second.offset + whole->second.length == stripe.offset) {
      whole->second.length += segment.length;
    } else {
      return std::nullopt;
    }
  }
  if (!whole) return std::nullopt;
  std::optional<Window> window = sources_[whole->first]->window();
  if (window) window->offset += whole->second.offset;
  return window;
}

}  // namespace virt_reclaim::freemap
