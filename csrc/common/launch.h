// Launches a kernel: DDFAST_LAUNCH(blocks, threads, stream, kernel, arguments...).  tests/cuda_host compiles the same
// sources with g++ and runs kernels on the CPU, where this macro is defined before.
#pragma once

#ifndef DDFAST_LAUNCH
#define DDFAST_LAUNCH(blocks, threads, stream, kernel, ...) kernel<<<(blocks), (threads), 0, (stream)>>>(__VA_ARGS__)
#endif
