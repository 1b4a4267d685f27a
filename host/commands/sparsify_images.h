// `virt-reclaim sparsify TARGET...`: what the guests of stopped domains, or image files, have free
// goes back to the host, without an appliance (host/sparsify). One Outcome for each target.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_SPARSIFY_IMAGES_H_
#define VIRT_RECLAIM_HOST_COMMANDS_SPARSIFY_IMAGES_H_

#include <functional>
#include <map>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "host/commands/appliance_trim.h"
#include "host/commands/other_disks.h"
#include "host/commands/services.h"
#include "host/model/outcome.h"

namespace virt_reclaim {

struct SparsifyImagesOptions {
  std::vector<std::string> targets;  // with a '/': an image file or device; else a domain
  bool all_off = false;              // all domains that are off
  std::string storage;               // only domains with an image there (ImageStore::LiesOn)
  std::string format;                // of image files; empty: libvirt's word, else looked at
  bool allow_thick = false;
  bool with_bitmaps = false;  // also images with persistent bitmaps
  SparsifyEngine choice = SparsifyEngine::kAuto;
  bool replay = false;            // the appliance may replay journals
  std::vector<std::string> zero;  // devices that the appliance zeroes as a whole: "/dev/sda1"
  sparsify::SparsifyOptions engine;
};

// One image of a target.
struct SparsifyDisk {
  std::string target;  // "vda"; empty for an image file
  ImageHeader header;
  sparsify::DiskSpec spec;
};

// What would be done to one target, or why nothing.
struct SparsifyAction {
  std::string name;  // of the domain, or the path
  bool is_domain = false;
  std::vector<DomainSummary> users;  // domains that have one of the images; must stay off
  std::vector<SparsifyDisk> disks;
  OtherDisks others;  // of its domains, when an image file is named
  Outcome outcome;    // kSkipped or kFailed: decided already
};

// Looks at domains and images; reads no guest's data. NotFound: no such domain. Cancelled.
absl::StatusOr<std::vector<SparsifyAction>> PlanSparsify(const Services& services,
                                                         const SparsifyImagesOptions& options,
                                                         const std::stop_token& stop);

struct SparsifiedTarget {
  std::string name;
  bool is_domain = false;
  Outcome outcome;
  std::vector<SparsifyDisk> disks;
  std::optional<sparsify::SparsifyResult> result;  // absent: nothing was read
  std::string output;  // of a copy: where it is, and what it occupies; else empty
  std::optional<uint64_t> output_bytes;
  std::vector<std::string> lost;  // what it does not keep of its source's form
  // What libguestfs's appliance did, by index of the filesystem; OK in kMeasure: what it would do.
  std::map<size_t, absl::Status> appliance;
};

struct SparsifyTargetProgress {
  absl::string_view name;
  size_t target = 0, targets = 0;  // from 1
  sparsify::SparsifyProgress disks;
};

// One target after the other: in kMeasure what could come back is read, in kSparsify it comes back.
// A stop request ends it after the step under way.
std::vector<SparsifiedTarget> ExecuteSparsify(
    const Services& services, const SparsifyImagesOptions& options,
    const std::vector<SparsifyAction>& actions, sparsify::Mode mode,
    const std::function<void(const SparsifyTargetProgress&)>& progress,
    const std::stop_token& stop);

// What stands in the way is a reason; what went wrong is an error.
void SetSparsifyOutcome(const absl::Status& status, Outcome& outcome);

// Notes what was left alone although there may be something to gain: not gaps and unknown contents,
// which nearly every disk has. Returns how many filesystems were not left alone.
size_t AddRefusals(SparsifiedTarget& target);

// Sums over all targets; freed of those of which it is known.
struct SparsifyTotal {
  size_t targets = 0;
  uint64_t before = 0, reclaimable = 0, given_back = 0, freed = 0;
};
SparsifyTotal TotalOf(const std::vector<SparsifiedTarget>& targets);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_SPARSIFY_IMAGES_H_
