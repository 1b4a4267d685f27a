// `report`'s facts with what lies below the images and what is remembered of trims: for `metrics`
// and the page of `report --html`. Reads the world, changes nothing.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_OVERVIEW_H_
#define VIRT_RECLAIM_HOST_COMMANDS_OVERVIEW_H_

#include "host/commands/report.h"
#include "host/commands/services.h"
#include "host/model/overview.h"

namespace virt_reclaim {

// Asks for the space of each storage once, and reads the history of each domain. `version` stays
// empty and `took` 0: they are the caller's. A storage that cannot be asked is left out, and the
// disks on it name none. One thread.
Overview MakeOverview(const Services& services, const Report& report);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_OVERVIEW_H_
