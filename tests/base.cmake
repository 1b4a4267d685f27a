virt_reclaim_test(base_test
  SOURCES unit/base_beat_test.cc unit/base_byte_size_test.cc unit/base_escape_test.cc unit/base_io_test.cc unit/base_journal_test.cc unit/base_mount_table_test.cc unit/base_range_test.cc unit/base_subprocess_test.cc unit/base_suggest_test.cc
    unit/base_temporary_directory_test.cc
  DEPS virt_reclaim_base LABEL unit)
