#include "guest-agent/daemon.h"

#include <malloc.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/journal.h"
#include "guest-agent/port_finder.h"
#include "guest-agent/server.h"
#include "guest-agent/service.h"
#include "guest-agent/service_manager.h"
#include "guest-agent/stop_limit.h"
#include "proto/link/bridge.h"

namespace virt_reclaim::agent {
namespace {

constexpr std::chrono::milliseconds kStopLimit{900};

// In the journal (docs/journal.md); for ever.
constexpr absl::string_view kStateMessage = "a595a9c2d0cb40ab992fcee54054bffa";

// Says a thing once, until something else is to be said: a port may be missing for a year.
class ChangeLog {
 public:
  explicit ChangeLog(ServiceManager& manager) : manager_(manager) {}

  // `state`: one word.
  void Say(JournalPriority priority, absl::string_view state, std::string message) {
    if (message == last_) return;
    const std::string text = Printable(message);
    Log({kStateMessage, priority, text, {{"VIRT_RECLAIM_STATE", std::string(state)}}});
    manager_.Ready(text);
    last_ = std::move(message);
  }

 private:
  void Log(const JournalEntry& entry) {
    // Opened for each: an idle agent has no socket.
    if (is_journal_ && Journal(kProgram).Send(entry)) return;
    fputs(absl::StrCat(kProgram, ": ", entry.message, "\n").c_str(), stderr);
  }

  static constexpr absl::string_view kProgram = "virt-reclaim-agent";
  ServiceManager& manager_;
  const bool is_journal_ = IsJournal(STDERR_FILENO);
  std::string last_;
};

absl::StatusOr<std::unique_ptr<link::Port>> FindAndOpen(const DaemonOptions& options) {
  if (!options.port.empty()) return OpenPort(options.port);
  const auto path = FindPort(kPortName);
  if (!path) {
    return absl::NotFoundError(
        absl::StrCat("waiting for a virtio-serial port named '", kPortName,
                     "' (the domain needs a <channel type='unix'> with that target name)"));
  }
  return OpenPort(*path);
}

}  // namespace

int RunDaemon(const DaemonOptions& options, const std::stop_token& stop) {
  // One heap: with one for each of gRPC's threads, what they leave behind is never given back.
  mallopt(M_ARENA_MAX, 1);
  ServiceManager manager;
  const StopLimit limit(stop, kStopLimit);
  ChangeLog log(manager);
  const link::Heartbeat heartbeat = {manager.alive_every(), manager.alive_every().count() > 0
                                                                ? [&manager] { manager.Alive(); }
                                                                : std::function<void()>()};
  AgentService service(AgentService::RealBackend());
  service.CleanUp();
  AgentServer server(service);
  MemoryGuard memory;
  PortWaiter waiter;
  while (!stop.stop_requested()) {
    manager.Alive();
    auto port = FindAndOpen(options);
    if (!port.ok()) {
      log.Say(JournalPriority::kNotice, "waiting", std::string(port.status().message()));
      waiter.Wait(stop);
      continue;
    }
    log.Say(JournalPriority::kInfo, "serving", "serving");
    // The link's ends close with it, before the server goes: a peer that never reads would hold up
    // the server's end.
    link::AgentLink link(
        *std::move(port),
        [&](UniqueFd socket) {
          const absl::Status attached = server.Attach(std::move(socket));
          if (!attached.ok())
            log.Say(JournalPriority::kWarning, "refused", std::string(attached.message()));
        },
        [&memory](bool start) { return memory(start); });
    const absl::Status ended = link.Run(stop, heartbeat);
    if (ended.ok()) break;
    log.Say(JournalPriority::kNotice, "port-gone",
            absl::StrCat("the port is gone: ", ended.message()));
    waiter.Wait(stop);
  }
  manager.Stopping();
  return 0;
}

}  // namespace virt_reclaim::agent
