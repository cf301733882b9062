/* A library that answers like the CUDA driver, without a GPU: memory is the host's.  A launched kernel of the recorder,
   `convert`, writes its input's low 16 bits, counted up from `start`, to `out`, and one of `multiply` what it was given;
   any other does nothing, and a line on standard error says that it was launched.  It shows that calls arrive with the arguments they should have, those of
   analysis/gpu/driver.py and those that Numba makes for fpemu, and nothing about what a kernel computes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, OUT_OF_MEMORY = 2, INVALID_IMAGE = 200, INVALID_CONTEXT = 201, NOT_FOUND = 500 };
#define CONTEXT ((void *)0x1234)

int cuInit(unsigned flags) { return OK; }
int cuDriverGetVersion(int *version) { *version = 13020; return OK; }
int cuDeviceGetCount(int *count) { *count = 1; return OK; }
int cuDeviceGet(int *device, int number) { *device = number; return OK; }
int cuDeviceGetName(char *name, int size, int device) { snprintf(name, size, "Pretend GPU"); return OK; }
int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    /* Compute capability, major and minor; threads of a warp; all the rest in plenty. */
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : attribute == 10 ? 32 : 1024;
    return OK;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = CONTEXT; return OK; }
int cuCtxSetCurrent(void *context) { return context == CONTEXT ? OK : INVALID_CONTEXT; }
int cuCtxSynchronize(void) { return OK; }
int cuMemAlloc_v2(void **memory, size_t size) { *memory = malloc(size); return *memory ? OK : OUT_OF_MEMORY; }
int cuMemFree_v2(void *memory) { free(memory); return OK; }
int cuMemAllocHost_v2(void **memory, size_t size) { return getenv("PRETEND_NO_PINNED") ? OUT_OF_MEMORY : cuMemAlloc_v2(memory, size); }
int cuMemcpyDtoH_v2(void *host, void *memory, size_t size) { memcpy(host, memory, size); return OK; }
int cuMemcpyDtoDAsync_v2(void *target, void *source, size_t size, void *stream)
{
    memcpy(target, source, size);
    return OK;
}
int cuModuleLoadData(void **module, const void *image)
{
    *module = CONTEXT;
    return memcmp(image, "\177ELF", 4) ? INVALID_IMAGE : OK;
}
int cuModuleGetFunction(void **function, void *module, const char *name)
{
    *function = strdup(name);
    return strcmp(name, "convert") && strcmp(name, "multiply") ? NOT_FOUND : OK;
}
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **arguments, void **extra)
{
    if (!strcmp(function, "multiply")) {
        uint32_t *d = *(uint32_t **)arguments[3];
        for (int i = 0; i < 3; i++)
            d[i] = **(uint32_t **)arguments[i];
        d[3] = *(uint32_t *)arguments[4];
        d[4] = *(uint32_t *)arguments[5];
        d[5] = gx;
        d[6] = bx;
        return gy != 1 || gz != 1 || by != 1 || bz != 1 || shared || stream || extra ? NOT_FOUND : OK;
    }
    if (strcmp(function, "convert")) {
        fprintf(stderr, "launch %s, %u blocks of %u, stream %p\n", (char *)function, gx, bx, stream);
        return OK;
    }
    uint16_t *out = *(uint16_t **)arguments[0];
    uint32_t start = *(uint32_t *)arguments[1];
    uint64_t threads = *(uint64_t *)arguments[2];
    if (!gx || gy != 1 || gz != 1 || !bx || by != 1 || bz != 1 || shared || stream || extra)
        return NOT_FOUND;
    for (uint64_t i = 0; i < threads; i++)
        out[i] = (uint16_t)(start + i);
    return OK;
}
int cuEventCreate(void **event, unsigned flags) { *event = malloc(1); return OK; }
int cuEventRecord(void *event, void *stream) { return OK; }
int cuEventSynchronize(void *event) { return OK; }
int cuEventElapsedTime(float *milliseconds, void *start, void *end) { *milliseconds = 2.5f; return OK; }
int cuEventElapsedTime_v2(float *milliseconds, void *start, void *end) { *milliseconds = 2.5f; return OK; }
int cuEventDestroy_v2(void *event) { free(event); return OK; }

