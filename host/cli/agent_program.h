// `virt-reclaim agent install` from its command line to its texts.
#ifndef VIRT_RECLAIM_HOST_CLI_AGENT_PROGRAM_H_
#define VIRT_RECLAIM_HOST_CLI_AGENT_PROGRAM_H_

#include <stop_token>

#include "host/cli/options.h"
#include "host/cli/program.h"
#include "host/cli/progress.h"
#include "host/commands/services.h"

namespace virt_reclaim {

// The agent's units are read from the directory that VIRT_RECLAIM_AGENT_FILES of the environment
// names, else from where they are installed.
ProgramResult RunAgentInstall(const CommandLine& line, const Services& services,
                              ProgressLine& progress, const std::stop_token& stop);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_AGENT_PROGRAM_H_
