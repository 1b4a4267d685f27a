# sync. The component tests make filesystems on loop devices: root.
virt_reclaim_test(sync_unit_test
  SOURCES unit/sync_steps_test.cc
  DEPS virt_reclaim_sync LABEL unit)
virt_reclaim_test(sync_filesystems_test
  SOURCES component/sync_filesystems_test.cc component/sync_cases_test.cc component/sync_care_test.cc
    component/sync_atomic_test.cc component/sync_format_test.cc component/punch_fixtures.cc
  DEPS virt_reclaim_sync LABEL component TIMEOUT 900)
set_tests_properties(sync_filesystems_test PROPERTIES COST 160)
virt_reclaim_test(sync_program_test
  SOURCES component/sync_program_test.cc
  DEPS virt_reclaim_cli LABEL component)
virt_reclaim_test(sync_domain_copy_test
  SOURCES component/sync_domain_copy_test.cc component/punch_fixtures.cc
  DEPS virt_reclaim_fakes virt_reclaim_commands LABEL component)
