# metrics, and the page of `report --html`: by promtool, a Prometheus and a Chromium (tests/metrics).
if(NOT VIRT_RECLAIM_HOST)
  return()
endif()
find_package(Python3 REQUIRED COMPONENTS Interpreter)

function(virt_reclaim_metrics_test name)
  add_test(NAME metrics_${name}
    COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/metrics/${name}_test.py ${ARGN})
  set_tests_properties(metrics_${name} PROPERTIES LABELS component TIMEOUT 180 SKIP_RETURN_CODE 77
    ENVIRONMENT PYTHONDONTWRITEBYTECODE=1)
endfunction()
virt_reclaim_metrics_test(prometheus)
virt_reclaim_metrics_test(page $<TARGET_FILE:virt-reclaim>)
virt_reclaim_metrics_test(kill $<TARGET_FILE:virt-reclaim> $<TARGET_FILE:kill_at_sync>)
