// The second half of a run: acting, within the policy's windows and limits.
#include "host/commands/run.h"

#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <iterator>
#include <list>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/escape.h"

namespace virt_reclaim {
namespace {

using policy::Job;

Outcome Skipped(Blocker reason) {
  Outcome outcome;
  outcome.kind = OutcomeKind::kSkipped;
  outcome.reasons.push_back(std::move(reason));
  return outcome;
}

class Run {
 public:
  Run(const Services& services, const RunPlan& plan, const RunProgress& progress,
      const std::stop_token& stop)
      : services_(services),
        plan_(plan),
        progress_(progress),
        stop_(stop),
        end_(plan.limits.max_duration ? services.now() + *plan.limits.max_duration
                                      : absl::InfiniteFuture()),
        items_(plan.passed_over) {}

  std::vector<RunItem> Execute() {
    if (!plan_.emergency) Trim();
    Sparsify();
    Punch();
    if (plan_.emergency) Trim();
    for (const DomainSummary& domain : plan_.resume) Resume(domain);
    return std::move(items_);
  }

 private:
  // All in one schedule, whatever rules they are under.
  void Trim() {
    std::list<TrimOptions> options;
    std::vector<TrimJob> jobs;
    for (const TrimStep& step : plan_.trims) {
      options.push_back(step.options);
      options.back().waits = progress_.waits;
      jobs.push_back({&options.back(), &step.action});
    }
    const std::vector<TrimmedDomain> domains =
        ExecuteTrims(services_, jobs, end_, progress_.trim, stop_);
    for (size_t i = 0; i < domains.size(); ++i) {
      items_.push_back(ItemOf(domains[i]));
      NoteWindow(jobs[i].options->window);
      if (!domains[i].outcome.trouble) continue;
      for (const uint64_t storage : jobs[i].action->storages)
        in_trouble_.try_emplace(storage, Printable(domains[i].domain.name));
    }
  }

  // The window that the last item waits for, if that is why it was not begun.
  void NoteWindow(const std::optional<DailyWindow>& window) {
    RunItem& item = items_.back();
    for (const Blocker& reason : item.outcome.reasons) {
      if (reason.reason == Reason::kOutsideWindow) item.window = window;
    }
  }

  std::optional<Blocker> TroubleOn(uint64_t storage) const {
    const auto found = in_trouble_.find(storage);
    if (found == in_trouble_.end()) return std::nullopt;
    return Blocker{Reason::kStorageStopped, absl::StrCat("domain ", found->second)};
  }

  // Why something is not begun now.
  std::optional<Blocker> NotNow(const std::optional<DailyWindow>& window) const {
    // First what no window changes: a run that waits for windows has nothing to wait for.
    if (services_.now() >= end_) return Blocker{Reason::kTimeOver, ""};
    if (!IsOpenNow(window)) return Blocker{Reason::kOutsideWindow, ""};
    return std::nullopt;
  }

  std::optional<Blocker> TroubleBelow(const std::string& path) const {
    struct stat status;
    if (in_trouble_.empty() || stat(path.c_str(), &status) != 0) return std::nullopt;
    return TroubleOn(status.st_dev);
  }

  std::optional<Blocker> TroubleBelow(const SparsifyAction& action) const {
    for (const SparsifyDisk& disk : action.disks) {
      if (auto reason = TroubleBelow(disk.spec.path)) return reason;
    }
    return std::nullopt;
  }

  bool IsOpenNow(const std::optional<DailyWindow>& window) const {
    return !window || IsOpen(*window, services_.now(), absl::LocalTimeZone());
  }

