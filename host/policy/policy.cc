#include "host/policy/policy.h"

#include <fnmatch.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "host/policy/settings.h"

namespace virt_reclaim::policy {
namespace {

bool Fits(const std::string& pattern, const std::string& text) {
  return fnmatch(pattern.c_str(), text.c_str(), 0) == 0;
}

bool NamesDomain(const std::vector<std::string>& patterns, const DomainTraits& domain) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) {
    return pattern == domain.name || pattern == domain.uuid || Fits(pattern, domain.name);
  });
}

bool FitsRule(const Rule& rule, const DomainTraits& domain) {
  if (!rule.domains.words.empty() && !NamesDomain(rule.domains.words, domain)) return false;
  if (NamesDomain(rule.exclude.words, domain)) return false;
  if (rule.storage.words.empty()) return true;
  return std::any_of(rule.storage.words.begin(), rule.storage.words.end(),
                     [&](const std::string& path) { return domain.lies_on(path); });
}

void Put(const Values& from, Values& into) {
  for (const auto& [key, value] : from) into[key] = value;
}

}  // namespace

absl::string_view Name(Job job) {
  switch (job) {
    case Job::kTrim:
      return "trim";
    case Job::kSparsify:
      return "sparsify";
    case Job::kPunch:
      return "punch";
    case Job::kResume:
      return "resume";
  }
  return "unknown";
}

std::string TextOf(const Origin& origin) {
  if (origin.line == 0) return Printable(origin.file);
  return absl::StrCat(Printable(origin.file), ":", origin.line, ":", origin.column);
}

Values Resolve(const Policy& policy, const DomainTraits& domain) {
  Values values = BuiltIn(DomainSpecs());
  Put(policy.defaults, values);
  for (const Rule& rule : policy.rules) {
    if (FitsRule(rule, domain)) Put(rule.values, values);
  }
  if (!domain.metadata_run.empty())
    values["enabled"] = {domain.metadata_run == "yes" ? "true" : "false", {kInDomainXml}};
  return values;
}

bool IsExcluded(const BackupDirectory& backup, const std::string& path) {
  const std::string name = path.substr(path.rfind('/') + 1);
  return std::any_of(backup.exclude.words.begin(), backup.exclude.words.end(),
                     [&](const std::string& pattern) {
                       return Fits(pattern, absl::StrContains(pattern, '/') ? path : name);
                     });
}

}  // namespace virt_reclaim::policy
