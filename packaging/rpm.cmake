# RPMs, for distributions that have no package of it: configure with -DCMAKE_INSTALL_PREFIX=/usr, build, then 'cpack -G RPM' in
# the build directory. Debian's packages come from debian/.
set(CPACK_GENERATOR RPM)
set(CPACK_PACKAGE_NAME virt-reclaim)
set(CPACK_PACKAGE_VENDOR "virt-reclaim maintainers")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
set(CPACK_PACKAGE_DESCRIPTION "Gives a libvirt/QEMU hypervisor the disk space back that its guests have freed.")
set(CPACK_RESOURCE_FILE_LICENSE ${PROJECT_SOURCE_DIR}/LICENSE)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_COMPONENTS_ALL "")
if(VIRT_RECLAIM_HOST)
  list(APPEND CPACK_COMPONENTS_ALL host)
  if(VIRT_RECLAIM_GUESTFS)
    list(APPEND CPACK_COMPONENTS_ALL guestfs)
  endif()
endif()
if(VIRT_RECLAIM_AGENT)
  list(APPEND CPACK_COMPONENTS_ALL agent)
endif()
set(CPACK_RPM_COMPONENT_INSTALL ON)
set(CPACK_RPM_FILE_NAME RPM-DEFAULT)
set(CPACK_RPM_PACKAGE_LICENSE Apache-2.0)
set(CPACK_RPM_PACKAGE_GROUP System)
set(CPACK_RPM_HOST_PACKAGE_NAME virt-reclaim)
set(CPACK_RPM_HOST_PACKAGE_SUGGESTS "virt-reclaim-guestfs, libvirt-client")
# An upgrade leaves a policy alone that somebody wrote.
set(CPACK_RPM_HOST_USER_FILELIST "%config(noreplace) ${CMAKE_INSTALL_FULL_SYSCONFDIR}/virt-reclaim/config.toml")
set(CPACK_RPM_GUESTFS_PACKAGE_NAME virt-reclaim-guestfs)
set(CPACK_RPM_GUESTFS_PACKAGE_REQUIRES "virt-reclaim = ${PROJECT_VERSION}")
set(CPACK_RPM_GUESTFS_PACKAGE_SUMMARY "virt-reclaim: guests that are off")
set(CPACK_RPM_AGENT_PACKAGE_NAME virt-reclaim-agent)
set(CPACK_RPM_AGENT_PACKAGE_SUMMARY "virt-reclaim: the agent in the guest")
# Directories of the distribution's own packages.
set(CPACK_RPM_EXCLUDE_FROM_AUTO_FILELIST_ADDITION
  /usr/lib/systemd /usr/lib/systemd/system /usr/lib/udev /usr/lib/udev/rules.d /usr/libexec /usr/sbin /usr/share/man
  /usr/share/man/man1 /usr/share/man/man5 /usr/share/man/man8 /usr/share/bash-completion /usr/share/bash-completion/completions
  /usr/share/fish /usr/share/fish/vendor_completions.d /usr/share/zsh /usr/share/zsh/site-functions)
include(CPack)
