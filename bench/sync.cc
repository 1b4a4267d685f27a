// What bench/sync.py times: the engine of sync behind the smallest command line.
#include "host/sync/sync.h"

#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/stop_signal.h"

namespace virt_reclaim::sync {
namespace {

int Main(const std::vector<std::string>& arguments) {
  const StopSignal signals;
  SyncOptions options;
  std::vector<std::string> files;
  for (const std::string& word : arguments) {
    if (word == "--compare") {
      options.compare = true;
    } else if (word == "--no-reflink") {
      options.reflink = false;
    } else if (word == "--verify") {
      options.verify = true;
    } else {
      files.push_back(word);
    }
  }
  if (files.size() != 2) {
    fprintf(stderr, "usage: bench_sync [--compare] [--no-reflink] [--verify] SRC DST\n");
    return 2;
  }
  Syncer syncer(options, [] { return std::chrono::steady_clock::now(); });
  const auto plan = syncer.Plan(files[0], files[1]);
  const auto result = plan.ok() ? syncer.Sync(
                                      *plan, [](const SyncProgress&) {}, signals.token())
                                : absl::StatusOr<SyncResult>(plan.status());
  if (!result.ok()) {
    fprintf(stderr, "%s\n", result.status().ToString().c_str());
    return 1;
  }
  printf(
      "{\"read\": %lu, \"different\": %lu, \"written\": %lu, \"cloned\": %lu, \"punched\": %lu}\n",
      result->read_bytes, result->different_bytes, result->written_bytes, result->cloned_bytes,
      result->punched_bytes);
  return result->complete ? 0 : 3;
}

}  // namespace
}  // namespace virt_reclaim::sync

int main(int argc, char** argv) {
  return virt_reclaim::sync::Main(std::vector<std::string>(argv + 1, argv + argc));
}
