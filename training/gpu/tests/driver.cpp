// A driver without a card, for tests: the calls of CUDA's that `driver.rs` makes, and the kernels as they stand in kernels.cu, whose threads take turns
// on this processor and meet where values are exchanged. So all is tested but the compiler of the card.

#include <atomic>
#include <cmath>
#include <csetjmp>
#include <cstdio>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>
#include <vector>
#include <ucontext.h>

#define __device__
#define __global__

struct Three { unsigned x, y, z; };
static thread_local Three threadIdx, blockIdx, blockDim;

namespace warp {
    const int THREADS = 32;
    const size_t STACK = 1 << 16;

    // Threads have stacks of their own, which they keep for the next warp; jumps from one to another ask nothing of the kernel.
    static thread_local jmp_buf home, places[THREADS];
    static thread_local std::vector<char> stacks;
    static thread_local bool over[THREADS];
    static thread_local int now;
    // What each thread has given, at this exchange and the one before: who reads late still finds it.
    static thread_local uint32_t given[2][THREADS];
    static thread_local int turn[THREADS];
    static thread_local void (*body)(void *);
    static thread_local void *argument;

    static void leave() {
        if (!_setjmp(places[now])) _longjmp(home, 1);
    }

    static void enter() {
        for (;;) {
            body(argument);
            over[now] = true;
            leave();
        }
    }

    static void resume(bool born) {
        if (_setjmp(home)) return;
        if (born) _longjmp(places[now], 1);
        ucontext_t fresh;
        getcontext(&fresh);
        fresh.uc_stack.ss_sp = &stacks[STACK * now];
        fresh.uc_stack.ss_size = STACK;
        makecontext(&fresh, enter, 0);
        setcontext(&fresh);
    }

    // All threads of a warp, one after another, until each has met the others or has ended.
    static void run(unsigned first, void (*code)(void *), void *with) {
        bool born = !stacks.empty();
        stacks.resize(STACK * THREADS);
        body = code, argument = with;
        for (int i = 0; i < THREADS; i++) over[i] = false, turn[i] = 0;
        for (bool some = true; some; born = true) {
            some = false;
            for (now = 0; now < THREADS; now++) {
                if (over[now]) continue;
                some = true;
                threadIdx.x = first + now;
                resume(born);
            }
        }
    }

    static uint32_t exchange(uint32_t mine, int from) {
        int at = turn[now]++ % 2, own = now;
        given[at][own] = mine;
        leave();
        // A kernel is wrong whose threads do not all meet.
        if (turn[from] < turn[own]) abort();
        return given[at][from];
    }
}

template <class T> static T exchanged(T value, int from) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    bits = warp::exchange(bits, from);
    memcpy(&value, &bits, 4);
    return value;
}
static int within(int at, int width) { return (int)threadIdx.x % 32 / width * width + at; }
template <class T> static T __shfl_sync(unsigned, T value, int from, int width) { return exchanged(value, within(from, width)); }
template <class T> static T __shfl_xor_sync(unsigned, T value, int mask, int width) {
    return exchanged(value, within((int)threadIdx.x % width ^ mask, width));
}
template <class T> static T __shfl_down_sync(unsigned, T value, int by, int width) {
    int own = (int)threadIdx.x % width;
    return exchanged(value, within(own + by < width ? own + by : own, width));
}
static float __uint_as_float(uint32_t bits) { float value; memcpy(&value, &bits, 4); return value; }
static uint32_t __float_as_uint(float value) { uint32_t bits; memcpy(&bits, &value, 4); return bits; }
static int pairs(int pair, int bytes, int sum) {
    return sum + (int16_t)(pair & 0xffff) * (int8_t)(bytes & 0xff) + (int16_t)(pair >> 16) * (int8_t)(bytes >> 8 & 0xff);
}
static int pairs_lo(int pair, int bytes, int sum) { return pairs(pair, bytes, sum); }
static int pairs_hi(int pair, int bytes, int sum) { return pairs(pair, bytes >> 16, sum); }

#include "../src/kernels.cu"

template <class... A> struct Call {
    void (*kernel)(A...);
    void **arguments;
    template <size_t... I> void with(std::index_sequence<I...>) { kernel(*(A *)arguments[I]...); }
    static void enter(void *self) { ((Call *)self)->with(std::index_sequence_for<A...>{}); }
};

struct Kernel {
    void *code;
    void (*run)(void *code, unsigned first, void **arguments);
};
template <class... A> static Kernel of(void (*kernel)(A...)) {
    return {(void *)kernel, [](void *code, unsigned first, void **arguments) {
        Call<A...> call{(void (*)(A...))code, arguments};
        warp::run(first, Call<A...>::enter, &call);
    }};
}
#define KERNEL(name) {#name, of(name)}
#define KERNELS(name) KERNEL(name##_1), KERNEL(name##_4), KERNEL(name##_8), KERNEL(name##_many)
static std::map<std::string, Kernel> kernels = {
    KERNEL(normalise), KERNEL(integers), KERNEL(heads), KERNEL(scores), KERNEL(largest), KERNEL(weigh), KERNEL(shared), KERNEL(values), KERNEL(activate),
    KERNELS(product_f32), KERNELS(product_f16), KERNELS(product_bf16), KERNELS(product_int8),
};

