#include "guest-agent/fix_files.h"

#include <fcntl.h>
#include <sys/file.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status.h"

namespace virt_reclaim::agent {
namespace {

constexpr absl::string_view kJournalHead = "virt-reclaim fix journal 1";
constexpr absl::string_view kDropIns = "/etc/initramfs-tools/conf.d/";

std::string JournalPath() { return absl::StrCat(kFixDirectory, "/fix-journal"); }
std::string LockPath() { return absl::StrCat(kFixDirectory, "/lock"); }

bool IsPlainPath(absl::string_view path) {
  return !path.empty() && path[0] == '/' && std::none_of(path.begin(), path.end(), [](char c) {
    return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
  });
}

}  // namespace

std::string FixFiles::BackupPath(const std::string& path) {
  // mkinitramfs sources every file of that directory whatever its name is, in the order of names: a
  // backup beside 'resume' would win over it. So it goes one directory up.
  if (absl::StartsWith(path, kDropIns)) {
    return absl::StrCat("/etc/initramfs-tools/conf.d.", path.substr(kDropIns.size()),
                        ".virt-reclaim-bak");
  }
  return absl::StrCat(path, ".virt-reclaim-bak");
}

absl::StatusOr<FixFiles> FixFiles::Open(const RootFiles& files) {
  VR_RETURN_IF_ERROR(files.MakeDirectories(std::string(kFixDirectory)));
  FileContent like;
  like.status.st_mode = 0600;
  like.status.st_uid = geteuid();
  like.status.st_gid = getegid();
  if (const absl::Status status = files.Write(LockPath(), "", like, false);
      !status.ok() && !absl::IsAlreadyExists(status)) {
    return status;
  }
  VR_ASSIGN_OR_RETURN(auto lock, files.Open(LockPath(), O_RDONLY | O_NOFOLLOW));
  if (flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    return absl::AbortedError("another fix of this guest is under way");
  }
  FixFiles opened(files, std::move(lock));
  VR_RETURN_IF_ERROR(opened.ReadJournal());
  return opened;
}

absl::Status FixFiles::ReadJournal() {
  const auto text = files_.Read(JournalPath());
  if (absl::IsNotFound(text.status())) return absl::OkStatus();
  VR_RETURN_IF_ERROR(text.status());
  const absl::Status damaged =
      absl::FailedPreconditionError(absl::StrCat("'", JournalPath(), "' is damaged"));
  const std::vector<absl::string_view> lines = absl::StrSplit(*text, '\n');
  if (lines.size() < 2 || lines.front() != kJournalHead || !lines.back().empty()) return damaged;
  for (size_t i = 1; i + 1 < lines.size(); ++i) {
    const std::vector<std::string> fields = absl::StrSplit(lines[i], '\t');
    if (fields.size() != 4 || !IsPlainPath(fields[2])) return damaged;
    if (!fields[3].empty() && fields[3] != BackupPath(fields[2])) return damaged;
    entries_.push_back({fields[2], fields[3], fields[0], fields[1]});
  }
  return absl::OkStatus();
}

absl::Status FixFiles::WriteJournal() const {
  std::string text = absl::StrCat(kJournalHead, "\n");
  for (const Entry& entry : entries_) {
    absl::StrAppend(&text, entry.before, "\t", entry.after, "\t", entry.path, "\t", entry.backup,
                    "\n");
  }
  FileContent like;
  like.status.st_mode = 0600;
  like.status.st_uid = geteuid();
  like.status.st_gid = getegid();
  return files_.Write(JournalPath(), text, like, true);
}

absl::Status FixFiles::Change(const std::string& path, absl::string_view before,
                              absl::string_view after, bool is_new) {
  if (!IsPlainPath(path)) return absl::FailedPreconditionError("a name with control characters");
  const std::string digest = ContentDigest(after);
  FileContent file;
  if (is_new) {
    if (files_.Exists(path)) {
      return absl::FailedPreconditionError(absl::StrCat("'", path, "' is there already"));
    }
    file.status.st_mode = 0644;
    file.status.st_uid = geteuid();
    file.status.st_gid = getegid();
    // Written down before it is done; Undo of what was not done does nothing.
    entries_.push_back({path, "", "", digest});
    VR_RETURN_IF_ERROR(WriteJournal());
    return files_.Write(path, after, file, false);
  }
  VR_ASSIGN_OR_RETURN(file, files_.ReadForEdit(path));
  if (absl::string_view(file.content) != before) {
    return absl::FailedPreconditionError(absl::StrCat("'", path, "' changed meanwhile"));
  }
  const auto known = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const Entry& entry) { return entry.path == path; });
  const std::string backup = BackupPath(path);
  if (known == entries_.end()) {
    const absl::Status kept = files_.Write(backup, file.content, file, false);
    if (absl::IsAlreadyExists(kept)) {
      // One that was killed between the backup and the journal leaves its own, which will do.
      const auto old = files_.Read(backup);
      if (!old.ok() || *old != file.content) {
        return absl::FailedPreconditionError(
            absl::StrCat("'", backup, "' is in the way: it is not of this fix"));
      }
    } else {
      VR_RETURN_IF_ERROR(kept);
    }
    entries_.push_back({path, backup, ContentDigest(before), digest});
  } else {
    if (known->after != ContentDigest(before)) {
      return absl::FailedPreconditionError(
          absl::StrCat("'", path, "' changed since it was fixed; undo first or remove '", backup,
                       "' and its line in '", JournalPath(), "'"));
    }
    known->after = digest;  // the backup stays the first content
  }
  VR_RETURN_IF_ERROR(WriteJournal());
  return files_.Write(path, after, file, true);
}

