#include "host/sparsify/overlay.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/status.h"
#include "base/subprocess.h"
#include "host/sparsify/free_ranges.h"
#include "host/sparsify/nbd_client.h"
#include "host/sparsify/qemu_server.h"

namespace virt_reclaim::sparsify {
namespace {

constexpr uint64_t kCluster = 65536;             // qemu-img's default
constexpr uint64_t kStep = uint64_t{1} << 30;    // of marking; nothing is written for it but tables
constexpr std::chrono::hours kConvertLimit{24};  // terabytes onto a slow disk

// `arguments` without the program; FailedPrecondition with what it printed.
absl::Status RunQemuImg(std::vector<std::string> arguments, std::chrono::milliseconds deadline,
                        const std::stop_token& stop) {
  arguments.insert(arguments.begin(), kQemuImg);
  CommandLimits limits;
  limits.deadline = deadline;
  limits.keep_end = true;
  limits.stop = stop;
  VR_ASSIGN_OR_RETURN(const CommandResult result, RunCommand(arguments, limits));
  if (result.exit_status == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      Printable(absl::StripAsciiWhitespace(result.output), size_t{1} << 10));
}

}  // namespace

absl::StatusOr<Overlay> Overlay::Make(const std::string& image, const std::string& format,
                                      const std::string& directory, const std::stop_token& stop) {
  UniqueFd file(open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (!file.valid())
    return ErrnoStatus(errno,
                       absl::StrCat("make a temporary file in '", Printable(directory), "'"));
  std::string path = absl::StrCat("/proc/", getpid(), "/fd/", file.get());
  VR_RETURN_IF_ERROR(RunQemuImg(
      {"create", "-q", "-f", "qcow2", "-o", absl::StrCat("cluster_size=", kCluster, ",compat=1.1"),
       "-b", image, "-F", format, path},
      std::chrono::minutes(1), stop));
  return Overlay(std::move(file), std::move(path));
}

absl::StatusOr<SparsifyResult> Overlay::ZeroFree(const SparsifyOptions& options,
                                                 const ProgressCallback& progress,
                                                 const std::stop_token& stop) {
  QemuServerOptions wanted = {options.tools.qemu_storage_daemon, options.tools.run_directory, path_,
                              "qcow2"};
  wanted.writable = true;
  wanted.backing = true;
  VR_ASSIGN_OR_RETURN(QemuServer server, QemuServer::Start(wanted));
  auto reading = ConnectForReading(server.TakeReadConnection(), kReadExport);
  if (!reading.ok()) return server.Failure();
  auto trimmer = NbdTrimmer::Connect(server.TakeTrimConnection(), kTrimExport);
  if (!trimmer.ok()) return server.Failure();

  const freemap::WorkerDisk disk = {reading->fd.get(), reading->size_bytes};
  freemap::WorkerOptions worker = options.worker;
  worker.read.min_bytes = kCluster;
  VR_ASSIGN_OR_RETURN(freemap::ScanResult scan, freemap::ReadFreeMaps({&disk, 1}, worker, stop));
  reading->fd.Reset();
  LeaveOut(options.leave_out, scan);
  SparsifyResult result;
  const std::vector<Range> free = FreeGranules(scan.runs, 0, kCluster);
  DiskResult& marked = result.disks.emplace_back();
  marked.size_bytes = (*trimmer)->size_bytes();
  marked.granularity = kCluster;
  marked.reclaimable_bytes = TotalBytes(free);
  for (freemap::Filesystem& found : scan.filesystems)
    result.filesystems.push_back({std::move(found), 0});
  SparsifyProgress made = {0, TotalBytes(free)};
  for (const Range& range : free) {
    for (uint64_t at = range.begin; at < range.end;) {
      if (stop.stop_requested()) return absl::CancelledError("interrupted");
      const Range step = {at, std::min(range.end, at + kStep)};
      VR_RETURN_IF_ERROR((*trimmer)->Zero(step));
      made.done_bytes += step.size();
      if (progress) progress(made);
      at = step.end;
    }
  }
  marked.given_back_bytes = made.done_bytes;
  VR_RETURN_IF_ERROR((*trimmer)->Flush());
  trimmer->reset();
  VR_RETURN_IF_ERROR(server.Stop());
  return result;
}

absl::Status Overlay::Convert(const Output& output, const std::stop_token& stop) const {
  std::vector<std::string> arguments = {"convert", "-f", "qcow2", "-O", output.format};
  if (output.compress) arguments.emplace_back("-c");
  if (!output.options.empty()) {
    arguments.emplace_back("-o");
    arguments.push_back(output.options);
  }
  arguments.push_back(path_);
  arguments.push_back(output.path);
  return RunQemuImg(std::move(arguments), kConvertLimit, stop);
}

}  // namespace virt_reclaim::sparsify
