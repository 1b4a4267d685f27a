# punch and its guard. The component tests make filesystems on loop devices: root, and one at a time.
virt_reclaim_test(punch_unit_test
  SOURCES unit/guard_holders_test.cc unit/punch_plan_test.cc unit/punch_qcow2_clusters_test.cc unit/punch_zero_scan_test.cc
  DEPS virt_reclaim_punch LABEL unit)
virt_reclaim_test(guard_test
  SOURCES component/guard_test.cc
  DEPS virt_reclaim_guard LABEL component)
virt_reclaim_test(punch_filesystems_test
  SOURCES component/punch_filesystems_test.cc component/punch_cases_test.cc component/punch_cache_test.cc
    component/punch_interrupted_test.cc component/punch_fixtures.cc
  DEPS virt_reclaim_punch LABEL component TIMEOUT 600)
virt_reclaim_test(punch_writers_test
  SOURCES component/punch_writers_test.cc component/punch_fixtures.cc
  DEPS virt_reclaim_punch LABEL component TIMEOUT 3600)
set_tests_properties(punch_filesystems_test PROPERTIES COST 70)
set_tests_properties(punch_writers_test PROPERTIES COST 25)
virt_reclaim_test(punch_reasons_test
  SOURCES component/punch_reasons_test.cc component/punch_fixtures.cc
  DEPS virt_reclaim_cli LABEL component)
virt_reclaim_test(punch_program_test
  SOURCES component/punch_program_test.cc
  DEPS virt_reclaim_cli LABEL component)
