// The guest's part of a disk's discard chain. Internal to discard_chain.cc. Pure.
#ifndef VIRT_RECLAIM_HOST_MODEL_GUEST_LAYERS_H_
#define VIRT_RECLAIM_HOST_MODEL_GUEST_LAYERS_H_

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "host/model/discard_chain.h"

namespace virt_reclaim {

// Filesystems, devices and disk of the guest that lie on the domain's disk `target`, from the top
// down. `host_reason`: why bus or machine type let nothing through; the guest's kernel only repeats
// it. `guest_to_target`: as MatchGuestDisks says. Takes time in proportion to what the guest has
// told, whatever that is.
std::vector<Layer> GuestLayers(const GuestFacts& guest,
                               const std::map<std::string, std::string>& guest_to_target,
                               const std::string& target,
                               const std::optional<Blocker>& host_reason);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_MODEL_GUEST_LAYERS_H_
