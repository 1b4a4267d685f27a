#include "host/commands/agent_install.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/contains.h"
#include "base/escape.h"
#include "base/status.h"
#include "host/commands/agent_guest.h"
#include "host/commands/domain_turn.h"
#include "host/model/migration.h"
#include "host/services/migration_store.h"
#include "xml-tools/rewrite.h"
#include "xml-tools/stored.h"

namespace virt_reclaim {
namespace {

constexpr absl::Duration kAgentTimeout = absl::Seconds(2);
constexpr absl::Duration kComingUp = absl::Seconds(20);  // the agent opens its port within 2
constexpr absl::Duration kPause = absl::Milliseconds(500);

void Skip(AgentInstall& install, Reason reason, std::string detail = "") {
  install.outcome.kind = OutcomeKind::kSkipped;
  install.outcome.reasons.push_back({reason, std::move(detail)});
}

void Fail(AgentInstall& install, const absl::Status& status) {
  if (absl::IsCancelled(status)) {
    install.outcome.kind = OutcomeKind::kCancelled;
  } else if (absl::IsAborted(status)) {
    Skip(install, Reason::kBusy, Printable(status.message()));
  } else {
    install.outcome.kind = OutcomeKind::kFailed;
    install.outcome.error = status;
  }
}

// For a guest whose disks nobody uses: libguestfs's program, with the files of this host.
InstallStep OfflineStep(const AgentInstallOptions& options, const DomainSummary& domain) {
  InstallStep step;
  step.what = domain.state == DomainState::kShutOff ? "while it is off, on the host"
                                                    : "shut it down, and then, on the host";
  step.command = {"virt-customize"};
  if (!options.connect.empty())
    step.command.insert(step.command.end(), {"--connect", options.connect});
  step.command.insert(step.command.end(), {"--domain", domain.name, "--mkdir", kGuestUnitDirectory,
                                           "--mkdir", kGuestRuleDirectory});
  for (const AgentFile& file : options.files) {
    step.command.insert(step.command.end(), {"--upload", absl::StrCat(file.source, ":", file.path),
                                             "--chmod", absl::StrCat(file.mode, ":", file.path)});
  }
  step.command.emplace_back("--selinux-relabel");
  return step;
}

GuestPrograms ProgramsOf(const Services& services, const std::string& uuid) {
  return {services.hypervisor, uuid, {services.now, services.sleep}};
}

// ---- The plan.

class InstallPlanner {
 public:
  InstallPlanner(const Services& services, const AgentInstallOptions& options,
                 const std::stop_token& stop)
      : services_(services), options_(options), stop_(stop) {}

  AgentInstall Plan(const DomainSummary& summary) const {
    AgentInstall install;
    install.domain = summary;
    install.outcome.asked_for = true;
    if (const absl::Status status = PlanInto(install); !status.ok()) {
      install.hands_off = true;
      Fail(install, status);
    }
    return install;
  }

 private:
  absl::Status PlanInto(AgentInstall& install) const {
    const DomainSummary& domain = install.domain;
    const bool runs = domain.state == DomainState::kRunning;
    VR_RETURN_IF_ERROR(PlanDefinition(install));
    if (install.hands_off) return absl::OkStatus();
    if (!runs && domain.state != DomainState::kPaused) {
      Skip(install, Reason::kNotRunning, std::string(Name(domain.state)));
      install.steps.push_back(OfflineStep(options_, domain));
      return absl::OkStatus();
    }
    VR_ASSIGN_OR_RETURN(const DomainFacts facts, CollectDomain(services_, domain));
    install.live = AgentChannel(facts.live) != nullptr ? PortState::kThere
                   : HasSerialController(facts.live)   ? PortState::kAdd
                                                       : PortState::kAtPowerCycle;
    if (install.live == PortState::kAtPowerCycle)
      install.outcome.reasons.push_back(
          {domain.persistent ? Reason::kPowerCyclePending : Reason::kNoController,
           "until then the domain has no place for the port"});
    if (!runs) {
      Skip(install, Reason::kPaused);
      return absl::OkStatus();
    }
    VR_ASSIGN_OR_RETURN(const auto activity,
                        services_.hypervisor.Activity(domain.uuid, facts.live));
    for (const Blocker& blocker : activity) {
      // A guest may write during a block job.
      if (blocker.reason != Reason::kFrozen && blocker.reason != Reason::kJobActive) continue;
      install.hands_off = true;
      Skip(install, blocker.reason, blocker.detail);
      return absl::OkStatus();
    }
    return PlanGuest(facts, install);
  }

