// The launch functions of csrc/cuda with a C interface, for harness.py: each returns null or the error's text.
#include <exception>
#include <string>

#include "outlook_attention.h"

namespace {

template <class Body>
const char* report(Body body) {
  static thread_local std::string text;
  try {
    body();
    return nullptr;
  } catch (const std::exception& error) {
    text = error.what();
    return text.c_str();
  }
}

}  // namespace

extern "C" {

using mffpa::DType;
using mffpa::OutlookShape;

const char* outlook_attention_forward(int dtype, const OutlookShape* shape, double scale, const void* value,
                                      const void* logits, const void* mask, void* output) {
  return report([&] {
    mffpa::outlook_attention_forward_cuda(DType(dtype), *shape, scale, value, logits, mask, output, nullptr);
  });
}

const char* outlook_attention_backward(int dtype, const OutlookShape* shape, double scale, const void* value,
                                       const void* logits, const void* mask, const void* grad_output, void* grad_value,
                                       void* grad_logits, void* workspace) {
  return report([&] {
    mffpa::outlook_attention_backward_cuda(DType(dtype), *shape, scale, value, logits, mask, grad_output, grad_value,
                                           grad_logits, workspace, nullptr);
  });
}

}  // extern "C"
