// virt-reclaim-guestfs: tells virt-reclaim what the images of a guest that is off say about its
// configuration. A program of its own, so that virt-reclaim does not depend on libguestfs, and so
// that what reads hostile filesystems can be killed.
//
// Arguments: FORMAT:PATH for each disk of the guest. On stdout comes one serialized
// virt_reclaim.agent.v1.PreflightResponse and the status is 0; else the status is 1 and on stderr
// is one line that says why.
//
// With --trim=DEVICE, once or more, before them, the filesystems on these devices are mounted and
// trimmed instead, and those of --zero=DEVICE filled with zeroes and discarded, and on stdout comes
// a line for each: DEVICE, a tab, and "ok" or what went wrong: "mount: ..." when it cannot be
// mounted, "unsupported: ..." when it cannot be trimmed.
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/standard_fds.h"
#include "base/status.h"
#include "guest-config/preflight_proto.h"
#include "host/guestfs/offline_reader.h"
#include "host/guestfs/offline_trimmer.h"

namespace virt_reclaim {
namespace {

constexpr size_t kMaxImages = 32;
constexpr absl::string_view kTrimOption = "--trim=";
constexpr absl::string_view kZeroOption = "--zero=";

bool IsJob(absl::string_view word) {
  return absl::StartsWith(word, kTrimOption) || absl::StartsWith(word, kZeroOption);
}

// A SIGTERM goes to the whole process group. QEMU ends by it, every call of libguestfs fails then,
// and this program gets to take its temporary directories away.
void KeepOnForCleanup() {
  struct sigaction action = {};
  action.sa_handler = [](int) {};  // not SIG_IGN, which QEMU would inherit
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);
  const rlimit no_core = {0, 0};  // it would have the guest's files in it
  setrlimit(RLIMIT_CORE, &no_core);
}

absl::StatusOr<OfflineImage> ParseImage(const std::string& word) {
  const size_t colon = word.find(':');
  OfflineImage image;
  if (colon != std::string::npos) {
    image.format = word.substr(0, colon);
    image.path = word.substr(colon + 1);
  }
  const bool plain = std::all_of(image.format.begin(), image.format.end(), absl::ascii_isalnum);
  if (image.format.empty() || !plain || image.path.empty() || image.path[0] != '/') {
    return absl::InvalidArgumentError(absl::StrCat("'", word, "' is not FORMAT:/PATH"));
  }
  return image;
}

absl::Status WriteAll(const std::string& bytes) {
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t n = write(STDOUT_FILENO, bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "write to standard output");
    done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::Status Run(const std::vector<std::string>& words) {
  std::vector<OfflineImage> images;
  std::vector<DeviceJob> jobs;
  for (const std::string& word : words) {
    if (IsJob(word)) {
      jobs.push_back({word.substr(kTrimOption.size()), absl::StartsWith(word, kZeroOption)});
      continue;
    }
    VR_ASSIGN_OR_RETURN(OfflineImage image, ParseImage(word));
    images.push_back(std::move(image));
  }
  if (images.size() > kMaxImages) return absl::ResourceExhaustedError("it has too many disks");
  if (!jobs.empty()) {
    VR_ASSIGN_OR_RETURN(const std::vector<TrimmedDevice> trimmed, TrimOfflineGuest(images, jobs));
    std::string text;
    for (const TrimmedDevice& device : trimmed) {
      absl::StrAppend(&text, device.device, "\t",
                      absl::IsUnimplemented(device.status) ? "unsupported: " : "",
                      device.status.ok() ? "ok" : Printable(device.status.message()), "\n");
    }
    return WriteAll(text);
  }
  VR_ASSIGN_OR_RETURN(const agent::Preflight preflight, ReadOfflineGuest(images));
  agent::v1::PreflightResponse response;
  ToProto(preflight, response);
  return WriteAll(response.SerializeAsString());
}

int Main(int argc, char** argv) {
  KeepStandardFds();
  const std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  if (words == std::vector<std::string>{"--version"}) {
    puts("virt-reclaim-guestfs " VIRT_RECLAIM_VERSION);
    return 0;
  }
  if (words.empty() || (words[0][0] == '-' && !IsJob(words[0]))) {
    fputs("usage: virt-reclaim-guestfs [--trim=DEVICE|--zero=DEVICE]... FORMAT:/PATH...\n", stderr);
    return 2;
  }
  KeepOnForCleanup();
  const absl::Status status = Run(words);
  if (status.ok()) return 0;
  fputs(absl::StrCat(Printable(status.message()), "\n").c_str(), stderr);
  return 1;
}

}  // namespace
}  // namespace virt_reclaim

int main(int argc, char** argv) {
  try {
    return virt_reclaim::Main(argc, argv);
  } catch (const std::exception& error) {
    fprintf(stderr, "internal error: %s\n", error.what());
    return 1;
  }
}