/* What Numba asks for beyond that. */
struct launch { unsigned gx, gy, gz, bx, by, bz, shared; void *stream, *attributes; unsigned count; };
int cuLaunchKernelEx(const struct launch *at, void *function, void **arguments, void **extra)
{
    return cuLaunchKernel(function, at->gx, at->gy, at->gz, at->bx, at->by, at->bz, at->shared, at->stream, arguments, extra);
}
int cuCtxGetCurrent(void **context) { *context = CONTEXT; return OK; }
int cuCtxPushCurrent_v2(void *context) { return OK; }
int cuCtxPopCurrent_v2(void **context) { *context = CONTEXT; return OK; }
int cuCtxGetDevice(int *device) { *device = 0; return OK; }
int cuCtxGetDevice_v2(int *device, void *context) { *device = 0; return OK; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { *flags = 0; *active = 1; return OK; }
int cuDevicePrimaryCtxSetFlags_v2(int device, unsigned flags) { return OK; }
int cuDevicePrimaryCtxRelease_v2(int device) { return OK; }
int cuDeviceGetUuid_v2(void *uuid, int device) { memset(uuid, 7, 16); return OK; }
int cuMemGetInfo_v2(size_t *free, size_t *total) { *free = *total = (size_t)1 << 33; return OK; }
int cuMemcpyHtoD_v2(void *to, const void *from, size_t size) { memcpy(to, from, size); return OK; }
int cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t size, void *stream) { memcpy(to, from, size); return OK; }
int cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t size, void *stream) { memcpy(to, from, size); return OK; }
int cuPointerGetAttribute(void *value, int attribute, void *pointer) { memset(value, 0, sizeof(int)); return OK; }
int cuStreamCreate(void **stream, unsigned flags) { *stream = (void *)0x77; return OK; }
int cuStreamDestroy_v2(void *stream) { return OK; }
int cuStreamSynchronize(void *stream) { return OK; }
int cuStreamGetCtx(void *stream, void **context) { *context = CONTEXT; return OK; }
int cuStreamGetFlags(void *stream, unsigned *flags) { *flags = 0; return OK; }
int cuStreamGetPriority(void *stream, int *priority) { *priority = 0; return OK; }
int cuLibraryLoadData(void **library, const void *image, void *a, void *b, unsigned n, void *c, void *d, unsigned m)
{
    *library = malloc(1);
    return memcmp(image, "\177ELF", 4) ? INVALID_IMAGE : OK;
}
int cuLibraryUnload(void *library) { return OK; }
int cuLibraryGetKernel(void **kernel, void *library, const char *name) { *kernel = strdup(name); return OK; }
int cuKernelGetFunction(void **function, void *kernel) { *function = kernel; return OK; }
int cuKernelGetAttribute(int *value, int attribute, void *kernel, int device) { *value = 0; return OK; }
int cuKernelGetLibrary(void **library, void *kernel) { *library = CONTEXT; return OK; }
int cuFuncGetAttribute(int *value, int attribute, void *function) { *value = 0; return OK; }

/* cuda-bindings asks for every function by name. */
int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, void *status)
{
    char newer[128];
    snprintf(newer, sizeof newer, "%s_v2", name);
    *function = strcmp(name, "cuGetProcAddress") ? dlsym(RTLD_DEFAULT, newer) : (void *)cuGetProcAddress_v2;
    if (!*function)
        *function = dlsym(RTLD_DEFAULT, name);
    if (status)
        *(int *)status = *function ? 0 : 1;
    return OK;
}
int cuGetProcAddress(const char *name, void **function, int version, uint64_t flags)
{
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
