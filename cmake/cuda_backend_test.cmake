# The whole engine on the CUDA backend with kernels that the host shim runs: needs neither the CUDA toolkit nor a GPU.
file(GLOB cuda_backend_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/engine/backend/cuda_*.cpp)
file(GLOB cuda_backend_tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/tests/cuda/backend/test_*.cpp)
foreach(source ${cuda_backend_tests})
  get_filename_component(name ${source} NAME_WE)
  string(REGEX REPLACE "^test_" "cuda_backend_" name ${name})
  # Its own definitions of what the library's no_cuda.cpp answers come first.
  add_executable(${name} ${source} tests/cuda/backend/host_device.cpp ${cuda_backend_sources})
  target_link_libraries(${name} PRIVATE foveal_cuda_shim foveal foveal_flags)
  target_compile_definitions(${name} PRIVATE FOVEAL_TEST_DATA="${CMAKE_CURRENT_SOURCE_DIR}/tests/data")
  add_test(NAME ${name} COMMAND ${name})
endforeach()

# The same on a card; skipped, and said so, without one.
if(FOVEAL_CUDA STREQUAL "ON")
  foreach(source ${cuda_backend_tests})
    get_filename_component(name ${source} NAME_WE)
    string(REGEX REPLACE "^test_" "cuda_gpu_" name ${name})
    add_executable(${name} ${source})
    target_link_libraries(${name} PRIVATE foveal foveal_flags)
    target_compile_definitions(${name} PRIVATE FOVEAL_REAL_GPU
                               FOVEAL_TEST_DATA="${CMAKE_CURRENT_SOURCE_DIR}/tests/data")
    add_test(NAME ${name} COMMAND ${name})
    set_tests_properties(${name} PROPERTIES SKIP_REGULAR_EXPRESSION "skipped: ")
  endforeach()
endif()
