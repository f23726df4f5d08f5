# The CUDA kernels compiled as C++ for the host and their tests: needs neither the CUDA toolkit nor a GPU.
file(GLOB cuda_kernel_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/kernels/cuda/*.cu)
file(GLOB cuda_test_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/tests/cuda/test_*.cpp)

# A .cu is CXX to this library alone: one small .cpp includes each.
set(cuda_shim_sources ${CMAKE_CURRENT_SOURCE_DIR}/tests/cuda/shim/shim.cpp
                      ${CMAKE_CURRENT_SOURCE_DIR}/tests/cuda/shim/fiber.cpp)
foreach(source ${cuda_kernel_sources})
  get_filename_component(name ${source} NAME_WE)
  set(wrapper ${CMAKE_CURRENT_BINARY_DIR}/cuda_shim/${name}.cpp)
  file(CONFIGURE OUTPUT ${wrapper} CONTENT "#include \"${source}\"\n" @ONLY)
  list(APPEND cuda_shim_sources ${wrapper})
endforeach()
add_library(foveal_cuda_shim STATIC ${cuda_shim_sources})
target_include_directories(foveal_cuda_shim BEFORE PUBLIC ${CMAKE_CURRENT_SOURCE_DIR}/tests/cuda/shim
                           ${CMAKE_CURRENT_SOURCE_DIR})
target_compile_options(foveal_cuda_shim PRIVATE -ffp-contract=off -Wno-unused-function -Wno-unknown-pragmas)
target_link_libraries(foveal_cuda_shim PRIVATE foveal_flags PUBLIC foveal)

foreach(source ${cuda_test_sources})
  get_filename_component(name ${source} NAME_WE)
  string(REGEX REPLACE "^test_" "cuda_" name ${name})
  add_executable(${name} ${source})
  target_link_libraries(${name} PRIVATE foveal_cuda_shim foveal foveal_flags)
  target_compile_definitions(${name} PRIVATE FOVEAL_TEST_DATA="${CMAKE_CURRENT_SOURCE_DIR}/tests/data")
  add_test(NAME ${name} COMMAND ${name})
endforeach()
