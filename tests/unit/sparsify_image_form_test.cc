#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/sparsify/image_form.h"

namespace virt_reclaim::sparsify {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr char kInfo[] =
    R"({"format": "qcow2", "cluster-size": 131072, "snapshots": [{"name": "s1"}],
  "backing-filename": "base.qcow2", "format-specific": {"type": "qcow2", "data": {
    "compat": "1.1", "compression-type": "zstd", "lazy-refcounts": true, "refcount-bits": 8, "extended-l2": true,
    "bitmaps": [{"flags": ["auto"], "name": "backup", "granularity": 65536},
                {"flags": [], "name": "old", "granularity": 4096},
                {"flags": ["in-use", "auto"], "name": "bad\u0007", "granularity": 65536}]}}})";

TEST(ImageFormTest, WhatIsKeptAndWhatIsLost) {
  const auto form =
      ParseImageForm(kInfo, R"({"allocated-clusters": 10, "compressed-clusters": 5})");
  ASSERT_TRUE(form.ok()) << form.status();
  EXPECT_THAT(form->options,
              ElementsAre("compat=1.1", "cluster_size=131072", "extended_l2=on",
                          "lazy_refcounts=on", "compression_type=zstd", "refcount_bits=8"));
  EXPECT_TRUE(form->compressed);
  EXPECT_EQ(form->some_compression, "");
  EXPECT_THAT(form->bitmaps,
              ElementsAre(ImageBitmap{"backup", 65536, true}, ImageBitmap{"old", 4096, false}));
  EXPECT_THAT(form->lost,
              ElementsAre("1 internal snapshot", "its backing file (the copy stands alone)",
                          "bitmap 'bad\\x07' (inconsistent)"));
  EXPECT_THAT(form->only_qcow2, ElementsAre("compression", "bitmap 'backup'", "bitmap 'old'"));
}

TEST(ImageFormTest, APlainOne) {
  const auto form = ParseImageForm(
      R"({"format": "qcow2", "cluster-size": 65536, "format-specific": {"data": {"compat": "0.10", "refcount-bits": 16}}})",
      R"({"allocated-clusters": 10, "compressed-clusters": 1})");
  ASSERT_TRUE(form.ok()) << form.status();
  EXPECT_THAT(form->options, ElementsAre("compat=0.10", "cluster_size=65536"));
  EXPECT_FALSE(form->compressed);
  EXPECT_EQ(form->some_compression, "compression (of 1 of 10 clusters)");
  EXPECT_THAT(form->bitmaps, IsEmpty());
  EXPECT_THAT(form->lost, IsEmpty());
}

TEST(ImageFormTest, Compression) {
  const auto of = [](const char* check) {
    return ParseImageForm(R"({"format": "qcow2"})", check).value();
  };
  for (const char* none : {"{}", R"({"allocated-clusters": 10})"}) {
    EXPECT_FALSE(of(none).compressed) << none;
    EXPECT_EQ(of(none).some_compression, "") << none;
  }
  for (const char* unknown : {"", "{", "7", "qemu-img: Could not open"}) {
    EXPECT_FALSE(of(unknown).compressed) << unknown;
    EXPECT_EQ(of(unknown).some_compression,
              "compression (not known whether it has any: qemu-img check failed)")
        << unknown;
  }
}

TEST(ImageFormTest, WhatIsNoAnswer) {
  for (const char* info : {"", "{", "[]", "null", R"({"format": "raw"})", R"({"format": 7})"})
    EXPECT_TRUE(absl::IsInvalidArgument(ParseImageForm(info, "").status())) << info;
  const auto strange = ParseImageForm(
      R"({"format": "qcow2", "cluster-size": "x", "snapshots": 3, "format-specific": {"data": {"bitmaps": [7, {"name": 8}]}}})",
      "nonsense");
  ASSERT_TRUE(strange.ok()) << strange.status();
  EXPECT_THAT(strange->options, IsEmpty());
  EXPECT_THAT(strange->bitmaps, IsEmpty());
}

}  // namespace
}  // namespace virt_reclaim::sparsify
