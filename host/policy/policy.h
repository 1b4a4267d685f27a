// What the policy files say, as plain values, and which of it counts for one domain. A value stays
// the text it was written as, beside the place where it stands: `config show` prints both, and
// settings.h makes numbers of it. Pure; any thread.
#ifndef VIRT_RECLAIM_HOST_POLICY_POLICY_H_
#define VIRT_RECLAIM_HOST_POLICY_POLICY_H_

#include <cstddef>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace virt_reclaim::policy {

// What a timer calls for; kResume only in an emergency, and when asked for.
enum class Job { kTrim, kSparsify, kPunch, kResume };
inline constexpr Job kAllJobs[] = {Job::kTrim, Job::kSparsify, Job::kPunch};
absl::string_view Name(Job job);  // "trim"

// Where something was said.
struct Origin {
  std::string file;             // or words for what is no file
  size_t line = 0, column = 0;  // from 1; 0: not in a file
  bool operator==(const Origin&) const = default;
};
// "/etc/virt-reclaim/config.toml:12:1"; printable.
std::string TextOf(const Origin& origin);

// Of a key that the files say nothing of.
inline constexpr char kBuiltIn[] = "built in";
// Of a word in the domain's own definition.
inline constexpr char kInDomainXml[] = "metadata of the domain";

struct Value {
  std::string text;  // as settings.h reads it; empty: not set
  Origin origin;
  bool operator==(const Value&) const = default;
};
using Values = std::map<std::string, Value>;  // by key

struct List {
  std::vector<std::string> words;
  Origin origin;
};

// For some domains other values. All of what is said about the domain must fit.
struct Rule {
  List domains;  // names, UUIDs, patterns of names; empty: all
  List exclude;  // the same: not these
  List storage;  // absolute paths: an image lies on one; empty: anywhere
  Values values;
};

// A directory of backups to punch.
struct BackupDirectory {
  Value directory;  // absolute
  List exclude;     // patterns of file names, or of paths when a '/' is in them
  Values values;
};

struct Policy {
  std::vector<std::string> files;  // that were read, in their order
  Values limits;                   // of a whole run
  Values defaults;                 // for all domains
  std::vector<Rule> rules;         // in their order: the last that fits wins, key by key
  std::vector<BackupDirectory> backups;
};

// What must be known of a domain to find its rules.
struct DomainTraits {
  std::string name, uuid;
  std::string metadata_run;  // "yes", "no" or another word of its metadata; empty: says nothing
  // Whether an image of it lies on the storage `path`. Called only when a rule's names fit.
  std::function<bool(const std::string& path)> lies_on;
};

// Every key of DomainSpecs() for the domain: built-in values, then [defaults], then the rules that
// fit, then the domain's metadata. Metadata with another word than "yes" take the domain out:
// whoever wrote it meant something.
Values Resolve(const Policy& policy, const DomainTraits& domain);

// Whether a file below a directory of backups is left out.
bool IsExcluded(const BackupDirectory& backup, const std::string& path);

}  // namespace virt_reclaim::policy

#endif  // VIRT_RECLAIM_HOST_POLICY_POLICY_H_
