/* A stand-in for NVIDIA's libnvidia-ml.so.1, which plays the file named by NVML_STUB:
 *
 *   init CODE                              nvmlInit fails with that code
 *   slow MILLISECONDS                      nvmlInit takes that long
 *   hang FILE                              asked for memory, it does not answer while that exists
 *   gpu UUID TOTAL USED UTIL TEMP MILLIWATTS MAJOR MINOR
 *   name GPU NAME                          instead of NVIDIA L4
 *   process GPU PID BYTES                  it computes; BYTES - is "not available"
 *   graphics GPU PID BYTES                 it draws
 *   mig GPU UUID TOTAL FREE
 *   link GPU GPU LEVEL                     between two: 0 (one board) to 50 (two processors), or
 *                                          99: NVLink
 *   fail GPU WHAT CODE                     WHAT: handle memory temperature power processes ...
 *   fail -1 WHAT CODE                      WHAT: count driver
 *
 * A line that is none of these ends the process: a test must not pass because of a typing error.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NOT_SUPPORTED 3
#define NOT_FOUND 6
#define INSUFFICIENT_SIZE 7

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned gpu, memory; } rates_t;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } process_t;

static struct gpu {
    char uuid[96], name[96];
    unsigned long long total, used;
    unsigned util, temperature, power, major, minor;
} gpus[16];
static struct { int gpu, draws; unsigned pid; unsigned long long bytes; } processes[64];
static struct { int gpu; char uuid[96]; unsigned long long total, free; } migs[64];
static struct { int gpu; char what[32]; int code; } faults[64];
static struct { int first, second, level; } links[64];
static int gpu_count, process_count, mig_count, link_count, fault_count, init_code;
static char hang_file[256];
int stub_inits; /* how often it was initialized, for tests to read */

static void give_up(const char *why, const char *line) {
    fprintf(stderr, "NVML stand-in: %s %s\n", why, line);
    abort();
}

static void check_room(int count, int room, const char *line) {
    if (count >= room) give_up("no room for", line);
}

static void read_line(const char *line) {
    char what[32], amount[32], text[96];
    unsigned long long total, used;
    unsigned util, temperature, power, major, minor, pid;
    int gpu, other, code;
    if (strspn(line, " \n") == strlen(line)) return;
    if (sscanf(line, "init %d", &init_code) == 1) return;
    if (sscanf(line, "hang %255s", hang_file) == 1) return;
    if (sscanf(line, "slow %d", &code) == 1) {
        usleep(1000 * code);
    } else if (sscanf(line, "gpu %95s %llu %llu %u %u %u %u %u", text, &total, &used, &util,
                      &temperature, &power, &major, &minor) == 8) {
        check_room(gpu_count, 16, line);
        struct gpu *g = &gpus[gpu_count++];
        *g = (struct gpu){"", "NVIDIA L4", total, used, util, temperature, power, major, minor};
        strcpy(g->uuid, text);
    } else if (sscanf(line, "name %d %95[^\n]", &gpu, text) == 2) {
        if (gpu < 0 || gpu >= gpu_count) give_up("no such GPU before", line);
        strcpy(gpus[gpu].name, text);
    } else if (sscanf(line, "process %d %u %31s", &gpu, &pid, amount) == 3 ||
               sscanf(line, "graphics %d %u %31s", &gpu, &pid, amount) == 3) {
        check_room(process_count, 64, line);
        processes[process_count].gpu = gpu;
        processes[process_count].draws = *line == 'g';
        processes[process_count].pid = pid;
        processes[process_count++].bytes =
            *amount == '-' ? 0xffffffffffffffffULL : strtoull(amount, NULL, 10);
    } else if (sscanf(line, "mig %d %95s %llu %llu", &gpu, text, &total, &used) == 4) {
        check_room(mig_count, 64, line);
        migs[mig_count].gpu = gpu;
        strcpy(migs[mig_count].uuid, text);
        migs[mig_count].total = total;
        migs[mig_count++].free = used;
    } else if (sscanf(line, "link %d %d %d", &gpu, &other, &code) == 3) {
        check_room(link_count, 64, line);
        links[link_count].first = gpu;
        links[link_count].second = other;
        links[link_count++].level = code;
    } else if (sscanf(line, "fail %d %31s %d", &gpu, what, &code) == 3) {
        check_room(fault_count, 64, line);
        faults[fault_count].gpu = gpu;
        strcpy(faults[fault_count].what, what);
        faults[fault_count++].code = code;
    } else {
        give_up("not understood:", line);
    }
}

int nvmlInitWithFlags(unsigned flags) {
    char line[512];
    const char *path = getenv("NVML_STUB");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) give_up("cannot read the file named by NVML_STUB:", path ? path : "it is not set");
    gpu_count = process_count = mig_count = link_count = fault_count = init_code = 0;
    while (fgets(line, sizeof line, file)) read_line(line);
    fclose(file);
    stub_inits++;
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

int nvmlSystemGetDriverVersion(char *text, unsigned size) {
    snprintf(text, size, "550.54.15");
    return fault(NULL, "driver");
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = gpu_count;
    return fault(NULL, "count");
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    *handle = (void *)(long)(index + 1);
    return fault(*handle, "handle");
}

int nvmlDeviceGetMemoryInfo(void *handle, memory_t *memory) {
    int code = fault(handle, "memory");
    while (*hang_file && !access(hang_file, F_OK)) usleep(20000);
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
    if (is_mig(handle))
        snprintf(text, size, "%s MIG 1g.6gb", gpus[migs[row(handle)].gpu].name);
    else
        snprintf(text, size, "%s", gpus[number(handle)].name);
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

int nvmlDeviceGetEnforcedPowerLimit(void *handle, unsigned *milliwatts) {
    *milliwatts = 72000;
    return fault(handle, "limit");
}

int nvmlDeviceGetClockInfo(void *handle, unsigned clock, unsigned *megahertz) {
    *megahertz = clock == 0 ? 2040 : 6251; /* 0: graphics */
    return fault(handle, "clocks");
}

static int level(void *first, void *second) {
    for (int i = 0; i < link_count; i++)
        if (links[i].first == number(first) && links[i].second == number(second)) return links[i].level;
    return -1;
}

int nvmlDeviceGetTopologyCommonAncestor(void *first, void *second, unsigned *found) {
    int there = level(first, second);
    *found = there;
    return there < 0 || there == 99 ? NOT_SUPPORTED : 0;
}

int nvmlDeviceGetP2PStatus(void *first, void *second, unsigned what, unsigned *status) {
    int there = level(first, second);
    *status = what == 2 && there == 99 ? 0 : 5; /* 2: NVLink; 5: not supported */
    return there < 0 ? NOT_SUPPORTED : 0;
}

int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
    *major = gpus[number(handle)].major;
    *minor = gpus[number(handle)].minor;
    return fault(handle, "capability");
}

static int list(void *handle, int draws, unsigned *count, process_t *found) {
    unsigned room = *count;
    *count = 0;
    for (int i = 0; i < process_count; i++) {
        if (processes[i].gpu != number(handle) || processes[i].draws != draws) continue;
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
    return list(handle, 0, count, found);
}

int nvmlDeviceGetGraphicsRunningProcesses_v2(void *handle, unsigned *count, process_t *found) {
    return list(handle, 1, count, found);
}
#else
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 12040; return 0; }

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, process_t *found) {
    int code = fault(handle, "processes");
    return code ? code : list(handle, 0, count, found);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned *count, process_t *found) {
    int code = fault(handle, "processes");
    return code ? code : list(handle, 1, count, found);
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
