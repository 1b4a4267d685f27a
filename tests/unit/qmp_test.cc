#include "host/services/qmp.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

namespace virt_reclaim {
namespace {

TEST(Qmp, TheQuestionIsJsonWhateverTheAliasIs) {
  EXPECT_EQ(QomGetCommand("virtio-disk0", "discard"),
            R"({"arguments":{"path":"/machine/peripheral/virtio-disk0","property":"discard"},)"
            R"("execute":"qom-get"})");
  const auto json = nlohmann::json::parse(QomGetCommand("a\"},\"x\":{\"\xff", "p"));
  EXPECT_EQ(json["execute"], "qom-get");
  EXPECT_EQ(json.size(), 2u);
}

TEST(Qmp, NumbersAndTruthValues) {
  EXPECT_EQ(ParseQomValue(R"({"return":true,"id":"libvirt-9"})").value(), 1u);
  EXPECT_EQ(ParseQomValue(R"({"return":false})").value(), 0u);
  EXPECT_EQ(ParseQomValue(R"({"return":4294967295})").value(), 4294967295u);
}

TEST(Qmp, ErrorsSayWhatQemuSays) {
  const auto status =
      ParseQomValue(R"({"error":{"class":"GenericError","desc":"Property 'x' not\u001b found"}})")
          .status();
  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_EQ(status.message(), "QEMU: Property 'x' not\\x1b found");
  EXPECT_TRUE(absl::IsNotFound(ParseQomValue(R"({"error":7})").status()));
  EXPECT_TRUE(absl::IsNotFound(ParseQomValue(R"({"error":{"desc":7}})").status()));
}

TEST(Qmp, WhatIsNoAnswerIsNone) {
  for (const std::string reply :
       {"", "x", "7", "[]", "{}", "{\"return\":null}", "{\"return\":-1}", "{\"return\":1.5}",
        "{\"return\":\"on\"}", "{\"return\":{}}", "{\"return\":true", "\xff"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseQomValue(reply).status())) << reply;
  }
  EXPECT_FALSE(ParseQomValue(std::string(100000, '[')).ok());
}

}  // namespace
}  // namespace virt_reclaim
