// An image of a format of its own: qemu-storage-daemon opens it, once, and holds QEMU's image locks
// from before the free map is read until the end. A lease cannot be had besides; what has locking
// off, and starts meanwhile, is looked for in /proc.
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/io.h"
#include "base/status.h"
#include "base/subprocess.h"
#include "base/unique_fd.h"
#include "base/utf8.h"
#include "host/guard/holders.h"
#include "host/guard/image_guard.h"
#include "host/punch/filesystem.h"
#include "host/punch/holes.h"
#include "host/sparsify/btrfs_image.h"
#include "host/sparsify/nbd_client.h"
#include "host/sparsify/opened_disk.h"
#include "host/sparsify/qemu_img.h"
#include "host/sparsify/qemu_server.h"

namespace virt_reclaim::sparsify {
namespace {

using std::chrono::steady_clock;

constexpr uint64_t kLeastTrim = 4096;
// A look at all processes costs some milliseconds.
constexpr std::chrono::seconds kLookEvery{1};
// It reads the tables of the image; those of 10 TB take gigabytes.
constexpr std::chrono::minutes kRepairLimit{30};

class QemuDisk final : public OpenedDisk {
 public:
  QemuDisk(DiskSpec spec, Mode mode) : spec_(std::move(spec)), mode_(mode) {}

  absl::Status Open(const DiskTools& tools, const std::stop_token& stop) {
    if (Utf8(spec_.path, spec_.path.size()) != spec_.path)
      return absl::FailedPreconditionError(Quoted(spec_.path) + ": QEMU takes names in UTF-8 only");
    GuardOptions asking;
    asking.intent = ImageIntent::kResize;
    asking.read_only = mode_ == Mode::kMeasure;
    {
      VR_ASSIGN_OR_RETURN(const ImageGuard guard, ImageGuard::Acquire(spec_.path, asking));
      identity_ = guard.identity();
      struct statfs mounted;
      btrfs_ = fstatfs(guard.fd(), &mounted) == 0 && mounted.f_type == BTRFS_SUPER_MAGIC;
      if (btrfs_) unpunched_ = ReadBtrfsView(guard.fd());
      facts_.allocation_is_own = unpunched_.ok();
      if (mode_ == Mode::kSparsify) VR_RETURN_IF_ERROR(CheckPunching(guard));
    }
    mark_ =
        absl::StrCat(tools.run_directory, "/unfinished-", identity_.device, "-", identity_.inode);
    if (mode_ == Mode::kSparsify && access(mark_.c_str(), F_OK) == 0) {
      VR_ASSIGN_OR_RETURN(facts_.repaired_leaks, RepairLeaks(stop));
    }
    VR_ASSIGN_OR_RETURN(QemuServer server,
                        QemuServer::Start({tools.qemu_storage_daemon, tools.run_directory,
                                           spec_.path, spec_.format, mode_ == Mode::kSparsify}));
    server_.emplace(std::move(server));
    if (const absl::Status connected = Connect(); !connected.ok()) {
      const absl::Status said = server_->Failure();
      return Annotate(absl::IsInternal(said) ? connected : said, Quoted(spec_.path));
    }
    struct stat status;
    if (stat(spec_.path.c_str(), &status) != 0) return ErrnoStatus(errno, Quoted(spec_.path));
    VR_RETURN_IF_ERROR(CheckFile(IdentityOf(status)));
    return CheckAlone();
  }

  freemap::WorkerDisk worker_disk() const override { return {read_.fd.get(), read_.size_bytes}; }
  const DiskFacts& facts() const override { return facts_; }

  absl::Status Seize() override { return CheckAlone(); }

  absl::StatusOr<AllocationMap> Allocated() override {
    VR_ASSIGN_OR_RETURN(AllocationMap map, trimmer_->Allocated());
    // Subclusters are told one by one, and come free as clusters.
    for (std::vector<Range>* ranges : {&map.allocated, &map.data})
      *ranges = RoundOutwards(*ranges, facts_.granularity, facts_.size_bytes);
    return map;
  }

