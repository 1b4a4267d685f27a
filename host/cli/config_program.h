// The verbs config check and config show: policy files -> texts.
#ifndef VIRT_RECLAIM_HOST_CLI_CONFIG_PROGRAM_H_
#define VIRT_RECLAIM_HOST_CLI_CONFIG_PROGRAM_H_

#include <stop_token>

#include "host/cli/program.h"

namespace virt_reclaim {

// Reaches for the hypervisor only when domains are named. Changes nothing.
ProgramResult RunConfig(const CommandLine& line, const WithServices& with_services,
                        const std::stop_token& stop);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_CONFIG_PROGRAM_H_