  absl::Status PlanDefinition(AgentInstall& install) const {
    const DomainSummary& domain = install.domain;
    if (!domain.persistent) return absl::OkStatus();
    VR_ASSIGN_OR_RETURN(install.definition,
                        services_.hypervisor.DomainXml(domain.uuid, Hypervisor::Xml::kInactive));
    VR_ASSIGN_OR_RETURN(const xml::Domain saved, xml::ParseDomain(install.definition));
    install.defined = AgentChannel(saved) != nullptr ? PortState::kThere : PortState::kAdd;
    if (install.defined == PortState::kThere) return absl::OkStatus();
    const MigrationStore store(services_.state_directory, services_.hypervisor.Uri());
    VR_ASSIGN_OR_RETURN(const auto migration, store.Latest(domain.uuid));
    if (!migration || IsOver(migration->place().step)) return absl::OkStatus();
    install.hands_off = true;
    Skip(install, Reason::kMigrationUnfinished);
    return absl::OkStatus();
  }

  absl::Status PlanGuest(const DomainFacts& facts, AgentInstall& install) const {
    GuestPrograms programs = ProgramsOf(services_, install.domain.uuid);
    const auto blocked = programs.Blocked(stop_);
    if (absl::IsCancelled(blocked.status()) || absl::IsAborted(blocked.status()))
      return blocked.status();
    if (!blocked.ok() || !blocked->empty()) {
      if (HasThisVersion(facts, install)) return absl::OkStatus();
      if (blocked.ok()) {
        Skip(install, Reason::kCommandsBlocked, absl::StrJoin(*blocked, ", "));
      } else {
        Skip(install, Reason::kNoQemuAgent, Printable(blocked.status().message()));
      }
      install.steps.push_back(OfflineStep(options_, install.domain));
      return absl::OkStatus();
    }
    if (const std::string system = programs.System(stop_); system == "mswindows") {
      Skip(install, Reason::kGuestNotLinux, system);
      return absl::OkStatus();
    }
    const auto look = LookAtGuest(programs, options_.files, stop_);
    if (!look.ok()) return Annotate(look.status(), "look at the guest");
    return PlanFiles(*look, install);
  }

  absl::Status PlanFiles(const GuestLook& look, AgentInstall& install) const {
    install.systemd = look.systemd;
    install.version_before = look.version;
    if (!look.linux) {
      Skip(install, Reason::kGuestNotLinux, "/bin/sh says nothing");
      return absl::OkStatus();
    }
    if (!look.root)
      return absl::PermissionDeniedError("qemu-guest-agent does not run as root in the guest");
    if (look.packaged) {
      install.version = look.version;
      if (look.version != options_.version) Skip(install, Reason::kAgentPackaged, look.version);
      return absl::OkStatus();
    }
    for (const AgentFile& file : options_.files) {
      if (!look.systemd && file.path != kAgentProgram) continue;
      const auto there = look.digests.find(file.path);
      if (there == look.digests.end() || there->second != file.digest)
        install.files.push_back(file.path);
    }
    const bool port = install.live != PortState::kAtPowerCycle;
    install.starts = look.systemd && (!install.files.empty() || (port && !look.active));
    if (install.files.empty()) install.version = look.version;
    if (!look.systemd) {
      install.outcome.reasons.push_back({Reason::kNoSystemd, ""});
      install.steps.push_back(
          {"in the guest, let its init start this at each boot", {kAgentProgram, "daemon"}});
    }
    return absl::OkStatus();
  }

  // Our own agent answers, and is what would be installed.
  bool HasThisVersion(const DomainFacts& facts, AgentInstall& install) const {
    const AgentAccess access =
        OpenAgent(services_, facts, DomainLock::Use::kLook, kAgentTimeout, stop_);
    if (!access.session) return false;
    const auto info = access.session->agent->GetInfo(kAgentTimeout, stop_);
    if (!info.ok()) return false;
    install.version_before = info->agent_version;
    if (info->agent_version != options_.version) return false;
    install.version = info->agent_version;
    return true;
  }

