#include "xml-tools/machine_choice.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "xml-tools/machine_types.h"

namespace virt_reclaim::xml {
namespace {

MachineChoice Keep(absl::string_view now, absl::string_view reason, std::string detail) {
  return {std::string(now), "", Refusal{"", std::string(reason), std::move(detail)}};
}

MachineChoice Latest(const MachineType& now, const RewriteOptions& options) {
  const std::optional<std::string> newest = NewestOfFamily(now, options.known_machines);
  if (!newest) {
    return Keep(now.name, "machine-latest-unknown",
                now.kind == MachineKind::kDownstream
                    ? absl::StrCat("which machine types of its distribution a host has for ",
                                   Quoted(now.name), " is not known without a list of them")
                    : absl::StrCat(Quoted(now.name), " belongs to no family that is known"));
  }
  return {*newest, "the newest machine type of the same family", std::nullopt};
}

MachineChoice Named(const MachineType& now, const RewriteOptions& options) {
  const std::string& name = options.machine_name;
  if (name == now.name) return {now.name, "", std::nullopt};
  const MachineType wanted = ParseMachineType(name);
  const bool newest_of_host = now.kind == MachineKind::kVersioned &&
                              wanted.kind == MachineKind::kAlias && now.family == wanted.family;
  if (!newest_of_host && !SameFamily(now, wanted)) {
    return Keep(now.name, "machine-other-family",
                absl::StrCat(Quoted(name), " is not of the same family as ",
                             now.name.empty() ? "the host's default" : Quoted(now.name),
                             ": the guest would meet other hardware"));
  }
  if (!newest_of_host && VersionLess(wanted.version, now.version)) {
    return Keep(now.name, "machine-not-newer",
                absl::StrCat(Quoted(name), " is older than ", Quoted(now.name)));
  }
  const std::vector<std::string>& known = options.known_machines;
  if (!known.empty() && std::find(known.begin(), known.end(), name) == known.end()) {
    return Keep(now.name, "machine-not-on-host",
                absl::StrCat("the host has no machine type ", Quoted(name)));
  }
  return {name, "asked for", std::nullopt};
}

}  // namespace

MachineChoice ChooseMachine(absl::string_view now, const RewriteOptions& options) {
  if (options.machine == MachinePolicy::kLatest) return Latest(ParseMachineType(now), options);
  if (options.machine == MachinePolicy::kNamed) return Named(ParseMachineType(now), options);
  return {std::string(now), "", std::nullopt};
}

}  // namespace virt_reclaim::xml
