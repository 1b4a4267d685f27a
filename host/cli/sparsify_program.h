// The verb sparsify, from its words to its texts.
#ifndef VIRT_RECLAIM_HOST_CLI_SPARSIFY_PROGRAM_H_
#define VIRT_RECLAIM_HOST_CLI_SPARSIFY_PROGRAM_H_

#include <stop_token>

#include "host/cli/options.h"
#include "host/cli/program.h"
#include "host/cli/progress.h"
#include "host/commands/services.h"

namespace virt_reclaim {

ProgramResult RunSparsify(const CommandLine& line, const Services& services, ProgressLine& progress,
                          const std::stop_token& stop);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_SPARSIFY_PROGRAM_H_
