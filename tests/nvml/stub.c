/* A stand-in for NVIDIA's libnvidia-ml.so.1, which plays the file named by NVML_STUB:
 *
 *   init CODE                              nvmlInit fails with that code
 *   gpu UUID TOTAL USED UTIL TEMP MILLIWATTS MAJOR MINOR
 *   process GPU PID BYTES                  BYTES - is "not available"
 *   mig GPU UUID TOTAL FREE
 *   fail GPU WHAT CODE                     WHAT: handle memory temperature power processes ...
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOT_SUPPORTED 3
#define NOT_FOUND 6
#define INSUFFICIENT_SIZE 7

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned gpu, memory; } rates_t;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } process_t;

static struct gpu {
    char uuid[96];
    unsigned long long total, used;
    unsigned util, temperature, power, major, minor;
} gpus[16];
static struct { int gpu; unsigned pid; unsigned long long bytes; } processes[64];
static struct { int gpu; char uuid[96]; unsigned long long total, free; } migs[64];
static struct { int gpu; char what[32]; int code; } faults[64];
static int gpu_count, process_count, mig_count, fault_count, init_code;

int nvmlInitWithFlags(unsigned flags) {
    char line[512], what[32], amount[32];
    FILE *file = fopen(getenv("NVML_STUB"), "r");
    gpu_count = process_count = mig_count = fault_count = init_code = 0;
    if (!file) return 999;
    while (fgets(line, sizeof line, file)) {
        struct gpu *g = &gpus[gpu_count];
        int gpu, code;
        unsigned pid;
        if (sscanf(line, "init %d", &init_code) == 1) continue;
        if (sscanf(line, "gpu %95s %llu %llu %u %u %u %u %u", g->uuid, &g->total, &g->used,
                   &g->util, &g->temperature, &g->power, &g->major, &g->minor) == 8) {
            gpu_count++;
        } else if (sscanf(line, "process %d %u %31s", &gpu, &pid, amount) == 3) {
            processes[process_count].gpu = gpu;
            processes[process_count].pid = pid;
            processes[process_count++].bytes =
                *amount == '-' ? 0xffffffffffffffffULL : strtoull(amount, NULL, 10);
        } else if (sscanf(line, "mig %d %95s %llu %llu", &migs[mig_count].gpu,
                          migs[mig_count].uuid, &migs[mig_count].total,
                          &migs[mig_count].free) == 4) {
            mig_count++;
        } else if (sscanf(line, "fail %d %31s %d", &gpu, what, &code) == 3) {
            faults[fault_count].gpu = gpu;
            strcpy(faults[fault_count].what, what);
            faults[fault_count++].code = code;
        }
    }
    fclose(file);
    return init_code;
}

/* A handle is the GPU's index plus 1, or for a MIG instance its row plus 1000. */
static long number(void *handle) { return (long)handle - 1; }
static int is_mig(void *handle) { return (long)handle >= 1000; }
static long row(void *handle) { return (long)handle - 1000; }

static int fault(void *handle, const char *what) {
    for (int i = 0; i < fault_count; i++)
        if (faults[i].gpu == number(handle) && !strcmp(faults[i].what, what)) return faults[i].code;
    return 0;
}

const char *nvmlErrorString(int code) { return code == 15 ? "GPU is lost" : "played"; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { snprintf(text, size, "550.54.15"); return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = gpu_count; return 0; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    *handle = (void *)(long)(index + 1);
    return fault(*handle, "handle");
}

int nvmlDeviceGetMemoryInfo(void *handle, memory_t *memory) {
    int code = fault(handle, "memory");
    if (code) return code;
    if (is_mig(handle)) {
        memory->total = migs[row(handle)].total;
        memory->free = migs[row(handle)].free;
    } else {
        memory->total = gpus[number(handle)].total;
        memory->free = memory->total - gpus[number(handle)].used;
    }
    memory->used = memory->total - memory->free;
    return 0;
}

int nvmlDeviceGetUUID(void *handle, char *text, unsigned size) {
    snprintf(text, size, "%s", is_mig(handle) ? migs[row(handle)].uuid : gpus[number(handle)].uuid);
    return 0;
}

int nvmlDeviceGetName(void *handle, char *text, unsigned size) {
    snprintf(text, size, "NVIDIA L4");
    return 0;
}

int nvmlDeviceGetUtilizationRates(void *handle, rates_t *rates) {
    rates->gpu = gpus[number(handle)].util;
    return fault(handle, "utilization");
}

int nvmlDeviceGetTemperature(void *handle, unsigned sensor, unsigned *celsius) {
    *celsius = gpus[number(handle)].temperature;
    return fault(handle, "temperature");
}

int nvmlDeviceGetPowerUsage(void *handle, unsigned *milliwatts) {
    *milliwatts = gpus[number(handle)].power;
    return fault(handle, "power");
}

int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
    *major = gpus[number(handle)].major;
    *minor = gpus[number(handle)].minor;
    return fault(handle, "capability");
}

static int list(void *handle, unsigned *count, process_t *found) {
    unsigned room = *count;
    *count = 0;
    for (int i = 0; i < process_count; i++) {
        if (processes[i].gpu != number(handle)) continue;
        if (found && *count < room) {
            memset(&found[*count], 0, sizeof *found);
            found[*count].pid = processes[i].pid;
            found[*count].used = processes[i].bytes;
        }
        ++*count;
    }
    return *count > room ? INSUFFICIENT_SIZE : 0;
}

#ifdef OLD_DRIVER
int nvmlDeviceGetComputeRunningProcesses_v2(void *handle, unsigned *count, process_t *found) {
    return list(handle, count, found);
}

int nvmlDeviceGetGraphicsRunningProcesses_v2(void *handle, unsigned *count, process_t *found) {
    *count = 0;
    return 0;
}
#else
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 12040; return 0; }

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, process_t *found) {
    int code = fault(handle, "processes");
    return code ? code : list(handle, count, found);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned *count, process_t *found) {
    *count = 0;
    return fault(handle, "processes");
}

int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
    *current = 0;
    for (int i = 0; i < mig_count; i++) *current |= migs[i].gpu == number(handle);
    *pending = *current;
    return *current ? 0 : NOT_SUPPORTED;
}

int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *count) { *count = 7; return 0; }

int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned index, void **found) {
    for (int i = 0; i < mig_count; i++)
        if (migs[i].gpu == number(handle) && index-- == 0) {
            *found = (void *)(long)(i + 1000);
            return 0;
        }
    return NOT_FOUND;
}
#endif
