#include "host/commands/sync_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/escape.h"
#include "base/io.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "host/guard/image_identity.h"
#include "host/punch/find_files.h"
#include "host/punch/punch.h"
#include "host/sync/replace_file.h"
#include "host/sync/unfinished_mark.h"

namespace virt_reclaim {
namespace {

bool IsDirectory(const std::string& path) {
  struct stat status;
  return stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

std::string BaseName(absl::string_view path) {
  while (path.size() > 1 && absl::ConsumeSuffix(&path, "/")) {
  }
  return std::string(path.substr(path.rfind('/') + 1));
}

std::string Join(const std::string& directory, absl::string_view name) {
  return absl::StrCat(directory, absl::EndsWith(directory, "/") ? "" : "/", name);
}

// Whether `path`, or where it would be made, lies in the directory `root`.
bool LiesBelow(const std::string& path, const std::string& root) {
  std::error_code error;
  const std::string inner = std::filesystem::weakly_canonical(path, error).string();
  const std::string outer = std::filesystem::weakly_canonical(root, error).string();
  return inner == outer || absl::StartsWith(inner, Join(outer, ""));
}

// Below a directory nothing leads out of it: neither a directory on the way nor the copy may be a
// symbolic link. Notes the directories that are not there yet.
absl::Status PlanBelow(const std::string& from, const std::string& to, absl::string_view relative,
                       SyncAction& action) {
  action.destination = Join(to, relative);
  if (access(to.c_str(), F_OK) != 0) action.directories.push_back({to, from});
  for (size_t slash = relative.find('/'); slash != absl::string_view::npos;
       slash = relative.find('/', slash + 1)) {
    const absl::string_view part = relative.substr(0, slash);
    const std::string directory = Join(to, part);
    struct stat status;
    if (lstat(directory.c_str(), &status) != 0) {
      if (errno != ENOENT) return ErrnoStatus(errno, "stat " + Quoted(directory));
      action.directories.push_back({directory, Join(from, part)});
    } else if (!S_ISDIR(status.st_mode)) {
      return absl::FailedPreconditionError(Quoted(directory) + " is no directory");
    }
  }
  struct stat status;
  if (lstat(action.destination.c_str(), &status) == 0 && S_ISLNK(status.st_mode))
    return absl::FailedPreconditionError(Quoted(action.destination) + " is a symbolic link");
  return absl::OkStatus();
}

// Collects actions, and sees to it that no two go to one name.
class Finder {
 public:
  Finder(const SyncFilesOptions& options, const std::stop_token& stop)
      : options_(options), stop_(stop) {}

  absl::StatusOr<std::vector<SyncAction>> Find() {
    const bool into = IsDirectory(options_.destination);
    const bool tree = std::any_of(options_.sources.begin(), options_.sources.end(), IsDirectory);
    const bool there = access(options_.destination.c_str(), F_OK) == 0;
    if (!into && (options_.sources.size() > 1 || tree) && (there || !tree)) {
      return absl::InvalidArgumentError(
          absl::StrCat("sync: several files go into a directory, and ",
                       Quoted(options_.destination), " is none"));
    }
    for (const std::string& source : options_.sources) {
      if (!IsDirectory(source)) {
        Add(source, into ? Join(options_.destination, BaseName(source)) : options_.destination);
        continue;
      }
      VR_RETURN_IF_ERROR(AddBelow(source));
    }
    VR_RETURN_IF_ERROR(doubled_);
    return std::move(actions_);
  }

 private:
  SyncAction& New(const std::string& source) {
    SyncAction& action = actions_.emplace_back();
    action.source = source;
    struct stat status;
    if (stat(source.c_str(), &status) == 0) action.allocation = AllocatedBytes(status);
    return action;
  }

  void Settle(SyncAction& action) {
    if (!names_.insert(action.destination).second && doubled_.ok()) {
      doubled_ = absl::InvalidArgumentError(
          absl::StrCat("sync: two sources go to ", Quoted(action.destination)));
    }
    struct stat status;
    if (!action.error.ok() || stat(action.source.c_str(), &status) != 0 ||
        !S_ISREG(status.st_mode) || status.st_nlink < 2) {
      return;
    }
    const auto [entry, first] =
        copies_.try_emplace({status.st_dev, status.st_ino}, action.destination);
    if (!first) action.link_to = entry->second;
  }

  void Add(const std::string& source, std::string destination) {
    SyncAction& action = New(source);
    action.destination = std::move(destination);
    action.asked_for = true;
    Settle(action);
  }

  absl::Status AddBelow(const std::string& root) {
    if (!options_.recursive) {
      SyncAction& action = New(root);
      action.asked_for = true;
      action.error = absl::InvalidArgumentError(
          Quoted(root) + " is a directory; --recursive copies what lies below it");
      return absl::OkStatus();
    }
    if (LiesBelow(options_.destination, root)) {
      return absl::InvalidArgumentError(absl::StrCat("sync: ", Quoted(options_.destination),
                                                     " lies in ", Quoted(root), " itself"));
    }
    const auto relative = [&](absl::string_view name) {
      absl::ConsumePrefix(&name, root);
      while (absl::ConsumePrefix(&name, "/")) {
      }
      return name;
    };
    const std::string only[] = {root};
    return punch::FindFiles(
        only, {true, options_.one_file_system, /*every_name=*/true}, stop_,
        [&](const std::string& path) {
          SyncAction& action = New(path);
          action.error = PlanBelow(root, options_.destination, relative(path), action);
          Settle(action);
        },
        [&](const std::string& path, const absl::Status& error) { New(path).error = error; });
  }

  const SyncFilesOptions& options_;
  const std::stop_token& stop_;
  std::vector<SyncAction> actions_;
  std::set<std::string> names_;
  std::map<std::pair<dev_t, ino_t>, std::string> copies_;
  absl::Status doubled_;
};

// Names of one file, where copies have some that their sources do not share: who wrote through one
// of them would change what is known by the other.
class Names {
 public:
  explicit Names(const std::vector<SyncAction>& actions) {
    for (const SyncAction& action : actions) {
      if (const auto file = FileOf(action.source)) sources_.emplace(*file, action.source);
    }
  }

  // FailedPrecondition when the copy is the copy of another source, or a source itself.
  absl::Status Check(const SyncAction& action) const {
    const auto copy = FileOf(action.destination);
    const auto source = FileOf(action.source);
    if (!copy || !source || copy == source) return absl::OkStatus();  // the engine's to say
    const auto refuse = [&](absl::string_view what, const std::string& other) {
      return absl::FailedPreconditionError(absl::StrCat(
          Quoted(action.destination), " is one file with ", Quoted(other), ", which is ", what));
    };
    if (const auto other = sources_.find(*copy); other != sources_.end())
      return refuse("to be copied, too", other->second);
    const auto made = copies_.find(*copy);
    if (made != copies_.end() && made->second.source != *source)
      return refuse("the copy of another file", made->second.name);
    return absl::OkStatus();
  }

  // After a run of the engine. `whole`: its result is complete.
  void Made(const SyncAction& action, bool whole) {
    if (whole) whole_.insert(action.destination);
    const auto copy = FileOf(action.destination);
    const auto source = FileOf(action.source);
    if (copy && source) copies_.try_emplace(*copy, Copy{action.destination, *source});
  }
  bool IsWhole(const std::string& destination) const { return whole_.contains(destination); }

 private:
  using File = std::pair<dev_t, ino_t>;
  struct Copy {
    std::string name;
    File source;
  };

  static std::optional<File> FileOf(const std::string& path) {
    struct stat status;
    if (stat(path.c_str(), &status) != 0) return std::nullopt;
    return File{status.st_dev, status.st_ino};
  }

  std::map<File, std::string> sources_;
  std::map<File, Copy> copies_;
  std::set<std::string> whole_;
};

absl::Status MakeDirectory(const SyncAction::Directory& directory) {
  if (mkdir(directory.path.c_str(), 0700) != 0) {
    if (errno == EEXIST && IsDirectory(directory.path)) return absl::OkStatus();
    return ErrnoStatus(errno, "make " + Quoted(directory.path));
  }
  const UniqueFd made(open(directory.path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const UniqueFd like(open(directory.like.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (made.valid() && like.valid()) sync::TakeOwnerAndMode(made.get(), like.get());
  return absl::OkStatus();
}

// Another name of the copy where it has none yet. False: the copy is a file of its own.
absl::StatusOr<bool> Link(const SyncAction& action) {
  struct stat first;
  struct stat second;
  if (stat(action.link_to.c_str(), &first) != 0) return false;
  if (lstat(action.destination.c_str(), &second) == 0)
    return SameFile(IdentityOf(second), IdentityOf(first));
  if (::link(action.link_to.c_str(), action.destination.c_str()) == 0) return true;
  if (errno == EPERM || errno == EXDEV || errno == EMLINK || errno == EOPNOTSUPP) return false;
  return ErrnoStatus(errno, "link " + Quoted(action.destination));
}

absl::Status SyncInto(sync::Syncer& syncer, const SyncAction& action, SyncMode mode,
                      const Names& names, const sync::ProgressCallback& progress,
                      const std::stop_token& stop, SyncedFile& file) {
  if (mode == SyncMode::kSync) {
    for (const SyncAction::Directory& directory : action.directories)
      VR_RETURN_IF_ERROR(MakeDirectory(directory));
    if (names.IsWhole(action.link_to)) {
      VR_ASSIGN_OR_RETURN(file.linked, Link(action));
      if (file.linked) return absl::OkStatus();
    }
  }
  VR_RETURN_IF_ERROR(names.Check(action));
  VR_ASSIGN_OR_RETURN(const sync::SyncPlan plan, syncer.Plan(action.source, action.destination));
  file.unchanged = plan.unchanged;
  if (mode == SyncMode::kMeasure && plan.unfinished)
    file.outcome.reasons.push_back({Reason::kUnfinishedCopy, "the next run makes it whole"});
  if (plan.unchanged) {
    file.result.complete = true;
    return absl::OkStatus();
  }
  VR_ASSIGN_OR_RETURN(file.result, mode == SyncMode::kMeasure ? syncer.Measure(plan, progress, stop)
                                                              : syncer.Sync(plan, progress, stop));
  return absl::OkStatus();
}

}  // namespace

void SetSyncOutcome(const absl::Status& status, const sync::SyncResult& result, Outcome& outcome) {
  const std::string message = Printable(status.message());
  const auto skip = [&](Reason reason) {
    outcome.kind = OutcomeKind::kSkipped;
    outcome.reasons.push_back({reason, message});
  };
  if (absl::IsAborted(status)) return skip(Reason::kImageInUse);
  if (absl::IsUnimplemented(status)) return skip(Reason::kNotAtomic);
  if (absl::IsFailedPrecondition(status)) return skip(Reason::kImageRefused);
  if (absl::IsCancelled(status) || result.cancelled) {
    outcome.kind = OutcomeKind::kCancelled;
  } else if (!status.ok()) {
    outcome.kind = OutcomeKind::kFailed;
    outcome.error = status;
  } else if (result.source_changed) {
    outcome.kind = OutcomeKind::kFailed;
    outcome.partly = true;
    outcome.error = absl::AbortedError("the source was written meanwhile, or is wanted");
    outcome.reasons.push_back({Reason::kSourceChanged, ""});
  } else if (result.interrupted) {
    outcome.kind = OutcomeKind::kFailed;
    outcome.partly = true;
    outcome.error = absl::AbortedError("somebody opened the copy meanwhile");
  } else {
    outcome.kind = OutcomeKind::kDone;
  }
}

SyncTotal TotalOf(const std::vector<SyncedFile>& files) {
  SyncTotal total;
  for (const SyncedFile& file : files) {
    ++total.files;
    if (file.unchanged) ++total.unchanged;
    total.read += file.result.read_bytes;
    total.different += file.result.different_bytes;
    total.zeroed += file.result.zeroed_bytes;
    total.written += file.result.written_bytes;
    total.cloned += file.result.cloned_bytes;
    total.punched += file.result.punched_bytes;
  }
  return total;
}

absl::StatusOr<std::vector<SyncAction>> FindSyncActions(const SyncFilesOptions& options,
                                                        const std::stop_token& stop) {
  return Finder(options, stop).Find();
}

std::vector<SyncedFile> SyncFiles(const SyncFilesOptions& options,
                                  const std::vector<SyncAction>& actions, SyncMode mode,
                                  const punch::SteadyClock& clock,
                                  const std::function<void(const SyncFilesProgress&)>& progress,
                                  const std::stop_token& stop) {
  // A disk that does not know priorities is no reason not to work.
  if (options.idle) static_cast<void>(punch::UseIdleIoPriority());
  sync::Syncer syncer(options.engine, clock);
  SyncFilesProgress now;
  now.files = actions.size();
  for (const SyncAction& action : actions) now.allocation += action.allocation;
  Names names(actions);
  std::vector<SyncedFile> files;
  uint64_t before = 0;
  for (const SyncAction& action : actions) {
    SyncedFile& file = files.emplace_back();
    file.source = action.source;
    file.destination = action.destination;
    file.outcome.asked_for = action.asked_for;
    ++now.file;
    now.path = action.source;
    now.done = before;
    if (progress) progress(now);
    const auto step = [&](const sync::SyncProgress& made) {
      now.done = before + std::min(action.allocation, made.done_bytes);
      if (progress) progress(now);
    };
    absl::Status status = action.error;
    if (stop.stop_requested()) status = absl::CancelledError("interrupted");
    if (status.ok()) status = SyncInto(syncer, action, mode, names, step, stop, file);
    names.Made(action, status.ok() && file.result.complete);
    SetSyncOutcome(status, file.result, file.outcome);
    if (mode == SyncMode::kSync && file.outcome.kind != OutcomeKind::kDone &&
        sync::IsUnfinished(action.destination)) {
      file.outcome.reasons.push_back({Reason::kUnfinishedCopy, "the next run makes it whole"});
    }
    before += action.allocation;
  }
  return files;
}

}  // namespace virt_reclaim