  const Services& services_;
  const AgentInstallOptions& options_;
  const std::stop_token& stop_;
};

// ---- The act.

class Installer {
 public:
  Installer(const Services& services, const AgentInstallOptions& options,
            const std::stop_token& stop)
      : services_(services), options_(options), stop_(stop) {}

  // A failure after the first file was renamed is `outcome.partly`.
  void Install(AgentInstall& install) const {
    auto lock = LockDomain(services_, install.domain.uuid, DomainLock::Use::kWork, stop_);
    if (!lock.ok()) return Undone(install, lock.status());
    if (const absl::Status status = AddPort(install); !status.ok()) return Undone(install, status);
    if (install.outcome.kind != OutcomeKind::kDone) return;
    if (const absl::Status status = Put(install); !status.ok()) {
      install.files.clear();
      return Undone(install, status);
    }
    if (!install.starts) return;
    if (const absl::Status status = StartAndVerify(install); !status.ok()) {
      install.outcome.partly = true;
      Fail(install, Annotate(status, "installed, but"));
    }
  }

 private:
  // What was planned is not done.
  static void Undone(AgentInstall& install, const absl::Status& status) {
    install.starts = false;
    if (install.live == PortState::kAdd) install.live = PortState::kNone;
    if (install.defined == PortState::kAdd) {
      install.defined = PortState::kNone;
      if (install.live == PortState::kAtPowerCycle) install.live = PortState::kNone;
      std::erase_if(install.outcome.reasons, [](const Blocker& reason) {
        return reason.reason == Reason::kPowerCyclePending;
      });
    }
    Fail(install, status);
  }

  void Tell(const AgentInstall& install, absl::string_view what) const {
    if (options_.progress) options_.progress(install.domain, what);
  }

  absl::Status AddPort(AgentInstall& install) const {
    const std::string& uuid = install.domain.uuid;
    if (install.defined == PortState::kAdd) {
      VR_ASSIGN_OR_RETURN(const std::string now,
                          services_.hypervisor.DomainXml(uuid, Hypervisor::Xml::kInactive));
      if (now != install.definition)
        return absl::FailedPreconditionError("its definition changed since it was planned");
      Tell(install, "define the port");
      VR_RETURN_IF_ERROR(DefinePort(uuid));
      install.defined = PortState::kAdded;
    }
    if (install.live == PortState::kAdd) {
      Tell(install, "plug the port in");
      const absl::Status plugged = services_.hypervisor.AttachDevice(
          uuid, absl::StrCat("<channel type='unix'><target type='virtio' name='", kAgentChannelName,
                             "'/></channel>"));
      install.live = plugged.ok() ? PortState::kAdded : PortState::kAtPowerCycle;
      if (!plugged.ok())
        install.outcome.reasons.push_back(
            {Reason::kPowerCyclePending, Printable(plugged.message())});
    }
    return absl::OkStatus();
  }

  absl::Status DefinePort(const std::string& uuid) const {
    Hypervisor& hypervisor = services_.hypervisor;
    VR_ASSIGN_OR_RETURN(const std::string old_xml,
                        hypervisor.DomainXml(uuid, Hypervisor::Xml::kInactiveWithSecrets));
    xml::RewriteOptions only_port;
    only_port.machine = xml::MachinePolicy::kKeep;
    only_port.discard = xml::DiscardPolicy::kKeep;
    only_port.channel = xml::ChannelPolicy::kAdd;
    VR_ASSIGN_OR_RETURN(const xml::Rewritten rewritten, xml::Rewrite(old_xml, only_port));
    if (rewritten.changes.empty())
      return absl::UnimplementedError("its definition takes no channel");
    VR_RETURN_IF_ERROR(hypervisor.Define(rewritten.text));
    VR_ASSIGN_OR_RETURN(const std::string stored,
                        hypervisor.DomainXml(uuid, Hypervisor::Xml::kInactiveWithSecrets));
    VR_ASSIGN_OR_RETURN(const std::string difference, xml::FirstDifference(rewritten.text, stored));
    if (difference.empty()) return absl::OkStatus();
    const absl::Status back = hypervisor.Define(old_xml);
    return absl::DataLossError(absl::StrCat(
        "libvirt stored something else than what was defined (", difference, "); ",
        back.ok() ? "the old definition was put back"
                  : absl::StrCat("the old definition could not be put back: ", back.message())));
  }

