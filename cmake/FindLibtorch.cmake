# Finds libtorch inside the Python environment and offers it as the target Libtorch::torch.
#
# torch's own TorchConfig.cmake insists on the CUDA toolkit when the wheel was built with CUDA. Only ATen and autograd
# are used here, which need no toolkit, so the three libraries are taken directly and any wheel will do.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
execute_process(
  COMMAND "${Python3_EXECUTABLE}" -c
          "import importlib.util as u, pathlib; print(pathlib.Path(u.find_spec('torch').origin).parent)"
  OUTPUT_VARIABLE LIBTORCH_ROOT OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE libtorch_status ERROR_QUIET)
if(libtorch_status)
  message(FATAL_ERROR "[cmake] ${Python3_EXECUTABLE} must have torch installed, got none; scripts/setup installs it, "
                      "and pip sees it with --no-build-isolation")
endif()

set(LIBTORCH_LIBRARY_DIR "${LIBTORCH_ROOT}/lib")
find_library(LIBTORCH_C10 c10 PATHS "${LIBTORCH_LIBRARY_DIR}" NO_DEFAULT_PATH REQUIRED)
find_library(LIBTORCH_CPU torch_cpu PATHS "${LIBTORCH_LIBRARY_DIR}" NO_DEFAULT_PATH REQUIRED)
find_library(LIBTORCH_TORCH torch PATHS "${LIBTORCH_LIBRARY_DIR}" NO_DEFAULT_PATH REQUIRED)

add_library(Libtorch::torch INTERFACE IMPORTED)
target_include_directories(Libtorch::torch SYSTEM INTERFACE "${LIBTORCH_ROOT}/include"
                                                            "${LIBTORCH_ROOT}/include/torch/csrc/api/include")
target_link_libraries(Libtorch::torch INTERFACE "-Wl,--no-as-needed" "${LIBTORCH_TORCH}" "-Wl,--as-needed"
                                                "${LIBTORCH_CPU}" "${LIBTORCH_C10}")
# Without per-operator headers every file would pull in every operator.
target_compile_definitions(Libtorch::torch INTERFACE AT_PER_OPERATOR_HEADERS)
