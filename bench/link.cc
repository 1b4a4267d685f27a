// What one call costs: over our link, and over qemu-guest-agent, on the same guest, in the same
// process and libvirt connection. The contestants take turns, because a machine that is busy for a
// second should be busy for all of them; what counts is the ratio within a round.
#include <libvirt/libvirt-qemu.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/handle.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "host/services/guest_agent.h"
#include "host/services/libvirt_error.h"
#include "host/services/libvirt_port.h"

namespace virt_reclaim {
namespace {

using Connection = Handle<virConnect, virConnectClose>;
using Domain = Handle<virDomain, virDomainFree>;

constexpr absl::Duration kCallTimeout = absl::Seconds(20);
constexpr int kWarmUpCalls = 20;

struct Options {
  std::string uri, domain, raw_socket;
  int rounds = 5, calls = 200, trims = 10;
  bool json = false;
};

struct Contestant {
  std::string name;
  std::function<absl::Status()> call;
};

struct Result {
  std::string name;
  std::vector<std::vector<double>> rounds;  // microseconds, a vector for each round
};

double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1,
                         static_cast<size_t>(q * static_cast<double>(values.size())))];
}

std::vector<double> All(const Result& result) {
  std::vector<double> all;
  for (const auto& round : result.rounds) all.insert(all.end(), round.begin(), round.end());
  return all;
}

// The first contestant's median over `other`'s, round by round.
std::vector<double> Ratios(const Result& first, const Result& other) {
  std::vector<double> ratios;
  for (size_t i = 0; i < first.rounds.size(); ++i)
    ratios.push_back(Quantile(first.rounds[i], 0.5) / Quantile(other.rounds[i], 0.5));
  return ratios;
}

// A second qemu-ga, on a port that libvirt leaves alone: what its protocol costs without libvirt.
class RawGuestAgent {
 public:
  static absl::StatusOr<std::unique_ptr<RawGuestAgent>> Connect(const std::string& path) {
    sockaddr_un address{};
    if (path.size() >= sizeof address.sun_path)
      return absl::InvalidArgumentError("the raw socket's path is too long");
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd.valid() ||
        connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
      return ErrnoStatus(errno, absl::StrCat("connect to '", path, "'"));
    const timeval limit{.tv_sec = absl::ToInt64Seconds(kCallTimeout), .tv_usec = 0};
    setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    auto agent = std::unique_ptr<RawGuestAgent>(new RawGuestAgent(std::move(fd)));
    VR_RETURN_IF_ERROR(agent->Command(R"({"execute":"guest-sync","arguments":{"id":1}})"));
    return agent;
  }

  absl::Status Ping() { return Command(R"({"execute":"guest-ping"})"); }

 private:
  explicit RawGuestAgent(UniqueFd fd) : fd_(std::move(fd)) {}

  absl::Status Command(const std::string& command) {
    const std::string line = command + "\n";
    if (send(fd_.get(), line.data(), line.size(), MSG_NOSIGNAL) !=
        static_cast<ssize_t>(line.size()))
      return ErrnoStatus(errno, "send to qemu-ga");
    std::string answer;
    char buffer[4096];
    while (answer.empty() || answer.back() != '\n') {
      const ssize_t n = recv(fd_.get(), buffer, sizeof buffer, 0);
      if (n <= 0) return ErrnoStatus(n == 0 ? ECONNRESET : errno, "receive from qemu-ga");
      answer.append(buffer, static_cast<size_t>(n));
    }
    if (answer.find("\"error\"") != std::string::npos) return absl::InternalError(answer);
    return absl::OkStatus();
  }

  UniqueFd fd_;
};

absl::Status QemuAgent(virDomainPtr domain, const char* command) {
  char* answer = virDomainQemuAgentCommand(domain, command,
                                           static_cast<int>(absl::ToInt64Seconds(kCallTimeout)), 0);
  if (answer == nullptr) return LibvirtStatus(command);
  free(answer);
  return absl::OkStatus();
}

// Of a connection just opened, libvirt is still joining the guest's monitor and qemu-ga.
absl::Status WaitForQemuAgent(virDomainPtr domain) {
  const absl::Time limit = absl::Now() + absl::Seconds(30);
  absl::Status status;
  do {
    status = QemuAgent(domain, R"({"execute":"guest-ping"})");
    if (status.ok()) return status;
    absl::SleepFor(absl::Milliseconds(200));
  } while (absl::Now() < limit);
  return status;
}

absl::Status TrimAll(GuestAgent& agent) {
  std::vector<GuestTrim> finished;
  VR_RETURN_IF_ERROR(agent.Trim({}, kCallTimeout, {}, nullptr, finished));
  for (const GuestTrim& trim : finished) {
    if (trim.result == GuestTrimResult::kDone) return absl::OkStatus();
  }
  return absl::FailedPreconditionError("the guest has no filesystem to trim");
}