  absl::Status Put(AgentInstall& install) const {
    if (install.files.empty()) return absl::OkStatus();
    std::vector<AgentFile> files;
    std::copy_if(options_.files.begin(), options_.files.end(), std::back_inserter(files),
                 [&](const AgentFile& file) { return Contains(install.files, file.path); });
    GuestPrograms programs = ProgramsOf(services_, install.domain.uuid);
    const PutContext context{services_.now, [&](absl::string_view what) { Tell(install, what); }};
    VR_ASSIGN_OR_RETURN(const std::string version, PutIntoGuest(programs, files, context, stop_));
    install.version = version.empty() ? install.version_before : version;
    return absl::OkStatus();
  }

  absl::Status StartAndVerify(AgentInstall& install) const {
    Tell(install, "start the agent");
    GuestPrograms programs = ProgramsOf(services_, install.domain.uuid);
    VR_RETURN_IF_ERROR(StartInGuest(programs, stop_));
    if (install.live == PortState::kAtPowerCycle) return absl::OkStatus();
    absl::Status why;
    for (const absl::Time limit = services_.now() + kComingUp; services_.now() < limit;
         services_.sleep(kPause)) {
      if (stop_.stop_requested()) return absl::CancelledError("interrupted");
      const auto version = AskVersion(install.domain);
      if (version.ok()) {
        install.version = *version;
        return absl::OkStatus();
      }
      why = version.status();
    }
    return Annotate(why, "it does not answer");
  }

  absl::StatusOr<std::string> AskVersion(const DomainSummary& domain) const {
    VR_ASSIGN_OR_RETURN(const DomainFacts facts, CollectDomain(services_, domain));
    const AgentAccess access = OpenAgentLocked(services_, facts, kAgentTimeout, stop_);
    if (!access.session) return AgentFailure(*access.blocker);
    VR_ASSIGN_OR_RETURN(const GuestFacts info,
                        access.session->agent->GetInfo(kAgentTimeout, stop_));
    return info.agent_version;
  }

  const Services& services_;
  const AgentInstallOptions& options_;
  const std::stop_token& stop_;
};

}  // namespace

absl::string_view Name(PortState state) {
  constexpr std::array<absl::string_view, 5> kNames = {"none", "there", "to-add", "added",
                                                       "at-power-cycle"};
  return kNames[static_cast<size_t>(state)];
}

bool HasWork(const AgentInstall& install) {
  const bool ports = install.defined == PortState::kAdd || install.live == PortState::kAdd;
  const bool guest =
      install.outcome.kind == OutcomeKind::kDone && (!install.files.empty() || install.starts);
  const bool open =
      install.outcome.kind == OutcomeKind::kDone || install.outcome.kind == OutcomeKind::kSkipped;
  return open && !install.hands_off && (ports || guest);
}

absl::StatusOr<std::vector<AgentInstall>> PlanAgentInstall(const Services& services,
                                                           const AgentInstallOptions& options,
                                                           const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(const std::vector<DomainSummary> selected,
                      SelectDomains(services.hypervisor, options.domains));
  const InstallPlanner planner(services, options, stop);
  std::vector<AgentInstall> plan(selected.size());
  ForEachInParallel(selected.size(), kGuestsAtOnce, [&](size_t i) {
    if (!stop.stop_requested()) plan[i] = planner.Plan(selected[i]);
  });
  if (stop.stop_requested()) return absl::CancelledError("interrupted");
  return plan;
}

std::vector<AgentInstall> ExecuteAgentInstall(const Services& services,
                                              const AgentInstallOptions& options,
                                              std::vector<AgentInstall> plan,
                                              const std::stop_token& stop) {
  const Installer installer(services, options, stop);
  for (AgentInstall& install : plan) {
    if (!HasWork(install)) continue;
    if (stop.stop_requested()) {
      install.outcome.kind = OutcomeKind::kCancelled;
    } else {
      installer.Install(install);
    }
  }
  return plan;
}

}  // namespace virt_reclaim