  bool Wanted() override {
    const auto now = steady_clock::now();
    if (now - last_look_ < kLookEvery) return false;
    return !CheckAlone().ok();
  }

  absl::Status Free(Range range) override {
    if (!marked_) {
      const UniqueFd mark(open(mark_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
      if (!mark.valid()) return ErrnoStatus(errno, "make " + Quoted(mark_));
      marked_ = true;
    }
    return Annotate(trimmer_->Trim(range), Quoted(spec_.path));
  }

  // The server lets go of the image first; what is in use moves under a lease of our own.
  Released Release(const std::stop_token& stop) override {
    if (!btrfs_) return {};
    Released released;
    released.status = Finish();
    if (!released.status.ok()) return released;
    GuardOptions options;
    options.intent = ImageIntent::kWrite;
    options.read_only = true;
    std::error_code error;
    const std::filesystem::path real = std::filesystem::canonical(spec_.path, error);
    const auto guard = ImageGuard::Acquire(spec_.path, options);
    if (error || !guard.ok()) {
      released.status = error ? ErrnoStatus(error.value(), "resolve") : guard.status();
      return released;
    }
    released.status = CheckFile(guard->identity());
    if (!released.status.ok()) return released;
    std::stop_source wanted;
    const std::stop_callback forward(stop, [&] { wanted.request_stop(); });
    const auto look = [&] {
      if (guard->Interrupted()) wanted.request_stop();
    };
    return ReleasePunched(guard->fd(), real.parent_path().string(), unpunched_, look,
                          wanted.get_token());
  }

  absl::Status Finish() override {
    if (!finished_) finished_ = DoFinish();
    return *finished_;
  }

  std::optional<uint64_t> Allocation() override {
    struct stat status;
    if (stat(spec_.path.c_str(), &status) != 0 || !CheckFile(IdentityOf(status)).ok())
      return std::nullopt;
    if (!facts_.allocation_is_own) return AllocatedBytes(status);
    const UniqueFd fd(open(spec_.path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (!fd.valid() || fstat(fd.get(), &status) != 0 || !CheckFile(IdentityOf(status)).ok())
      return std::nullopt;
    const auto view = ReadBtrfsView(fd.get());
    if (!view.ok()) return std::nullopt;
    return punch::OwnBytes(view->references, view->shared);
  }

 private:
  absl::Status DoFinish() {
    read_.fd.Reset();
    absl::Status status;
    if (trimmer_ != nullptr && mode_ == Mode::kSparsify) status = trimmer_->Flush();
    trimmer_.reset();
    if (server_) {
      const absl::Status stopped = server_->Stop();
      if (status.ok()) status = stopped;
      server_.reset();
      if (status.ok() && marked_) unlink(mark_.c_str());
    }
    return Annotate(status, Quoted(spec_.path));
  }

  // The file that was opened, whatever was written to it.
  absl::Status CheckFile(const ImageIdentity& found) const {
    if (SameFile(found, identity_)) return absl::OkStatus();
    return absl::FailedPreconditionError(Quoted(spec_.path) + " was replaced meanwhile");
  }

  // QEMU would take every trim, and nothing would come free.
  absl::Status CheckPunching(const ImageGuard& guard) const {
    std::error_code error;
    const std::filesystem::path real = std::filesystem::canonical(spec_.path, error);
    if (error) return ErrnoStatus(error.value(), "resolve " + Quoted(spec_.path));
    VR_ASSIGN_OR_RETURN(const punch::FilesystemFacts filesystem,
                        punch::ProbeFilesystem(guard.fd(), real.parent_path().string()));
    if (filesystem.punches == punch::Ability::kYes) return absl::OkStatus();
    if (filesystem.punches == punch::Ability::kNo)
      return absl::UnimplementedError(Quoted(spec_.path) + ": its filesystem cannot punch holes");
    return Annotate(punch::TryPlainHoles(guard, guard.identity().size_bytes, filesystem.unit_bytes),
                    Quoted(spec_.path));
  }

  absl::Status Connect() {
    VR_ASSIGN_OR_RETURN(read_, ConnectForReading(server_->TakeReadConnection(), kReadExport));
    VR_ASSIGN_OR_RETURN(trimmer_, NbdTrimmer::Connect(server_->TakeTrimConnection(), kTrimExport));
    facts_.size_bytes = trimmer_->size_bytes();
    facts_.granularity = std::max(spec_.granularity, kLeastTrim);
    return absl::OkStatus();
  }

  // QEMU was killed while it gave clusters back: some may still be counted that nobody uses. Only a
  // run like this one leaves a mark, so that nobody's other leaks are touched unasked.
  // Returns the clusters that were lost. Ended early, the mark stays for the next run.
  absl::StatusOr<uint64_t> RepairLeaks(const std::stop_token& stop) {
    CommandLimits limits;
    limits.stop = stop;
    limits.deadline = kRepairLimit;
    limits.keep_end = true;
    limits.separate_errors = true;
    VR_ASSIGN_OR_RETURN(const CommandResult result,
                        RunCommand({kQemuImg, "check", "--output=json", "-r", "leaks", "-f",
                                    spec_.format, spec_.path},
                                   limits));
    if (result.exit_status == 0) {
      unlink(mark_.c_str());
      const auto said = nlohmann::json::parse(result.output, nullptr, /*allow_exceptions=*/false);
      if (!said.is_object()) return absl::InternalError("qemu-img check did not print JSON");
      return said.value("leaks-fixed", uint64_t{0});
    }
    return absl::FailedPreconditionError(
        absl::StrCat(Quoted(spec_.path), ": qemu-img check, after a run that was killed: ",
                     Printable(absl::StripAsciiWhitespace(result.errors), size_t{1} << 10)));
  }

  // Nobody but our own server has it. Who may not look at everybody else cannot say so: no lease is
  // held here.
  absl::Status CheckAlone() {
    last_look_ = steady_clock::now();
    Holders holders = FindHolders(identity_);
    const std::string ours = absl::StrCat("(pid ", server_ ? server_->pid() : 0, ")");
    std::erase_if(holders.names,
                  [&](const std::string& name) { return absl::EndsWith(name, ours); });
    if (!holders.names.empty()) {
      return absl::AbortedError(
          absl::StrCat(Quoted(spec_.path), " is in use: ", holders.Describe()));
    }
    if (!holders.complete && mode_ == Mode::kSparsify) {
      return absl::PermissionDeniedError(Quoted(spec_.path) +
                                         ": only root can see whether somebody has it open");
    }
    return absl::OkStatus();
  }

  const DiskSpec spec_;
  const Mode mode_;
  ImageIdentity identity_;
  std::string mark_;  // a file that is there while clusters are given back
  bool marked_ = false;
  bool btrfs_ = false;
  absl::StatusOr<BtrfsView> unpunched_;  // on btrfs, as it was opened
  std::optional<absl::Status> finished_;
  std::optional<QemuServer> server_;
  ReadConnection read_;
  std::unique_ptr<NbdTrimmer> trimmer_;  // uses the server
  DiskFacts facts_;
  steady_clock::time_point last_look_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<OpenedDisk>> OpenQemuDisk(const DiskSpec& spec,
                                                         const DiskTools& tools, Mode mode,
                                                         const std::stop_token& stop) {
  auto disk = std::make_unique<QemuDisk>(spec, mode);
  VR_RETURN_IF_ERROR(disk->Open(tools, stop));
  return disk;
}

absl::StatusOr<std::unique_ptr<OpenedDisk>> OpenDisk(const DiskSpec& spec, const DiskTools& tools,
                                                     Mode mode, const std::stop_token& stop) {
  if (spec.format != "raw") return OpenQemuDisk(spec, tools, mode, stop);
  struct stat status;
  if (stat(spec.path.c_str(), &status) != 0) return ErrnoStatus(errno, "stat " + Quoted(spec.path));
  return S_ISBLK(status.st_mode) ? OpenDeviceDisk(spec.path, mode) : OpenFileDisk(spec.path, mode);
}

}  // namespace virt_reclaim::sparsify
