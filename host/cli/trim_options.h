// What a command line means to the verb trim.
#ifndef VIRT_RECLAIM_HOST_CLI_TRIM_OPTIONS_H_
#define VIRT_RECLAIM_HOST_CLI_TRIM_OPTIONS_H_

#include "host/cli/options.h"
#include "host/commands/trim.h"

namespace virt_reclaim {

// Paced unless --chunk or --pause say how; a gentle trim has a night where others have half an
// hour.
TrimOptions TrimOptionsOf(const CommandLine& line);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_TRIM_OPTIONS_H_
