# Today's agent and host program beside those of an older commit, which it builds itself the first time on a machine.
find_package(Python3 3.11 COMPONENTS Interpreter REQUIRED)
add_test(NAME compat COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/compat_test.py)
set_tests_properties(compat PROPERTIES
  LABELS integration TIMEOUT 2400 SKIP_RETURN_CODE 77 COST 2400
  ENVIRONMENT "VIRT_RECLAIM_BUILD_DIR=${PROJECT_BINARY_DIR};PYTHONDONTWRITEBYTECODE=1")
