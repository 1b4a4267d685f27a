// `virt-reclaim explain`: the way of a discard from the guest's filesystems to the host's storage,
// layer by layer, and the first that does not pass it on. Changes nothing, unless it is to prove
// what it says: then the agent writes a marker into the guest and takes it away again.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_EXPLAIN_H_
#define VIRT_RECLAIM_HOST_COMMANDS_EXPLAIN_H_

#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "host/commands/collect.h"
#include "host/commands/discard_probe.h"
#include "host/model/discard_chain.h"
#include "host/model/outcome.h"

namespace virt_reclaim {

struct ExplainOptions {
  std::vector<std::string> domains;  // DOMAIN or DOMAIN:TARGET; at least one
  bool probe = false;
  bool ask_qemu = false;  // its monitor, which taints the domain
  absl::Duration agent_timeout = absl::Seconds(2);
  // How long a probe waits for its turn on the storages of a domain, whose agent is free meanwhile.
  absl::Duration turn_timeout = absl::Minutes(5);
  // Told of each domain whose probe has to wait since others trim on its storage, once, on the
  // caller's thread. May be empty.
  std::function<void(const DomainSummary&)> waits = nullptr;
};

// What to begin with, of one disk.
struct Culprit {
  std::optional<LayerKind> layer;  // empty: no known one, though the probe says that there is one
  LayerVerdict verdict = LayerVerdict::kDrops;
  Blocker blocker;
};

struct ExplainedDisk {
  std::string image;  // path, as in the XML; empty: none
  DiscardChain chain;
  std::optional<ProbedDisk> probe;
  std::optional<Culprit> culprit;
};

struct ExplainedDomain {
  DomainSummary summary;
  std::vector<ExplainedDisk> disks;
  std::vector<Blocker> remarks;  // of the domain: checkpoints
  std::optional<Blocker> agent;  // why the guest is not known
  Outcome outcome;               // nothing_freed: a layer is known to drop discards
};

// NotFound for a domain that is none; a target that is none is the domain's failure.
absl::StatusOr<std::vector<ExplainedDomain>> Explain(const Services& services,
                                                     const ExplainOptions& options,
                                                     const std::stop_token& stop);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_EXPLAIN_H_
