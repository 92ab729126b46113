// Memory that vectors may be read from and written to, freed with what holds it.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>

#include "vectors.h"

namespace {

struct Release {
  void operator()(void* memory) const { std::free(memory); }
};
template <typename T>
using Memory = std::unique_ptr<T[], Release>;

template <typename T>
Memory<T> allocate(int64_t count) {
  int64_t bytes = (count * sizeof(T) + BYTES) / BYTES * BYTES;
  void* memory = std::aligned_alloc(BYTES, bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return Memory<T>(static_cast<T*>(memory));
}

template <typename T>
Memory<T> zeros(int64_t count) {
  auto memory = allocate<T>(count);
  std::memset(memory.get(), 0, count * sizeof(T));
  return memory;
}

}  // namespace
