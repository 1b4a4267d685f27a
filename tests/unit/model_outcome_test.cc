#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "host/model/outcome.h"

namespace virt_reclaim {
namespace {

Outcome Make(OutcomeKind kind, bool asked_for = false, bool nothing_freed = false) {
  Outcome outcome;
  outcome.kind = kind;
  outcome.asked_for = asked_for;
  outcome.nothing_freed = nothing_freed;
  return outcome;
}

const Outcome kDone = Make(OutcomeKind::kDone);
const Outcome kFailed = Make(OutcomeKind::kFailed);
const Outcome kSkipped = Make(OutcomeKind::kSkipped);
const Outcome kRefused = Make(OutcomeKind::kSkipped, true);
const Outcome kNothing = Make(OutcomeKind::kDone, false, true);
const Outcome kCancelled = Make(OutcomeKind::kCancelled);

ExitStatus Of(std::vector<Outcome> outcomes) { return ExitStatusOf(outcomes); }

TEST(ExitStatusOf, FailedInTheMiddleIsNotAsItWas) {
  Outcome partly = kFailed;
  partly.partly = true;
  EXPECT_EQ(Of({partly}), ExitStatus::kSomeFailed);
}

TEST(ExitStatusOf, TroubleOfTheOnlyDomainIsNoPlainError) {
  Outcome trouble = kFailed;
  trouble.trouble = true;
  EXPECT_EQ(Of({trouble}), ExitStatus::kSomeFailed);
  EXPECT_EQ(Of({trouble, kCancelled}), ExitStatus::kInterrupted);
}

TEST(ExitStatusOf, FollowsTheContract) {
  EXPECT_EQ(Of({}), ExitStatus::kDone);
  EXPECT_EQ(Of({kDone, kSkipped}), ExitStatus::kDone);
  EXPECT_EQ(Of({kFailed}), ExitStatus::kError);
  EXPECT_EQ(Of({kFailed, kSkipped}), ExitStatus::kError);
  EXPECT_EQ(Of({kDone, kFailed}), ExitStatus::kSomeFailed);
  EXPECT_EQ(Of({kRefused}), ExitStatus::kRefused);
  EXPECT_EQ(Of({kRefused, kDone}), ExitStatus::kSomeFailed);
  EXPECT_EQ(Of({kNothing, kDone}), ExitStatus::kNothingFreed);
  EXPECT_EQ(Of({kNothing, kFailed}), ExitStatus::kSomeFailed);
  EXPECT_EQ(Of({kDone, kCancelled, kFailed}), ExitStatus::kInterrupted);
}

TEST(ExitStatusOf, StatusesOfARunThatCouldNotBegin) {
  EXPECT_EQ(ExitStatusOf(absl::OkStatus()), ExitStatus::kDone);
  EXPECT_EQ(ExitStatusOf(absl::InvalidArgumentError("")), ExitStatus::kUsage);
  EXPECT_EQ(ExitStatusOf(absl::AbortedError("")), ExitStatus::kRefused);
  EXPECT_EQ(ExitStatusOf(absl::UnavailableError("")), ExitStatus::kError);
  EXPECT_EQ(ExitStatusOf(absl::CancelledError("")), ExitStatus::kInterrupted);
}

TEST(Reasons, CodesAreUniqueAndSentencesAreSentences) {
  std::set<std::string> codes;
  for (const ReasonText& text : AllReasons()) {
    EXPECT_TRUE(codes.insert(std::string(text.code)).second) << text.code;
    EXPECT_FALSE(text.sentence.empty());
    EXPECT_NE(text.sentence.back(), '.') << text.code;
  }
}

}  // namespace
}  // namespace virt_reclaim
