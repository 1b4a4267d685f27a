// A sparsified copy of one image: an overlay over it in which what its guest has free is zero
// (host/sparsify/overlay.h), converted. The source is only read, and nobody may write to it
// meanwhile.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_SPARSIFY_COPY_H_
#define VIRT_RECLAIM_HOST_COMMANDS_SPARSIFY_COPY_H_

#include <functional>
#include <map>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "host/commands/appliance_trim.h"
#include "host/commands/services.h"
#include "host/commands/sparsify_images.h"

namespace virt_reclaim {

struct SparsifyCopyOptions {
  std::string source;               // an image file or block device
  std::string source_format;        // empty: looked at
  std::string output;               // a file, made or replaced; or a block device
  std::string output_format;        // as qemu-img names it; empty: the source's
  std::string qemu_options;         // of qemu-img convert's -o
  bool compress = false;            // goes with formats that can
  std::string temporary_directory;  // where the overlay lies: some MiB of metadata
  std::string prebuilt;             // a qcow2 overlay over `source` to use instead; it stays
  SparsifyEngine choice = SparsifyEngine::kAuto;
  bool replay = false;            // the appliance may replay journals, in the overlay
  std::vector<std::string> zero;  // devices of the guest that are zero in the copy: "/dev/sda1"
  bool estimate = false;          // make no copy: say what it would leave out
  sparsify::SparsifyOptions engine;
};

struct SparsifyCopyPlan {
  ImageHeader header;                // of the source
  std::vector<DomainSummary> users;  // domains that have it as their disk; must stay off
  sparsify::Overlay::Output output;
  // What of the source's form a copy does not keep: "2 internal snapshots". Without `qemu_options`
  // a qcow2 copy keeps all that qemu-img can make.
  std::vector<std::string> lost;
};

// Looks at the source and at domains, and tries what qemu-img is to be told on an empty image.
// Aborted: a domain that has it is not off, or somebody writes to it, or has the output.
// FailedPrecondition: qemu-img cannot, with its words; the output is what the source stands on.
// Cancelled.
absl::StatusOr<SparsifyCopyPlan> PlanSparsifyCopy(const Services& services,
                                                  const SparsifyCopyOptions& options,
                                                  const std::stop_token& stop);

// What is known when a step begins.
struct SparsifiedCopy {
  sparsify::SparsifyResult result;
  // What libguestfs's appliance did, by index of the filesystem.
  std::map<size_t, absl::Status> appliance;
};
enum class CopyStep { kOverlay, kExamine, kExamined, kConvert };

struct SparsifyCopyEvents {
  // At the beginning of each; of kExamined and kConvert `made` is known. An error ends it.
  std::function<absl::Status(CopyStep step, const SparsifiedCopy& made)> step;
  sparsify::ProgressCallback progress;
};

// Makes it. After an error there is no copy, and what was there by that name is as it was, unless
// it had to be written directly (sparsify/copy_target.h). Aborted: somebody has the source open for
// writing, or wanted to meanwhile; he gets it within some hundred milliseconds. One thread; the
// events are heard on it.
absl::StatusOr<SparsifiedCopy> ExecuteSparsifyCopy(const Services& services,
                                                   const SparsifyCopyOptions& options,
                                                   const SparsifyCopyPlan& plan,
                                                   const SparsifyCopyEvents& events,
                                                   const std::stop_token& stop);

// Both, as a target of the verb. Nothing that is there is overwritten: then it failed. As an
// estimate it has no output.
SparsifiedTarget SparsifyInto(const Services& services, const SparsifyCopyOptions& options,
                              const sparsify::ProgressCallback& progress,
                              const std::stop_token& stop);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_SPARSIFY_COPY_H_
