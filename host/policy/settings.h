// The keys of a policy: one table for each section, which the reader, `config show` and the man
// page's check go by. And what the texts of their values mean. Pure; any thread.
#ifndef VIRT_RECLAIM_HOST_POLICY_SETTINGS_H_
#define VIRT_RECLAIM_HOST_POLICY_SETTINGS_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "host/model/daily_window.h"
#include "host/model/threshold.h"
#include "host/policy/policy.h"

namespace virt_reclaim::policy {

// Of a domain.
struct DomainSettings {
  bool enabled = true;
  // Ways that are allowed: a running domain by one of the agents, one that is off by sparsify, and
  // by a punch of its images.
  bool agent = false, qemu_agent = false, sparsify = false, punch = false;
  std::optional<Threshold> threshold;  // so much must be reclaimable, by estimate
  std::optional<uint64_t> min_freed;   // bytes freed in the guest since its last trim
  std::optional<DailyWindow> window;   // local time
  // Of trims.
  bool gentle = false;
  uint64_t max_rate = 0;                  // bytes trimmed a second; 0: no limit
  std::optional<absl::Duration> timeout;  // wall clock of one domain; empty: as of the verb trim
  std::optional<size_t> per_storage;      // at once on each of its storages; empty: of RunLimits
  // Of sparsify.
  std::string engine;  // auto, native, libguestfs
  bool strict = false, keep_swap = false, allow_thick = false, with_bitmaps = false;
};

// Of a directory of backups.
struct BackupSettings {
  bool recursive = false, one_file_system = false, live = false, unwritten = false, idle = false;
  uint64_t min_hole = 0;  // bytes; 0: a block of the filesystem
  uint64_t max_rate = 0;  // bytes read a second; 0: no limit
  std::optional<DailyWindow> window;
};

// Of a whole run.
struct RunLimits {
  size_t per_storage = 1;  // trims at once
  std::optional<absl::Duration> max_duration;
};

// How a value is written in TOML.
enum class Form {
  kText,    // "text"
  kAmount,  // "5G", or a whole number
  kCount,   // a whole number
  kFlag,    // true or false
  kWords,   // a list of texts, each once
};

template <typename Settings>
struct SettingSpec {
  std::string key;  // "max-rate"
  Form form;
  std::string takes;     // for people: "SIZE"; of kWords: "agent|qemu-agent"
  std::string standard;  // the built-in value; empty: not set
  // InvalidArgument for a text it cannot take.
  std::function<absl::Status(Settings&, const std::string& text)> set;
};

const std::vector<SettingSpec<DomainSettings>>& DomainSpecs();
const std::vector<SettingSpec<BackupSettings>>& BackupSpecs();
const std::vector<SettingSpec<RunLimits>>& LimitSpecs();

template <typename Settings>
Values BuiltIn(const std::vector<SettingSpec<Settings>>& specs) {
  Values values;
  for (const auto& spec : specs) values[spec.key] = {spec.standard, {kBuiltIn}};
  return values;
}

// The settings that `values` say; of a key that is not there, the built-in value. Values that were
// read from a file were tried then, so an error is ours.
template <typename Settings>
absl::StatusOr<Settings> SettingsOf(const std::vector<SettingSpec<Settings>>& specs,
                                    const Values& values) {
  Settings settings;
  for (const auto& spec : specs) {
    const auto found = values.find(spec.key);
    const std::string& text = found == values.end() ? spec.standard : found->second.text;
    if (text.empty()) continue;
    if (absl::Status set = spec.set(settings, text); !set.ok()) return set;
  }
  return settings;
}

// Whether the way 'punch' is allowed for any domain: then domains have to be known to punch.
bool MayPunchDomains(const Policy& policy);

// Between the words of a list's text.
inline constexpr char kBetweenWords[] = ", ";

}  // namespace virt_reclaim::policy

#endif  // VIRT_RECLAIM_HOST_POLICY_SETTINGS_H_