absl::Status FixFiles::UndoOne(const Entry& entry) {
  const auto now = files_.ReadForEdit(entry.path);
  if (entry.backup.empty()) {
    if (absl::IsNotFound(now.status())) return absl::OkStatus();
    VR_RETURN_IF_ERROR(now.status());
    if (ContentDigest(now->content) != entry.after) {
      return absl::FailedPreconditionError("somebody changed it since");
    }
    return files_.Remove(entry.path);
  }
  VR_RETURN_IF_ERROR(now.status());
  const std::string digest = ContentDigest(now->content);
  if (digest != entry.before) {
    if (digest != entry.after) return absl::FailedPreconditionError("somebody changed it since");
    VR_ASSIGN_OR_RETURN(const FileContent old, files_.ReadForEdit(entry.backup));
    if (ContentDigest(old.content) != entry.before) {
      return absl::FailedPreconditionError("its backup is not what was there");
    }
    VR_RETURN_IF_ERROR(files_.Write(entry.path, old.content, old, true));
  }
  const absl::Status removed = files_.Remove(entry.backup);
  return absl::IsNotFound(removed) ? absl::OkStatus() : removed;
}

std::vector<FixFiles::Kept> FixFiles::KeptFiles() const {
  std::vector<Kept> kept;
  for (const Entry& entry : entries_) {
    if (entry.backup.empty()) continue;
    auto now = files_.ReadForEdit(entry.path);
    auto before = files_.ReadForEdit(entry.backup);
    if (!now.ok() || !before.ok() || ContentDigest(now->content) != entry.after) continue;
    kept.push_back({entry.path, std::move(before->content), std::move(now->content)});
  }
  return kept;
}

FixFiles::UndoResult FixFiles::Undo() {
  UndoResult result;
  std::vector<Entry> left;
  while (!entries_.empty()) {
    const Entry entry = std::move(entries_.back());
    entries_.pop_back();
    if (const absl::Status status = UndoOne(entry); !status.ok()) {
      result.refusals.push_back(absl::StrCat(entry.path, ": ", status.message()));
      left.insert(left.begin(), entry);
    } else {
      result.restored.push_back(entry.path);
    }
  }
  entries_ = std::move(left);
  const absl::Status written = entries_.empty() ? files_.Remove(JournalPath()) : WriteJournal();
  if (!written.ok() && !absl::IsNotFound(written)) {
    result.refusals.push_back(std::string(written.message()));
  }
  return result;
}

}  // namespace virt_reclaim::agent
