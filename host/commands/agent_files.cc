#include "host/commands/agent_files.h"

#include <cstddef>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/io.h"
#include "base/status.h"
#include "host/services/state_path.h"

namespace virt_reclaim {
namespace {

constexpr size_t kMaxProgramBytes = size_t{64} << 20;  // the static agent has some 5 MB
constexpr size_t kMaxTextBytes = size_t{64} << 10;
constexpr absl::string_view kElf =
    "\x7f"
    "ELF";

absl::StatusOr<AgentFile> Read(std::string source, std::string path, std::string mode,
                               size_t max_bytes) {
  AgentFile file;
  VR_ASSIGN_OR_RETURN(file.content, ReadFile(source, max_bytes));
  file.source = std::move(source);
  file.path = std::move(path);
  file.mode = std::move(mode);
  file.digest = Digest(file.content);
  return file;
}

}  // namespace

absl::StatusOr<std::vector<AgentFile>> ReadAgentFiles(const std::string& directory,
                                                      const std::string& binary) {
  std::vector<AgentFile> files;
  VR_ASSIGN_OR_RETURN(AgentFile program, Read(binary, kAgentProgram, "0755", kMaxProgramBytes));
  if (!absl::StartsWith(program.content, kElf))
    return absl::InvalidArgumentError(absl::StrCat(Quoted(binary), " is no program for Linux"));
  files.push_back(std::move(program));
  for (const char* unit : {"virt-reclaim-agent.service", "virt-reclaim-agent-worker.socket",
                           "virt-reclaim-agent-worker@.service"}) {
    VR_ASSIGN_OR_RETURN(AgentFile file,
                        Read(absl::StrCat(directory, "/systemd/", unit),
                             absl::StrCat(kGuestUnitDirectory, "/", unit), "0644", kMaxTextBytes));
    files.push_back(std::move(file));
  }
  const std::string rule = "99-virt-reclaim-agent.rules";
  VR_ASSIGN_OR_RETURN(AgentFile file,
                      Read(absl::StrCat(directory, "/udev/", rule),
                           absl::StrCat(kGuestRuleDirectory, "/", rule), "0644", kMaxTextBytes));
  files.push_back(std::move(file));
  return files;
}

}  // namespace virt_reclaim
