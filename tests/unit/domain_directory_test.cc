// Which directory libvirt has for a running domain.
#include "host/services/domain_directory.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "base/temporary_directory.h"

namespace virt_reclaim {
namespace {

TEST(DomainDirectoriesTest, ByTheUri) {
  EXPECT_EQ(DomainDirectories("qemu:///system"), "/var/lib/libvirt/qemu");
  EXPECT_EQ(DomainDirectories("qemu+unix:///system?mode=direct"), "/var/lib/libvirt/qemu");
  EXPECT_EQ(DomainDirectories("qemu:///embed?root=/srv/bed"), "/srv/bed/lib/qemu");
  EXPECT_EQ(DomainDirectories("qemu:///embed?a=b&root=%2Fsrv%2fa%20bed&c=d"),
            "/srv/a bed/lib/qemu");
  for (const char* unknown : {"qemu:///session", "qemu+ssh://host/system", "test:///default", "",
                              "qemu:///embed", "qemu:///embed?root=here", "qemu://host/system"})
    EXPECT_EQ(DomainDirectories(unknown), "") << unknown;
}

class FindDomainDirectoryTest : public testing::Test {
 protected:
  std::string Make(const std::string& name) const {
    const std::string path = made_->path() + "/" + name;
    std::filesystem::create_directory(path);
    return path;
  }
  std::string Find(unsigned id, const std::string& name) const {
    return FindDomainDirectory(made_->path(), id, name);
  }

  absl::StatusOr<TemporaryDirectory> made_ =
      TemporaryDirectory::Make(testing::TempDir(), "domain-directory-");
};

TEST_F(FindDomainDirectoryTest, ByNumberAndName) {
  const std::string web = Make("domain-3-web");
  Make("domain-30-web");
  Make("domain-3-mail");
  Make("domain-3-");
  Make("domain-3-web-2");
  EXPECT_EQ(Find(3, "web"), web);
  EXPECT_EQ(Find(4, "web"), "");
  EXPECT_EQ(Find(3, "we"), "");
  EXPECT_EQ(FindDomainDirectory("", 3, "web"), "");
  EXPECT_EQ(FindDomainDirectory(made_->path() + "/none", 3, "web"), "");
}

TEST_F(FindDomainDirectoryTest, OfALongNameTheBeginning) {
  const std::string name = "a-name-that-is-longer-than-twenty";
  const std::string cut = Make("domain-7-" + name.substr(0, 20));
  Make("domain-7-a-name");  // of another domain, before a power cut
  EXPECT_EQ(Find(7, name), cut);
}

TEST_F(FindDomainDirectoryTest, NoLinkAndNoFile) {
  std::filesystem::create_symlink("/tmp", made_->path() + "/domain-3-web");
  EXPECT_EQ(Find(3, "web"), "");
}

}  // namespace
}  // namespace virt_reclaim