absl::StatusOr<std::vector<Result>> Race(const std::vector<Contestant>& contestants, int rounds,
                                         int calls) {
  for (const Contestant& contestant : contestants) {
    for (int i = 0; i < std::min(calls, kWarmUpCalls); ++i) VR_RETURN_IF_ERROR(contestant.call());
  }
  std::vector<Result> results;
  for (const Contestant& contestant : contestants) results.push_back({contestant.name, {}});
  for (int round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < contestants.size(); ++i) {
      std::vector<double> times;
      for (int n = 0; n < calls; ++n) {
        const auto begin = std::chrono::steady_clock::now();
        VR_RETURN_IF_ERROR(contestants[i].call());
        const std::chrono::duration<double, std::micro> took =
            std::chrono::steady_clock::now() - begin;
        times.push_back(took.count());
      }
      results[i].rounds.push_back(std::move(times));
    }
  }
  return results;
}

void PrintText(const std::vector<Result>& results) {
  for (const Result& result : results) {
    const auto all = All(result);
    std::printf("%-44s median %7.0f us   p95 %7.0f us   %zu calls\n", result.name.c_str(),
                Quantile(all, 0.5), Quantile(all, 0.95), all.size());
  }
  for (size_t i = 1; i < results.size(); ++i) {
    const auto ratios = Ratios(results[0], results[i]);
    std::printf("  %s / %s: median of %zu rounds %.2f (%.2f to %.2f)\n", results[0].name.c_str(),
                results[i].name.c_str(), ratios.size(), Quantile(ratios, 0.5),
                *std::min_element(ratios.begin(), ratios.end()),
                *std::max_element(ratios.begin(), ratios.end()));
  }
}

nlohmann::json ToJson(const std::vector<Result>& results) {
  nlohmann::json series = nlohmann::json::array();
  for (const Result& result : results) {
    const auto all = All(result);
    series.push_back({{"name", result.name},
                      {"calls", all.size()},
                      {"median_us", Quantile(all, 0.5)},
                      {"p95_us", Quantile(all, 0.95)},
                      {"ratios", Ratios(results[0], result)}});
  }
  return series;
}

absl::Status Run(const Options& options) {
  virSetErrorFunc(nullptr, [](void*, virErrorPtr) {});
  virEventRegisterDefaultImpl();
  std::thread([] {
    while (virEventRunDefaultImpl() == 0) {
    }
  }).detach();
  const Connection connection(virConnectOpen(options.uri.c_str()));
  if (connection == nullptr) return LibvirtStatus("connect to libvirt");
  const Domain domain(virDomainLookupByName(connection.get(), options.domain.c_str()));
  if (domain == nullptr) return LibvirtStatus("find the domain");
  VR_RETURN_IF_ERROR(WaitForQemuAgent(domain.get()));

  VR_ASSIGN_OR_RETURN(auto port, OpenLibvirtPort(domain.get(), kAgentChannelName));
  VR_ASSIGN_OR_RETURN(auto agent, ConnectGuestAgent(std::move(port), kCallTimeout, {}));

  std::vector<Contestant> calls = {
      {"GetInfo (virt-reclaim-agent)", [&] { return agent->GetInfo(kCallTimeout, {}).status(); }},
      {"guest-ping (virDomainQemuAgentCommand)",
       [&] { return QemuAgent(domain.get(), R"({"execute":"guest-ping"})"); }},
  };
  std::unique_ptr<RawGuestAgent> raw;
  if (!options.raw_socket.empty()) {
    VR_ASSIGN_OR_RETURN(raw, RawGuestAgent::Connect(options.raw_socket));
    calls.push_back({"guest-ping (qemu-ga's raw socket)", [&] { return raw->Ping(); }});
  }
  VR_ASSIGN_OR_RETURN(const auto unary, Race(calls, options.rounds, options.calls));
  VR_ASSIGN_OR_RETURN(
      const auto trim,
      Race({{"Trim (virt-reclaim-agent)", [&] { return TrimAll(*agent); }},
            {"guest-fstrim (virDomainQemuAgentCommand)",
             [&] { return QemuAgent(domain.get(), R"({"execute":"guest-fstrim"})"); }}},
           options.rounds, options.trims));
  if (options.json) {
    std::puts(nlohmann::json{{"unary", ToJson(unary)}, {"trim", ToJson(trim)}}.dump(2).c_str());
    return absl::OkStatus();
  }
  PrintText(unary);
  PrintText(trim);
  return absl::OkStatus();
}

}  // namespace
}  // namespace virt_reclaim

int main(int argc, char** argv) {
  virt_reclaim::Options options;
  CLI::App app("What a call costs over our link, beside qemu-guest-agent", "bench_link");
  app.add_option("URI", options.uri, "libvirt URI")->required();
  app.add_option("DOMAIN", options.domain, "a running domain with both agents")->required();
  app.add_option("--rounds", options.rounds)->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--calls", options.calls, "unary calls of each kind in a round")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--trims", options.trims, "trims of each kind in a round")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--raw-socket", options.raw_socket,
                 "socket of a qemu-ga that libvirt leaves alone");
  app.add_flag("--json", options.json);
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = virt_reclaim::Run(options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "bench_link: %s\n", status.ToString().c_str());
  return 1;
}
