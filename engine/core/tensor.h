// Views and owners of 2-D float data. A view never owns; rows are contiguous, `stride` elements apart.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>

namespace foveal {

template <class T>
struct View {
  T* data = nullptr;
  int64_t rows = 0, cols = 0;
  int64_t stride = 0;  // elements from one row to the next

  View() = default;
  View(T* d, int64_t r, int64_t c) : data(d), rows(r), cols(c), stride(c) {}
  View(T* d, int64_t r, int64_t c, int64_t s) : data(d), rows(r), cols(c), stride(s) {}
  // A mutable view reads as a const one.
  template <class U, class = std::enable_if_t<std::is_same_v<const U, T>>>
  View(const View<U>& o) : data(o.data), rows(o.rows), cols(o.cols), stride(o.stride) {}

  T* row(int64_t i) const { return data + i * stride; }
  View rows_at(int64_t first, int64_t count) const { return View(row(first), count, cols, stride); }
  View cols_at(int64_t first, int64_t count) const { return View(data + first, rows, count, stride); }
};

using Mat = View<float>;
using ConstMat = View<const float>;

// Memory that isn't the heap's, such as a GPU's: its pointers mean something to whoever gave them only.
class Memory {
 public:
  virtual ~Memory() = default;
  virtual void* allocate(size_t bytes) = 0;  // at least 64-byte aligned; throws when there is none
  virtual void release(void* p) noexcept = 0;
};

// 64-byte aligned storage, of the heap or of `memory` (which must outlive it); contents are not initialised.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t n, Memory* memory = nullptr) : data_(nullptr, Free{memory}), size_(n) {
    if (n == 0) return;
    if (n > (SIZE_MAX - 63) / sizeof(T)) throw std::bad_alloc();
    if (memory) {
      data_.reset(static_cast<T*>(memory->allocate(n * sizeof(T))));
      return;
    }
    data_.reset(static_cast<T*>(std::aligned_alloc(64, (n * sizeof(T) + 63) / 64 * 64)));
    if (!data_) throw std::bad_alloc();
  }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  size_t size() const { return size_; }
  size_t bytes() const { return size_ * sizeof(T); }
  T& operator[](size_t i) { return data_.get()[i]; }
  const T& operator[](size_t i) const { return data_.get()[i]; }

 private:
  struct Free {
    Memory* memory = nullptr;
    void operator()(T* p) const {
      if (memory) {
        memory->release(const_cast<std::remove_const_t<T>*>(p));
      } else {
        std::free(p);
      }
    }
  };
  std::unique_ptr<T, Free> data_;
  size_t size_ = 0;
};

// An owned matrix [rows, cols].
class Matrix {
 public:
  Matrix() = default;
  Matrix(int64_t rows, int64_t cols, Memory* memory = nullptr)
      : buffer_(static_cast<size_t>(rows * cols), memory), rows_(rows), cols_(cols) {}
  Mat view() { return Mat(buffer_.data(), rows_, cols_); }
  ConstMat view() const { return ConstMat(buffer_.data(), rows_, cols_); }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  size_t bytes() const { return buffer_.bytes(); }

 private:
  Buffer<float> buffer_;
  int64_t rows_ = 0, cols_ = 0;
};

}  // namespace foveal
