// The verb run: command line and policy -> commands/run.h -> texts.
#ifndef VIRT_RECLAIM_HOST_CLI_RUN_PROGRAM_H_
#define VIRT_RECLAIM_HOST_CLI_RUN_PROGRAM_H_

#include <stop_token>

#include "host/cli/program.h"

namespace virt_reclaim {

// Reads the policy before it reaches for the hypervisor: after a mistake in it nothing is done.
// Backups are punched also when the hypervisor cannot be reached.
ProgramResult RunPolicy(const CommandLine& line, const WithServices& with_services,
                        ProgressLine& progress, const std::stop_token& stop);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_RUN_PROGRAM_H_