  // Each once, in their order; but what may not begin now lets others go first.
  template <typename Step>
  void EachInItsWindow(const std::vector<Step>& steps,
                       const std::function<void(const Step&)>& work) const {
    std::list<const Step*> waiting;
    for (const Step& step : steps) waiting.push_back(&step);
    while (!waiting.empty()) {
      auto next = std::find_if(waiting.begin(), waiting.end(),
                               [&](const Step* step) { return IsOpenNow(step->window); });
      if (next == waiting.end()) next = waiting.begin();
      const Step* const step = *next;
      waiting.erase(next);
      work(*step);
    }
  }

  void Sparsify() {
    size_t target = 0;
    EachInItsWindow<SparsifyStep>(plan_.sparsify,
                                  [&](const SparsifyStep& step) { SparsifyOne(step, ++target); });
  }

  void SparsifyOne(const SparsifyStep& step, size_t number) {
    SparsifyAction action = step.action;
    if (action.outcome.kind == OutcomeKind::kDone && !stop_.stop_requested()) {
      if (auto reason = NotNow(step.window)) {
        action.outcome = Skipped(*std::move(reason));
      } else if (auto trouble = TroubleBelow(action)) {
        action.outcome = Skipped(*std::move(trouble));
        action.outcome.asked_for = true;
      }
    }
    const auto show = [&](SparsifyTargetProgress now) {
      now.target = number;
      now.targets = plan_.sparsify.size();
      if (progress_.sparsify) progress_.sparsify(now);
    };
    for (const SparsifiedTarget& target : ExecuteSparsify(services_, step.options, {action},
                                                          sparsify::Mode::kSparsify, show, stop_)) {
      items_.push_back(ItemOf(target));
      NoteWindow(step.window);
    }
  }

  void Resume(const DomainSummary& domain) {
    if (!stop_.stop_requested()) {
      items_.push_back(ResumeDomain(services_, domain));
      return;
    }
    items_.push_back(DomainItem(Job::kResume, domain.name));
    items_.back().outcome.kind = OutcomeKind::kCancelled;
  }

  void Punch() {
    uint64_t before = 0;
    PunchFilesProgress now;
    now.files = plan_.punch.size();
    for (const PunchStep& step : plan_.punch) now.allocation += step.action.allocation;
    const punch::SteadyClock clock = [] { return std::chrono::steady_clock::now(); };
    std::vector<PunchedFile> files;
    std::vector<const PunchStep*> steps;  // of each file
    EachInItsWindow<PunchStep>(plan_.punch, [&](const PunchStep& step) {
      ++now.file;
      const auto show = [&](const PunchFilesProgress& made) {
        now.path = made.path;
        now.done = before + made.done;
        if (progress_.punch) progress_.punch(now);
      };
      auto reason = NotNow(step.window);
      const bool late = reason.has_value();
      if (!late && step.of_domain) reason = TroubleBelow(step.action.path);
      if (reason && step.action.error.ok() && !stop_.stop_requested()) {
        PunchedFile& file = files.emplace_back();
        file.path = step.action.path;
        file.outcome = Skipped(*std::move(reason));
        file.outcome.asked_for = !late;
      } else {
        auto one = PunchFiles(step.options, {step.action}, PunchMode::kPunch, clock, show, stop_);
        std::move(one.begin(), one.end(), std::back_inserter(files));
      }
      before += step.action.allocation;
      steps.resize(files.size(), &step);
    });
    MarkNothingFreed(files);
    for (size_t i = 0; i < files.size(); ++i) {
      items_.push_back(ItemOf(files[i]));
      NoteWindow(steps[i]->window);
    }
  }

  const Services& services_;
  const RunPlan& plan_;
  const RunProgress& progress_;
  const std::stop_token& stop_;
  const absl::Time end_;
  std::vector<RunItem> items_;
  std::map<uint64_t, std::string> in_trouble_;  // storage, and the domain that met it
};

}  // namespace

std::vector<RunItem> ExecuteRun(const Services& services, const RunPlan& plan,
                                const RunProgress& progress, const std::stop_token& stop) {
  return Run(services, plan, progress, stop).Execute();
}

}  // namespace virt_reclaim
