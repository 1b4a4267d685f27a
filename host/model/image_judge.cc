#include "host/model/image_judge.h"

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "base/escape.h"

namespace virt_reclaim {
namespace {

// A worn image comes near its capacity, but a filesystem always leaves something it has never
// written.
bool IsThick(const DiskFacts& disk) {
  const auto& capacity = disk.usage.capacity;  // libvirt's word, where we do not read the format
  const auto& allocation = disk.chain.front().usage.allocation;
  return capacity && allocation && *capacity > 0 && *allocation >= *capacity;
}

}  // namespace

ImageJudgement JudgeImage(const DiskFacts& disk, std::optional<bool> can_punch, bool allow_thick) {
  ImageJudgement judgement;
  const std::string target = Printable(disk.xml.target);
  if (disk.xml.source.type == "block" && disk.xml.source.format == "qcow2")
    judgement.risks.push_back({Reason::kQcow2OnBlockDevice, target});
  if (disk.chain.empty()) return judgement;
  const ImageFile& top = disk.chain.front();
  if (can_punch && !*can_punch) {
    judgement.refusal = {Reason::kStorageCannotPunch, Printable(top.path)};
  } else if (!allow_thick && IsThick(disk)) {
    judgement.refusal = {Reason::kThickImage,
                         absl::StrCat(FormatByteSize(*top.usage.allocation), " of ",
                                      FormatByteSize(*disk.usage.capacity))};
  }
  if (top.internal_snapshots > 0) {
    judgement.risks.push_back(
        {Reason::kInternalSnapshots, absl::StrCat(target, ": ", top.internal_snapshots)});
  }
  if (disk.chain.size() > 1) {
    judgement.risks.push_back(
        {Reason::kOverlay, absl::StrCat(target, ": ", disk.chain.size() - 1, " below")});
  }
  if (top.granularity > kUsualCluster) {
    judgement.risks.push_back(
        {Reason::kLargeClusters, absl::StrCat(target, ": ", FormatByteSize(top.granularity))});
  }
  return judgement;
}

}  // namespace virt_reclaim
