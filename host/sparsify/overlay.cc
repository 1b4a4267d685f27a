#include "host/sparsify/overlay.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <iterator>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/escape.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "host/sparsify/copy_target.h"
#include "host/sparsify/free_ranges.h"
#include "host/sparsify/nbd_client.h"
#include "host/sparsify/qemu_img.h"
#include "host/sparsify/qemu_server.h"
#include "host/sparsify/shared_blocks.h"

namespace virt_reclaim::sparsify {
namespace {

constexpr uint64_t kCluster = 65536;           // qemu-img's default
constexpr uint64_t kStep = uint64_t{1} << 30;  // of marking; nothing is written for it but tables
constexpr off_t kTryBytes = off_t{1} << 20;
constexpr std::chrono::minutes kShortLimit{1};
constexpr std::chrono::hours kConvertLimit{24};  // terabytes onto a slow disk

// data_file=, backing_file=
bool HasOtherFiles(const Overlay::Output& output) {
  return absl::StrContains(output.options, "_file=");
}

// What is compressed, or preallocated as asked, has blocks of its own.
bool MayShareBlocks(const Overlay::Output& output) {
  return (output.format == "raw" || output.format == "qcow2") && !output.compress &&
         !HasOtherFiles(output) && !absl::StrContains(output.options, "preallocation");
}

std::vector<std::string> ConvertArguments(const char* format, const Overlay::Output& output,
                                          const std::string& from, const std::string& to) {
  std::vector<std::string> arguments = {"convert", "-f", format, "-O", output.format};
  if (output.compress) arguments.emplace_back("-c");
  if (!output.options.empty()) {
    arguments.emplace_back("-o");
    arguments.push_back(output.options);
  }
  // Else qemu-img asks nobody to keep what it writes; of the image itself that is done afterwards.
  if (HasOtherFiles(output)) {
    arguments.emplace_back("-t");
    arguments.emplace_back("writeback");
  }
  arguments.push_back(from);
  arguments.push_back(to);
  return arguments;
}

}  // namespace

absl::StatusOr<Overlay> Overlay::Make(const std::string& image, const std::string& format,
                                      const std::string& directory, const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(TemporaryDirectory temporary,
                      TemporaryDirectory::Make(directory, "virt-reclaim-overlay-"));
  Overlay overlay;
  overlay.path_ = temporary.path() + "/overlay.qcow2";
  overlay.image_ = image;
  overlay.cluster_ = kCluster;
  overlay.directory_.emplace(std::move(temporary));
  VR_RETURN_IF_ERROR(RunQemuImg({"create", "-q", "-f", "qcow2", "-o",
                                 absl::StrCat("cluster_size=", kCluster, ",compat=1.1"), "-b",
                                 image, "-F", format, overlay.path_},
                                kShortLimit, stop)
                         .status());
  return overlay;
}

absl::StatusOr<Overlay> Overlay::Use(const std::string& overlay, const std::string& image,
                                     const std::stop_token& stop) {
  Overlay used;
  std::error_code error;
  used.path_ = std::filesystem::absolute(overlay, error).string();
  if (error) return ErrnoStatus(error.value(), absl::StrCat("resolve '", Printable(overlay), "'"));
  VR_ASSIGN_OR_RETURN(
      const std::string text,
      RunQemuImg({"info", "-f", "qcow2", "--output=json", used.path_}, kShortLimit, stop));
  const auto info = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  const auto backing = info.is_object() ? info.find("full-backing-filename") : info.end();
  const auto cluster = info.is_object() ? info.find("cluster-size") : info.end();
  const bool known = backing != info.end() && backing->is_string() && cluster != info.end() &&
                     cluster->is_number_unsigned();
  if (!known || !std::filesystem::equivalent(backing->get<std::string>(), image, error) || error) {
    return absl::FailedPreconditionError(absl::StrCat(
        "'", Printable(overlay), "' does not stand on '", Printable(image), "' itself"));
  }
  used.image_ = image;
  used.cluster_ = std::max(cluster->get<uint64_t>(), kCluster);
  return used;
}

absl::Status Overlay::TakeBitmaps(const std::string& image, const std::vector<ImageBitmap>& bitmaps,
                                  const std::stop_token& stop) const {
  for (const ImageBitmap& bitmap : bitmaps) {
    std::vector<std::string> arguments = {"bitmap", "-f", "qcow2", "--add"};
    if (bitmap.granularity > 0) {
      arguments.emplace_back("-g");
      arguments.push_back(absl::StrCat(bitmap.granularity));
    }
    if (!bitmap.enabled) arguments.emplace_back("--disable");
    for (const std::string& word :
         {std::string("--merge"), bitmap.name, std::string("-b"), image, std::string("-F"),
          std::string("qcow2"), std::string("--"), path_, bitmap.name})
      arguments.push_back(word);
    VR_RETURN_IF_ERROR(Annotate(RunQemuImg(std::move(arguments), kShortLimit, stop).status(),
                                absl::StrCat("copy the bitmap '", Printable(bitmap.name), "'")));
  }
  return absl::OkStatus();
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
  worker.read.min_bytes = cluster_;
  VR_ASSIGN_OR_RETURN(freemap::ScanResult scan, freemap::ReadFreeMaps({&disk, 1}, worker, stop));
  reading->fd.Reset();
  LeaveOut(options.leave_out, scan);
  SparsifyResult result;
  std::vector<Range> free = FreeGranules(scan.runs, 0, cluster_);
  for (const freemap::Filesystem& found : scan.filesystems) {
    if (!options.zero_whole || found.mapped || !options.zero_whole(found)) continue;
    free.push_back(
        {found.offset, found.offset + found.length});  // what is free in it is zero twice
  }
  DiskResult& marked = result.disks.emplace_back();
  marked.size_bytes = (*trimmer)->size_bytes();
  marked.granularity = cluster_;
  marked.reclaimable_bytes = TotalBytes(free);
  for (freemap::Filesystem& found : scan.filesystems)
    result.filesystems.push_back({std::move(found)});
  if (options.only_estimate) {
    VR_ASSIGN_OR_RETURN(const AllocationMap map, (*trimmer)->Allocated());
    const std::vector<Range> gain = Intersect(free, map.data);
    marked.reclaimable_bytes = TotalBytes(gain);
    for (const freemap::FreeRuns& runs : scan.runs) {
      std::vector<Range> of_it;
      for (const freemap::Extent& extent : runs.extents)
        of_it.push_back({extent.offset, extent.offset + extent.length});
      result.filesystems[runs.filesystem].reclaimable_bytes += TotalBytes(Intersect(of_it, gain));
    }
    return result;
  }
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

absl::Status Overlay::CheckOutput(const Output& output, const std::string& directory,
                                  const std::stop_token& stop) {
  if (HasOtherFiles(output) || output.format == "host_device") return absl::OkStatus();
  VR_ASSIGN_OR_RETURN(const TemporaryDirectory temporary,
                      TemporaryDirectory::Make(directory, "virt-reclaim-try-"));
  const std::string empty = temporary.path() + "/empty";
  const std::string copy = temporary.path() + "/copy";
  const UniqueFd made(open(empty.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!made.valid() || ftruncate(made.get(), kTryBytes) != 0)
    return ErrnoStatus(errno, absl::StrCat("make '", Printable(empty), "'"));
  const absl::Status tried =
      RunQemuImg(ConvertArguments("raw", output, empty, copy), kShortLimit, stop).status();
  if (!tried.ok())
    return absl::Status(tried.code(), absl::StrReplaceAll(tried.message(), {{copy, output.path}}));
  std::error_code error;
  const auto files =
      std::distance(std::filesystem::directory_iterator(temporary.path(), error), {});
  if (error) return ErrnoStatus(error.value(), absl::StrCat("list '", temporary.path(), "'"));
  if (files > 2) {
    return absl::FailedPreconditionError(
        absl::StrCat("'", Printable(output.options), "' makes more than one file of a copy"));
  }
  return absl::OkStatus();
}

absl::Status Overlay::Convert(const Output& output, const std::stop_token& stop) const {
  VR_ASSIGN_OR_RETURN(CopyTarget target, CopyTarget::Make(output.path));
  std::vector<std::string> arguments = ConvertArguments("qcow2", output, path_, target.path());
  if (!output.bitmaps.empty()) arguments.insert(arguments.begin() + 1, "--bitmaps");
  const bool share = MayShareBlocks(output) &&
                     CanShareBlocks(image_, std::filesystem::path(target.path()).parent_path());
  if (share) arguments.insert(arguments.begin() + 1, "-C");
  VR_RETURN_IF_ERROR(RunQemuImg(std::move(arguments), kConvertLimit, stop).status());
  if (share) VR_RETURN_IF_ERROR(DropZeros(target.path(), stop));
  return target.Publish();
}

}  // namespace virt_reclaim::sparsify
