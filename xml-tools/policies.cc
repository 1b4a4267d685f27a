#include "xml-tools/policies.h"

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "xml-tools/machine_types.h"

namespace virt_reclaim::xml {
namespace {

template <typename Policy>
struct Mode {
  absl::string_view word;
  Policy policy;
};
constexpr Mode<DiscardPolicy> kDiscardModes[] = {{"unmap", DiscardPolicy::kUnmap},
                                                 {"ignore", DiscardPolicy::kIgnore},
                                                 {"keep", DiscardPolicy::kKeep}};
constexpr Mode<DetectZeroesPolicy> kDetectZeroesModes[] = {{"off", DetectZeroesPolicy::kOff},
                                                           {"on", DetectZeroesPolicy::kOn},
                                                           {"unmap", DetectZeroesPolicy::kUnmap},
                                                           {"keep", DetectZeroesPolicy::kKeep}};
constexpr Mode<BusPolicy> kBusModes[] = {{"auto", BusPolicy::kAuto},
                                         {"keep", BusPolicy::kKeep},
                                         {"virtio-scsi", BusPolicy::kVirtioScsi}};
constexpr Mode<ChannelPolicy> kChannelModes[] = {{"add", ChannelPolicy::kAdd},
                                                 {"keep", ChannelPolicy::kKeep}};

template <typename Policy, size_t N>
absl::Status Choose(absl::string_view option, absl::string_view value,
                    const Mode<Policy> (&modes)[N], Policy& policy) {
  std::string words;
  for (size_t i = 0; i < N; ++i) {
    if (value == modes[i].word) {
      policy = modes[i].policy;
      return absl::OkStatus();
    }
    absl::StrAppend(&words, i == 0 ? "" : i + 1 == N ? " or " : ", ", "'", modes[i].word, "'");
  }
  return absl::InvalidArgumentError(
      absl::StrCat(option, " is ", words, ", not '", Printable(value), "'"));
}

template <typename Policy, size_t N>
std::string WordOf(const Mode<Policy> (&modes)[N], Policy policy) {
  for (const Mode<Policy>& mode : modes) {
    if (mode.policy == policy) return std::string(mode.word);
  }
  return "";
}

absl::Status SetMachine(absl::string_view word, RewriteOptions& rewrite) {
  const MachineKind kind = ParseMachineType(word).kind;
  rewrite.machine_name.clear();
  if (word == "auto") {
    rewrite.machine = MachinePolicy::kAuto;
  } else if (word == "keep") {
    rewrite.machine = MachinePolicy::kKeep;
  } else if (word == "latest") {
    rewrite.machine = MachinePolicy::kLatest;
  } else if (kind != MachineKind::kUnknown && kind != MachineKind::kNotSaid) {
    rewrite.machine = MachinePolicy::kNamed;
    rewrite.machine_name = std::string(word);
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("--machine is 'auto', 'keep', 'latest' or a machine type that is known, not '",
                     Printable(word), "'"));
  }
  return absl::OkStatus();
}

std::string MachineWord(const RewriteOptions& rewrite) {
  switch (rewrite.machine) {
    case MachinePolicy::kKeep:
      return "keep";
    case MachinePolicy::kAuto:
      return "auto";
    case MachinePolicy::kLatest:
      return "latest";
    case MachinePolicy::kNamed:
      return rewrite.machine_name;
  }
  return "";
}

}  // namespace

bool IsPolicy(absl::string_view option) {
  return option == "--machine" || option == "--bus" || option == "--discard" ||
         option == "--detect-zeroes" || option == "--channel";
}

absl::Status SetPolicy(absl::string_view option, absl::string_view word, RewriteOptions& rewrite) {
  if (option == "--bus") return Choose(option, word, kBusModes, rewrite.bus);
  if (option == "--discard") return Choose(option, word, kDiscardModes, rewrite.discard);
  if (option == "--channel") return Choose(option, word, kChannelModes, rewrite.channel);
  if (option == "--detect-zeroes")
    return Choose(option, word, kDetectZeroesModes, rewrite.detect_zeroes);
  if (option == "--machine") return SetMachine(word, rewrite);
  return absl::InvalidArgumentError(absl::StrCat("no policy '", Printable(option), "'"));
}

std::vector<std::pair<std::string, std::string>> PolicyWords(const RewriteOptions& rewrite) {
  return {{"machine", MachineWord(rewrite)},
          {"bus", WordOf(kBusModes, rewrite.bus)},
          {"discard", WordOf(kDiscardModes, rewrite.discard)},
          {"detect-zeroes", WordOf(kDetectZeroesModes, rewrite.detect_zeroes)},
          {"channel", WordOf(kChannelModes, rewrite.channel)}};
}

}  // namespace virt_reclaim::xml
