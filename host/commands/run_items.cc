// What a run would do to each domain and file, or has done, and what that comes to.
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "host/commands/run.h"
#include "host/services/run_history.h"

namespace virt_reclaim {
namespace {

using policy::Job;

RunItem NewItem(Job job, const std::string& name, bool is_domain) {
  RunItem item;
  item.job = job;
  item.name = name;
  item.is_domain = is_domain;
  return item;
}

RunItem PlannedItem(const TrimStep& step) {
  RunItem item = DomainItem(Job::kTrim, step.action.domain.name);
  item.expected = step.action.expected;
  item.outcome.error = step.action.error;
  item.outcome.reasons = step.action.blockers;
  if (!step.action.blockers.empty()) item.outcome.kind = OutcomeKind::kSkipped;
  if (!step.action.error.ok()) item.outcome.kind = OutcomeKind::kFailed;
  return item;
}

RunItem PlannedItem(const SparsifyStep& step) {
  RunItem item = NewItem(Job::kSparsify, step.action.name, step.action.is_domain);
  item.outcome = step.action.outcome;
  return item;
}

RunItem PlannedItem(const PunchStep& step) {
  RunItem item = NewItem(Job::kPunch, step.action.path, /*is_domain=*/false);
  item.outcome.error = step.action.error;
  if (!step.action.error.ok()) item.outcome.kind = OutcomeKind::kFailed;
  return item;
}

}  // namespace

RunItem DomainItem(Job job, const std::string& name) {
  return NewItem(job, name, /*is_domain=*/true);
}

RunItem ItemOf(const TrimmedDomain& domain) {
  RunItem item = DomainItem(Job::kTrim, domain.domain.name);
  item.outcome = domain.outcome;
  item.expected = domain.expected;
  item.freed = domain.freed;
  item.remembered = domain.remembered;
  for (const TrimmedDisk& disk : domain.disks) {
    for (Blocker reason : disk.reasons) {
      reason.detail =
          absl::StrCat(Printable(disk.target), reason.detail.empty() ? "" : ": ", reason.detail);
      item.outcome.reasons.push_back(std::move(reason));
    }
  }
  return item;
}

RunItem ItemOf(const SparsifiedTarget& target) {
  RunItem item = NewItem(Job::kSparsify, target.name, target.is_domain);
  item.outcome = target.outcome;
  if (!target.result) return item;
  uint64_t expected = 0;
  for (const sparsify::DiskResult& disk : target.result->disks) {
    expected += disk.reclaimable_bytes;
    if (const auto freed = disk.freed_bytes())
      item.freed = item.freed.value_or(0) + static_cast<int64_t>(*freed);
  }
  item.expected = expected;
  return item;
}

RunItem ItemOf(const PunchedFile& file) {
  RunItem item = NewItem(Job::kPunch, file.path, /*is_domain=*/false);
  item.outcome = file.outcome;
  if (file.outcome.kind == OutcomeKind::kDone) item.expected = file.result.zero_bytes;
  if (file.result.freed_bytes) item.freed = static_cast<int64_t>(*file.result.freed_bytes);
  return item;
}

bool IsWorthALine(const RunItem& item) {
  if (item.is_domain || item.outcome.kind != OutcomeKind::kDone) return true;
  return item.freed.value_or(0) != 0 || !item.outcome.reasons.empty();
}

std::vector<RunItem> ItemsOf(const RunPlan& plan) {
  std::vector<RunItem> items = plan.passed_over;
  const auto add_trims = [&] {
    for (const TrimStep& step : plan.trims) items.push_back(PlannedItem(step));
  };
  if (!plan.emergency) add_trims();
  for (const SparsifyStep& step : plan.sparsify) items.push_back(PlannedItem(step));
  for (const PunchStep& step : plan.punch) items.push_back(PlannedItem(step));
  if (plan.emergency) add_trims();
  for (const DomainSummary& domain : plan.resume)
    items.push_back(DomainItem(Job::kResume, domain.name));
  return items;
}

RunTotal TotalOf(const std::vector<RunItem>& items, Job job) {
  RunTotal total;
  for (const RunItem& item : items) {
    if (item.job != job) continue;
    if (item.outcome.kind == OutcomeKind::kDone) ++total.done;
    if (item.outcome.kind == OutcomeKind::kSkipped) ++total.skipped;
    if (item.outcome.kind == OutcomeKind::kFailed) ++total.failed;
    total.freed += item.freed.value_or(0);
    total.expected += item.expected.value_or(0);
  }
  return total;
}

absl::Status RememberRun(const std::string& state_directory, Job job,
                         const std::vector<RunItem>& items, bool whole, absl::Time now) {
  std::vector<Outcome> outcomes;
  for (const RunItem& item : items) {
    if (item.job == job) outcomes.push_back(item.outcome);
  }
  const bool success = whole && ExitStatusOf(outcomes) == ExitStatus::kDone;
  return WriteRun(state_directory,
                  {std::string(Name(job)), now, success, TotalOf(items, job).freed});
}

}  // namespace virt_reclaim
