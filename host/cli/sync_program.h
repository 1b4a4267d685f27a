// The verb sync, whole: files in, texts and an exit status out. Of files it needs no hypervisor.
#ifndef VIRT_RECLAIM_HOST_CLI_SYNC_PROGRAM_H_
#define VIRT_RECLAIM_HOST_CLI_SYNC_PROGRAM_H_

#include <stop_token>

#include "host/cli/options.h"
#include "host/cli/program.h"
#include "host/cli/progress.h"

namespace virt_reclaim {

ProgramResult RunSync(const CommandLine& line, ProgressLine& progress, const std::stop_token& stop);
// sync --domain.
ProgramResult RunSyncDomain(const CommandLine& line, const Services& services,
                            ProgressLine& progress, const std::stop_token& stop);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_SYNC_PROGRAM_H_
