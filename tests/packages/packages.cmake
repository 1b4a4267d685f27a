# What packages bring along: units, completions, the packages themselves.
find_package(Python3 3.11 COMPONENTS Interpreter REQUIRED)
function(virt_reclaim_package_test name label timeout)
  add_test(NAME packages.${name} COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/${name}_test.py)
  set_tests_properties(packages.${name} PROPERTIES LABELS ${label} TIMEOUT ${timeout} SKIP_RETURN_CODE 77
    ENVIRONMENT "VIRT_RECLAIM_BUILD_DIR=${PROJECT_BINARY_DIR};PYTHONDONTWRITEBYTECODE=1")
endfunction()
virt_reclaim_package_test(units unit 120)
virt_reclaim_package_test(completion component 240)
# Of what scripts/build-packages has made.
virt_reclaim_package_test(reproducible integration 300)
virt_reclaim_package_test(install integration 1200)
virt_reclaim_package_test(systemd integration 1800)
set_tests_properties(packages.reproducible packages.install packages.systemd PROPERTIES ENVIRONMENT
  "VIRT_RECLAIM_PACKAGES=${PROJECT_SOURCE_DIR}/build/packages;VIRT_RECLAIM_STATIC_AGENT=${VIRT_RECLAIM_STATIC_AGENT};PYTHONDONTWRITEBYTECODE=1")
