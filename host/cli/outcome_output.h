// How outcomes and reasons look, in text and in JSON: the same for every verb.
#ifndef VIRT_RECLAIM_HOST_CLI_OUTCOME_OUTPUT_H_
#define VIRT_RECLAIM_HOST_CLI_OUTCOME_OUTPUT_H_

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "host/model/outcome.h"
#include "host/model/reason.h"

namespace virt_reclaim {

// "machine-too-old: virtio-blk passes discards only from machine type 4.0 on (pc-i440fx-3.1)".
std::string BlockerText(const Blocker& blocker);
// The codes alone: "no-agent, busy".
std::string ReasonCodes(const std::vector<Blocker>& blockers);
// One after the other.
std::string BlockerTexts(const std::vector<Blocker>& blockers);
// "failed: ...", "skipped: ...", "interrupted", or remarks; empty: done, and nothing to say.
std::string OutcomeText(const Outcome& outcome);

// `key`: the codes, for programs; `key`_explained: the same as sentences, for people.
void AddReasons(nlohmann::ordered_json& json, const char* key,
                const std::vector<Blocker>& blockers);
// status, error when there is one, and reasons.
void AddOutcome(nlohmann::ordered_json& json, const Outcome& outcome);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_OUTCOME_OUTPUT_H_
