// The command line, as data.
#ifndef VIRT_RECLAIM_HOST_CLI_OPTIONS_H_
#define VIRT_RECLAIM_HOST_CLI_OPTIONS_H_

#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "host/commands/report_check.h"
#include "host/commands/trim.h"
#include "host/model/daily_window.h"
#include "host/policy/read_policy.h"
#include "xml-tools/rewrite.h"

namespace virt_reclaim {

enum class Verb {
  kReport,
  kExplain,
  kTrim,
  kMigratePlan,
  kMigrateApply,
  kMigrateVerify,
  kMigrateRollback,
  kMigrateStatus,
  kAgentStatus,
  kPunch,
  kSync,
  kSparsify,
  kRun,
  kConfigCheck,
  kConfigShow,
  kCompletion,  // never runs: its script is printed
  kMetrics,
  kAgentInstall,
};

struct CommandLine {
  Verb verb = Verb::kReport;
  // Global options, before or after the verb.
  std::string connect;  // empty: libvirt's default
  bool json = false;
  bool dry_run = false;
  bool debug = false;
  std::string state_directory = "/var/lib/virt-reclaim";
  std::string run_directory = "/run/virt-reclaim";
  // Of the verbs.
  std::set<std::string> given;       // long names of all options that were said: "--bus"
  std::vector<std::string> domains;  // explain: DOMAIN[:TARGET]
  bool probe = false, codes = false, ask_qemu = false;  // explain
  bool all = false;
  bool diff = false;
  xml::RewriteOptions rewrite;  // --machine, --bus, --channel, --detect-zeroes, --disk
  bool fix_guest = false;
  bool allow_thick = false;
  bool assume = false;
  bool yes = false;
  std::string save;       // where migrate plan writes its plan file
  std::string plan_file;  // what migrate apply, verify, rollback and status are about
  std::optional<DailyWindow> window;
  std::string power_cycle = "never";  // or shutdown, when-off
  std::string batch;                  // N or N%; empty: one after the other
  std::optional<size_t> max_failures;
  absl::Duration shutdown_timeout = absl::Minutes(2), verify_timeout = absl::Minutes(5);
  std::vector<std::string> mount_points;
  uint64_t minimum = 0, chunk = 0;
  absl::Duration pause = absl::ZeroDuration();
  absl::Duration timeout = absl::Minutes(30);
  // Of report.
  bool exact = false;  // report
  std::optional<CheckThresholds> check;
  std::string html;      // where its page goes; empty: none
  std::string textfile;  // of metrics; empty: standard output
  // Of trim, beside those above.
  std::optional<TrimWay> way;
  std::string storage;
  std::optional<Threshold> threshold;
  std::optional<uint64_t> min_freed;
  size_t per_storage = 1;
  std::optional<absl::Duration> max_duration;
  bool gentle = false;
  // Of punch.
  std::vector<std::string> files;
  std::string files_from;  // a list of files; "-": standard input
  bool null = false;       // its entries end with a NUL
  bool recursive = false, one_file_system = false;
  bool live = false, unwritten = false, no_release = false, new_mtime = false, idle = false;
  uint64_t min_hole = 0;
  // Of trim, punch and sync.
  uint64_t max_rate = 0;
  // Of sync; the last of `files` is where to.
  bool compare = false, atomic = false, overwrite_device = false, verify = false;
  bool no_reflink = false, freeze = false, clean = false;
  std::string sync_domain;  // NAME or NAME:TARGET; then `files` is the directory
  std::string format;
  // Of sparsify; its targets are in `domains`.
  bool all_off = false, strict = false, keep_swap = false, with_bitmaps = false, no_libvirt = false;
  bool drop_in = false;      // virt-sparsify's command line, which has no --no-libvirt
  std::string image_format;  // empty: not said
  std::string engine = "auto";
  std::string copy;  // of sparsify; empty: in place
  bool replay = false;
  uint64_t least_freed = 0;
  // Of report, run and config.
  std::string config = policy::kStandardPath;
  std::string job;  // empty: all
  bool emergency = false;
  bool resume = false;
  std::optional<absl::Duration> wait;  // for windows
  // Of agent install.
  std::string agent_binary;  // empty: the one that is installed here
};

// What to print instead of working: --help and --version.
struct PrintAndExit {
  std::string text;
};

// InvalidArgument: wrong usage, one line that names the word and what to write instead.
absl::StatusOr<std::variant<CommandLine, PrintAndExit>> ParseCommandLine(
    const std::vector<std::string>& arguments);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_OPTIONS_H_
