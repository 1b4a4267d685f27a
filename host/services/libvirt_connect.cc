#include "host/services/libvirt_connect.h"

#include <libvirt/virterror.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "base/escape.h"
#include "base/status.h"
#include "host/services/call_watchdog.h"
#include "host/services/libvirt_error.h"

namespace virt_reclaim {
namespace {

constexpr int kSilentFailures = 5;  // of an open
constexpr absl::Duration kAfterSilentFailure = absl::Milliseconds(200);
// Somebody types a password, or a driver starts within this process and asks each QEMU what it can.
constexpr absl::Duration kPatient = absl::Minutes(5);
constexpr char kOnlyWithoutQuestions[] = "no_tty=1";

void StartEventLoop() {
  virEventRegisterDefaultImpl();
  // It ends with the process: libvirt has no way to unregister an implementation.
  std::thread([] {
    while (virEventRunDefaultImpl() == 0) {
    }
  }).detach();
}

// Once per process. Streams and monitors need the loop to be there before the first connection is
// opened.
void InitializeLibvirt(bool debug) {
  static std::once_flag once;
  std::call_once(once, [debug] {
    if (!debug) {
      virSetErrorFunc(nullptr, [](void*, virErrorPtr) {});
      setenv("LIBVIRT_LOG_OUTPUTS", "4:file:/dev/null", 0);
    }
    virInitialize();
    StartEventLoop();
  });
}

// libvirt said no, and not why.
bool IsSilent() {
  const virError* error = virGetLastError();
  return error == nullptr || error->message == nullptr;
}

bool IsOverSsh(absl::string_view uri) {
  return absl::StrContains(uri.substr(0, uri.find("://")), "+ssh");
}

std::string Connecting(const ConnectOptions& options) {
  return options.uri.empty() ? std::string("connect to libvirt")
                             : absl::StrCat("connect to '", Printable(options.uri), "'");
}

// `uri`: empty: libvirt's own choice.
absl::StatusOr<std::string> OpenUri(const std::string& uri, const std::string& connecting,
                                    LibvirtConnection& connection) {
  const char* name = uri.empty() ? nullptr : uri.c_str();
  connection.reset(virConnectOpen(name));
  // libvirt 9.0: an embedded open that meets a guest in the middle of its power-off may fail
  // without a word; the next one does not.
  for (int i = 1; i < kSilentFailures && connection == nullptr && IsSilent(); ++i) {
    absl::SleepFor(kAfterSilentFailure);
    connection.reset(virConnectOpen(name));
  }
  if (connection == nullptr) {
    const absl::Status status = LibvirtStatus(connecting);
    // Of what is wrong with a URI, libvirt calls some an invalid argument and some an internal
    // error.
    const bool known = absl::IsAborted(status) || absl::IsPermissionDenied(status);
    return known ? status : absl::UnavailableError(status.message());
  }
  virResetLastError();
  const Handle<char, free> canonical(virConnectGetURI(connection.get()));
  return std::string(canonical == nullptr ? "" : canonical.get());
}

// What libvirt opens when nobody names a URI, as far as the environment says.
std::string UriOf(const ConnectOptions& options) {
  const char* standing = getenv("LIBVIRT_DEFAULT_URI");
  return options.uri.empty() && standing != nullptr ? standing : options.uri;
}

}  // namespace

std::string UriThatAsksNothing(const std::string& uri) {
  if (!IsOverSsh(uri) || absl::StrContains(uri, "no_tty=")) return uri;
  return absl::StrCat(uri, absl::StrContains(uri, "?") ? "&" : "?", kOnlyWithoutQuestions);
}

absl::StatusOr<OpenedLibvirt> OpenLibvirt(const ConnectOptions& options,
                                          const std::stop_token& stop) {
  InitializeLibvirt(options.debug);
  const std::string given = UriOf(options);
  const std::string used = options.may_ask ? given : UriThatAsksNothing(given);
  const bool patient =
      absl::StartsWith(given, "qemu:///embed") || (options.may_ask && IsOverSsh(given));
  const auto connection = std::make_shared<LibvirtConnection>();
  CallWatchdog watchdog(Connecting(options), 1, options.limit);
  VR_ASSIGN_OR_RETURN(std::string uri,
                      watchdog.Run(
                          [connection, used, connecting = Connecting(options)] {
                            return OpenUri(used, connecting, *connection);
                          },
                          patient ? std::max(options.limit, kPatient) : options.limit,
                          [] { return absl::OkStatus(); }, stop));
  if (used != given) {
    const auto ours = uri.rfind(kOnlyWithoutQuestions);
    if (ours != std::string::npos) uri.erase(std::max<size_t>(ours, 1) - 1);
  }
  return OpenedLibvirt{std::move(*connection), std::move(uri)};
}

}  // namespace virt_reclaim