// Memory of a small card, and what of it is taken.
static const size_t MEMORY = 256 << 20;
static std::mutex lock;
static std::map<void *, size_t> taken;
static size_t used() {
    size_t sum = 0;
    for (auto &one : taken) sum += one.second;
    return sum;
}
// Whether so many bytes lie within what was allocated.
static bool lies(uint64_t at, size_t bytes) {
    std::lock_guard<std::mutex> locked(lock);
    auto after = taken.upper_bound((void *)at);
    if (after == taken.begin()) return false;
    auto &one = *--after;
    return at + bytes <= (uint64_t)one.first + one.second;
}

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700 };

extern "C" {
int cuInit(unsigned) { return OK; }
int cuDriverGetVersion(int *version) { *version = 12010; return OK; }
int cuDeviceGetCount(int *count) { *count = 1; return OK; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return OK; }
int cuDeviceGetName(char *name, int length, int) { strncpy(name, "a processor", length); return OK; }
int cuDeviceGetAttribute(int *value, int, int) { *value = 6; return OK; }
int cuDevicePrimaryCtxRetain(void **context, int) { *context = &taken; return OK; }
int cuCtxSetCurrent(void *) { return OK; }
int cuStreamCreate(void **stream, unsigned) { *stream = &kernels; return OK; }
int cuStreamSynchronize(void *) { return OK; }
int cuMemGetInfo_v2(size_t *free, size_t *total) {
    std::lock_guard<std::mutex> locked(lock);
    *free = MEMORY - used(), *total = MEMORY;
    return OK;
}
int cuMemAlloc_v2(uint64_t *at, size_t bytes) {
    std::lock_guard<std::mutex> locked(lock);
    if (bytes == 0) return INVALID_VALUE;
    if (used() + bytes > MEMORY) return OUT_OF_MEMORY;
    void *memory = malloc(bytes);
    memset(memory, 0xff, bytes); // NaN, wherever somebody reads what nobody wrote.
    taken[memory] = bytes;
    *at = (uint64_t)memory;
    return OK;
}
int cuMemFree_v2(uint64_t at) {
    std::lock_guard<std::mutex> locked(lock);
    if (!taken.erase((void *)at)) return INVALID_VALUE;
    free((void *)at);
    return OK;
}
int cuMemsetD8Async(uint64_t at, unsigned char value, size_t bytes, void *) {
    if (!lies(at, bytes)) return ILLEGAL_ADDRESS;
    memset((void *)at, value, bytes);
    return OK;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *) {
    if (!lies(to, bytes)) return ILLEGAL_ADDRESS;
    memcpy((void *)to, from, bytes);
    return OK;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *) {
    if (!lies(from, bytes)) return ILLEGAL_ADDRESS;
    memcpy(to, (void *)from, bytes);
    return OK;
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *) {
    if (!lies(to, bytes) || !lies(from, bytes)) return ILLEGAL_ADDRESS;
    memcpy((void *)to, (void *)from, bytes);
    return OK;
}
int cuModuleLoadData(void **module, const void *image) {
    if (!strstr((const char *)image, ".target")) return INVALID_VALUE;
    *module = &kernels;
    return OK;
}
int cuModuleGetFunction(void **function, void *, const char *name) {
    auto found = kernels.find(name);
    if (found == kernels.end()) return NOT_FOUND;
    *function = &found->second;
    return OK;
}
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned, void *, void **arguments, void **) {
    if (!gx || !gy || !gz || gy > 65535 || gz > 65535 || bx % warp::THREADS || bx > 1024 || by != 1 || bz != 1) return INVALID_VALUE;
    // A card that fails does so for good, and leaves a file that says so.
    static const char *most = getenv("CARD_FAILS_AFTER"), *says = getenv("CARD_SAYS");
    static std::atomic<long> launches;
    if (most && ++launches > atol(most)) {
        if (FILE *file = says ? fopen(says, "w") : nullptr) fclose(file);
        return ILLEGAL_ADDRESS;
    }
    Kernel *kernel = (Kernel *)function;
    blockDim = {bx, by, bz};
    for (unsigned z = 0; z < gz; z++)
        for (unsigned y = 0; y < gy; y++)
            for (unsigned x = 0; x < gx; x++)
                for (unsigned first = 0; first < bx; first += warp::THREADS) {
                    blockIdx = {x, y, z};
                    threadIdx = {first, 0, 0};
                    kernel->run(kernel->code, first, arguments);
                }
    return OK;
}
int cuGetErrorName(int error, const char **name) {
    *name = error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : error == ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR_INVALID_VALUE";
    return OK;
}
}
