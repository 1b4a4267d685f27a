// What bench/punch.py times: the engine of punch behind the smallest command line.
#include "host/punch/punch.h"

#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/stop_signal.h"

namespace virt_reclaim::punch {
namespace {

int Main(const std::vector<std::string>& arguments) {
  const StopSignal signals;
  PunchOptions options;
  bool dry_run = false;
  std::vector<std::string> files;
  for (const std::string& word : arguments) {
    if (word == "--live") {
      options.live = true;
    } else if (word == "--dry-run") {
      dry_run = true;
    } else if (word == "--plain") {
      options.way = Way::kPlain;
    } else if (word == "--no-release") {
      options.release = false;
    } else {
      files.push_back(word);
    }
  }
  Puncher puncher(options, [] { return std::chrono::steady_clock::now(); });
  const auto progress = [](const PunchProgress&) {};
  for (const std::string& file : files) {
    const auto plan = puncher.Plan(file);
    const auto result = !plan.ok() ? absl::StatusOr<PunchResult>(plan.status())
                        : dry_run  ? puncher.Measure(*plan, progress, signals.token())
                                   : puncher.Punch(*plan, progress, signals.token());
    if (!result.ok()) {
      fprintf(stderr, "%s\n", result.status().ToString().c_str());
      return 1;
    }
    printf(
        "{\"read\": %lu, \"zero\": %lu, \"punched\": %lu, \"holes\": %lu, \"moved\": %lu, "
        "\"freed\": %s, \"interrupted\": %s}\n",
        result->read_bytes, result->zero_bytes, result->punched_bytes, result->holes,
        result->moved_bytes,
        result->freed_bytes ? absl::StrCat(*result->freed_bytes).c_str() : "null",
        result->interrupted ? "true" : "false");
  }
  return 0;
}

}  // namespace
}  // namespace virt_reclaim::punch

int main(int argc, char** argv) {
  return virt_reclaim::punch::Main(std::vector<std::string>(argv + 1, argv + argc));
}
