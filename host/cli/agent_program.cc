#include "host/cli/agent_program.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/escape.h"
#include "base/status.h"
#include "host/cli/hints.h"
#include "host/cli/json_parts.h"
#include "host/cli/outcome_output.h"
#include "host/cli/text_table.h"
#include "host/commands/agent_install.h"

namespace virt_reclaim {
namespace {

std::string FilesDirectory() {
  const char* directory = getenv("VIRT_RECLAIM_AGENT_FILES");
  return directory == nullptr ? VIRT_RECLAIM_AGENT_FILES : directory;
}

absl::StatusOr<AgentInstallOptions> OptionsOf(const CommandLine& line) {
  const std::string directory = FilesDirectory();
  std::string binary = line.agent_binary;
  if (binary.empty()) {
    binary = absl::StrCat(directory, "/virt-reclaim-agent");
    if (access(binary.c_str(), F_OK) != 0)
      return absl::InvalidArgumentError(absl::StrCat(
          "--agent-binary: name the program for the guest; there is no ", Quoted(binary)));
  }
  AgentInstallOptions options;
  options.domains = line.domains;
  options.version = VIRT_RECLAIM_VERSION;
  options.connect = line.connect;
  // The commands that are printed work from any directory.
  VR_ASSIGN_OR_RETURN(options.files,
                      ReadAgentFiles(directory, std::filesystem::absolute(binary).string()));
  return options;
}

bool Is(const AgentInstall& install, PortState state) {
  return install.defined == state || install.live == state;
}

std::string PortText(const AgentInstall& install, bool dry_run) {
  if (Is(install, PortState::kAtPowerCycle)) return "at the next power cycle";
  if (Is(install, PortState::kAdd)) return dry_run ? "would be added" : "-";
  if (Is(install, PortState::kAdded)) return "added";
  return Is(install, PortState::kThere) ? "there" : "-";
}

std::string ResultText(const AgentInstall& install, bool dry_run) {
  const bool did = !install.files.empty() || install.starts || Is(install, PortState::kAdded);
  std::string what = did ? "installed" : "nothing to do";
  if (dry_run) what = HasWork(install) ? "would be installed" : "nothing to do";
  const std::string said = OutcomeText(install.outcome);
  if (install.outcome.kind != OutcomeKind::kDone) return said;
  return said.empty() ? what : absl::StrCat(what, "; ", said);
}

std::string CommandText(const std::vector<std::string>& command) {
  return absl::StrJoin(command, " ", [](std::string* out, const std::string& word) {
    absl::StrAppend(out, Printable(ShellQuote(word)));
  });
}

std::string StepsText(const std::vector<AgentInstall>& installs) {
  std::string text;
  for (const AgentInstall& install : installs) {
    for (const InstallStep& step : install.steps)
      absl::StrAppend(&text, "\n", Printable(install.domain.name), ": ", step.what, ":\n  ",
                      CommandText(step.command), "\n");
  }
  return text;
}

std::string OutputText(const std::vector<AgentInstall>& installs, bool dry_run) {
  TextTable table;
  for (absl::string_view title : {"DOMAIN", "STATE", "PORT", "FILES", "AGENT", "RESULT"})
    table.AddColumn(title);
  for (const AgentInstall& install : installs) {
    const std::string& version = install.version.empty() ? install.version_before : install.version;
    table.AddRow({Printable(install.domain.name), std::string(Name(install.domain.state)),
                  PortText(install, dry_run), absl::StrCat(install.files.size()),
                  version.empty() ? "-" : Printable(version), ResultText(install, dry_run)});
  }
  return table.Render() + StepsText(installs);
}

Json StepsJson(const std::vector<InstallStep>& steps) {
  Json json = Json::array();
  for (const InstallStep& step : steps) {
    Json command = Json::array();
    for (const std::string& word : step.command) command.push_back(Text(word));
    json.push_back({{"what", step.what}, {"command", std::move(command)}});
  }
  return json;
}

std::string OutputJson(const std::vector<AgentInstall>& installs, bool dry_run) {
  Json json = dry_run ? Document("agent-install-plan") : Document("agent-install");
  json["domains"] = Json::array();
  for (const AgentInstall& install : installs) {
    Json entry = DomainJson(install.domain);
    AddOutcome(entry, install.outcome);
    if (dry_run && HasWork(install) && install.outcome.kind == OutcomeKind::kDone)
      entry["status"] = "planned";
    entry["port"] = {{"definition", std::string(Name(install.defined))},
                     {"running", std::string(Name(install.live))}};
    entry["files"] = install.files;
    entry["starts"] = install.starts;
    entry["version_before"] = Text(install.version_before);
    entry["version"] = Text(install.version);
    entry["steps"] = StepsJson(install.steps);
    json["domains"].push_back(std::move(entry));
  }
  return Print(json);
}

std::string HintsText(const std::vector<AgentInstall>& installs, const std::string& connect) {
  std::set<std::string> lines;
  for (const AgentInstall& install : installs) {
    for (const Blocker& reason : install.outcome.reasons) {
      // Of a guest that is off the steps are there.
      if (reason.reason == Reason::kNotRunning) continue;
      if (const auto hint = HintFor(reason.reason, {connect, install.domain.name}))
        lines.insert(
            absl::StrCat("hint: ", Printable(install.domain.name), ": ", Printable(*hint), "\n"));
    }
  }
  return absl::StrJoin(lines, "");
}

}  // namespace

ProgramResult RunAgentInstall(const CommandLine& line, const Services& services,
                              ProgressLine& progress, const std::stop_token& stop) {
  auto options = OptionsOf(line);
  if (!options.ok()) return FailWith(options.status(), line.json);
  options->progress = [&](const DomainSummary& domain, absl::string_view what) {
    progress.Show(domain, what);
  };
  auto plan = PlanAgentInstall(services, *options, stop);
  if (!plan.ok()) return FailWith(plan.status(), line.json);
  const std::vector<AgentInstall> installs =
      line.dry_run ? *std::move(plan)
                   : ExecuteAgentInstall(services, *options, *std::move(plan), stop);
  std::vector<Outcome> outcomes;
  for (const AgentInstall& install : installs) outcomes.push_back(install.outcome);
  ProgramResult result;
  result.status = ExitStatusOf(outcomes);
  result.out = line.json ? OutputJson(installs, line.dry_run) : OutputText(installs, line.dry_run);
  if (!line.json) result.err = HintsText(installs, line.connect);
  return result;
}

}  // namespace virt_reclaim
